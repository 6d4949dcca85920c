import Ajv from 'ajv-draft-04'

/** git-lfs `docs/api/schemas/http-batch-response-schema.json`, with what `docs/api/batch.md` has beyond it. */
const action = {
  type: 'object',
  properties: {
    href: { type: 'string' },
    header: { type: 'object', additionalProperties: { type: 'string' } },
    // Go's int: a fraction, or a string, makes git-lfs refuse the whole answer.
    expires_in: { type: 'integer', minimum: 1, maximum: 2147483647 },
  },
  required: ['href'],
  additionalProperties: false,
}

const answer = {
  type: 'object',
  properties: {
    transfer: { enum: ['basic', 'timone'] },
    hash_algo: { enum: ['sha256'] },
    objects: {
      type: 'array',
      items: {
        type: 'object',
        properties: {
          oid: { type: 'string' },
          size: { type: 'integer', minimum: 0 },
          authenticated: { enum: [true] },
          actions: {
            type: 'object',
            minProperties: 1,
            properties: { download: action, upload: action, verify: action },
            additionalProperties: false,
          },
          error: {
            type: 'object',
            properties: { code: { type: 'integer' }, message: { type: 'string' } },
            required: ['code', 'message'],
            additionalProperties: false,
          },
        },
        required: ['oid', 'size', 'authenticated'],
        additionalProperties: false,
      },
    },
  },
  required: ['objects', 'transfer'],
  additionalProperties: false,
}

/** `docs/api/batch.md`, "Response Errors". */
const failure = {
  type: 'object',
  properties: {
    message: { type: 'string', minLength: 1 },
    request_id: { type: 'string', minLength: 1 },
    documentation_url: { type: 'string' },
    code: { type: 'string' },
  },
  required: ['message', 'request_id'],
  additionalProperties: false,
}

const ajv = new Ajv.default({ allErrors: true })
const checkAnswer = ajv.compile(answer)
const checkFailure = ajv.compile(failure)

/** What is wrong with a Batch answer; empty when nothing is. */
export function batchFaults(value: unknown): string[] {
  checkAnswer(value)
  return (checkAnswer.errors ?? []).map((error) => `${error.instancePath} ${error.message}`)
}

/** What is wrong with the body of an error answer. */
export function failureFaults(value: unknown): string[] {
  checkFailure(value)
  return (checkFailure.errors ?? []).map((error) => `${error.instancePath} ${error.message}`)
}
