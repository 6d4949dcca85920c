import { createHash, createHmac } from 'node:crypto'
import { SignatureV4 } from '@smithy/signature-v4'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import {
  EMPTY_SHA256,
  encodeKey,
  encodeRfc3986,
  presign,
  type SigningContext,
  signHeaders,
  UNSIGNED_PAYLOAD,
} from '../../src/storage/sigv4.ts'

/**
 * The examples of the Amazon S3 API reference: "Signature Calculations for the Authorization Header: Transferring
 * Payload in a Single Chunk" and "Authenticating Requests: Using Query Parameters".
 */
describe('the examples that AWS publishes', () => {
  const context: SigningContext = {
    keys: {
      accessKeyId: 'AKIAIOSFODNN7EXAMPLE',
      secretAccessKey: 'wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY',
    },
    region: 'us-east-1',
    date: new Date('2013-05-24T00:00:00Z'),
  }
  const host = 'https://examplebucket.s3.amazonaws.com'
  const credential = 'AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request, '

  test('GET object with a range', () => {
    const signed = signHeaders(
      'GET',
      new URL(`${host}/test.txt`),
      { Range: 'bytes=0-9' },
      EMPTY_SHA256,
      context,
    )
    expect(signed.authorization).toBe(
      `${credential}SignedHeaders=host;range;x-amz-content-sha256;x-amz-date, ` +
        'Signature=f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41',
    )
  })

  test('PUT object', () => {
    const payload = createHash('sha256').update('Welcome to Amazon S3.').digest('hex')
    const url = new URL(`${host}/${encodeKey('test$file.text')}`)
    const headers = { Date: 'Fri, 24 May 2013 00:00:00 GMT', 'x-amz-storage-class': 'REDUCED_REDUNDANCY' }
    expect(signHeaders('PUT', url, headers, payload, context).authorization).toBe(
      `${credential}SignedHeaders=date;host;x-amz-content-sha256;x-amz-date;x-amz-storage-class, ` +
        'Signature=98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd',
    )
  })

  test.each([
    [
      'GET bucket lifecycle',
      '/?lifecycle',
      'fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543',
    ],
    [
      'list objects',
      '/?max-keys=2&prefix=J',
      '34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7',
    ],
  ])('%s', (_, path, signature) => {
    expect(signHeaders('GET', new URL(`${host}${path}`), {}, EMPTY_SHA256, context).authorization).toBe(
      `${credential}SignedHeaders=host;x-amz-content-sha256;x-amz-date, Signature=${signature}`,
    )
  })

  test('presigned GET', () => {
    expect(presign('GET', new URL(`${host}/test.txt`), {}, 86_400, context)).toBe(
      `${host}/test.txt?X-Amz-Algorithm=AWS4-HMAC-SHA256` +
        '&X-Amz-Credential=AKIAIOSFODNN7EXAMPLE%2F20130524%2Fus-east-1%2Fs3%2Faws4_request' +
        '&X-Amz-Date=20130524T000000Z&X-Amz-Expires=86400&X-Amz-SignedHeaders=host' +
        '&X-Amz-Signature=aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404',
    )
  })
})

/** What the oracle asks of a hash. */
class Sha256 {
  readonly #hash
  constructor(secret?: string | ArrayBuffer | ArrayBufferView) {
    this.#hash = secret === undefined ? createHash('sha256') : createHmac('sha256', bytesOf(secret))
  }
  update(data: string | ArrayBuffer | ArrayBufferView): void {
    this.#hash.update(bytesOf(data))
  }
  async digest(): Promise<Uint8Array> {
    return this.#hash.digest()
  }
  reset(): void {
    throw new Error('not needed for signing')
  }
}

function bytesOf(data: string | ArrayBuffer | ArrayBufferView): Buffer {
  if (typeof data === 'string') return Buffer.from(data)
  if (ArrayBuffer.isView(data)) return Buffer.from(data.buffer, data.byteOffset, data.byteLength)
  return Buffer.from(data)
}

describe('against the signer of the AWS SDK', () => {
  interface Case {
    method: string
    endpoint: string
    key: string
    query: Record<string, string>
    headers: Record<string, string>
    payload: string
    context: SigningContext
  }
  const urlOf = ({ endpoint, key, query }: Case): URL => {
    const url = new URL(`${endpoint}/${encodeKey(key)}`)
    for (const [name, value] of Object.entries(query)) url.searchParams.set(name, value)
    return url
  }
  const oracle = ({ context }: Case) =>
    new SignatureV4({
      service: context.service ?? 's3',
      region: context.region,
      credentials: {
        accessKeyId: context.keys.accessKeyId,
        secretAccessKey: context.keys.secretAccessKey,
        ...(context.keys.sessionToken === undefined ? {} : { sessionToken: context.keys.sessionToken }),
      },
      sha256: Sha256,
      uriEscapePath: false,
    })
  const requestOf = (given: Case) => {
    const url = urlOf(given)
    return {
      method: given.method,
      protocol: url.protocol,
      hostname: url.hostname,
      path: url.pathname,
      query: { ...given.query },
      headers: { ...given.headers, host: url.host },
    }
  }
  const signatureIn = (text: string | undefined): string | undefined => /[0-9a-f]{64}$/.exec(text ?? '')?.[0]

  async function expectSameHeaders(given: Case): Promise<void> {
    const request = requestOf(given)
    const theirs = await oracle(given).sign(
      { ...request, headers: { ...request.headers, 'x-amz-content-sha256': given.payload } },
      { signingDate: given.context.date },
    )
    const ours = signHeaders(given.method, urlOf(given), given.headers, given.payload, given.context)
    expect(ours.authorization).toBe(theirs.headers.authorization)
    expect(ours['x-amz-date']).toBe(theirs.headers['x-amz-date'])
    expect(ours['x-amz-security-token']).toBe(theirs.headers['x-amz-security-token'])
  }

  async function expectSameUrl(given: Case, expiresIn = 900): Promise<void> {
    const pinned = given.payload === UNSIGNED_PAYLOAD ? {} : { 'x-amz-content-sha256': given.payload }
    const request = requestOf(given)
    const theirs = await oracle(given).presign(
      // The oracle hashes an empty body unless it is told that the body is not signed.
      { ...request, headers: { ...request.headers, 'x-amz-content-sha256': given.payload } },
      {
        signingDate: given.context.date,
        expiresIn,
        unhoistableHeaders: new Set(['x-amz-content-sha256', ...Object.keys(given.headers)]),
        ...(given.payload === UNSIGNED_PAYLOAD
          ? { unsignableHeaders: new Set(['x-amz-content-sha256']) }
          : {}),
      },
    )
    const ours = new URL(
      presign(given.method, urlOf(given), { ...given.headers, ...pinned }, expiresIn, given.context),
    )
    expect(Object.fromEntries(ours.searchParams)).toEqual(theirs.query)
    expect(signatureIn(ours.href)).toBe(theirs.query?.['X-Amz-Signature'])
    expect(ours.pathname).toBe(theirs.path)
  }

  const base: Case = {
    method: 'GET',
    endpoint: 'https://bucket.s3.eu-west-1.amazonaws.com',
    key: 'org/repo/ab/cd/abcd',
    query: {},
    headers: {},
    payload: EMPTY_SHA256,
    context: {
      keys: { accessKeyId: 'AKID', secretAccessKey: 'secret/with+odd=characters' },
      region: 'eu-west-1',
      date: new Date('2026-11-22T10:15:00.123Z'),
    },
  }
  const session = {
    ...base.context,
    keys: { ...base.context.keys, sessionToken: 'FwoGZXIvYXdzE//////////wEa+DBW3Q==/+=&?%20 é' },
  }
  const pinned = 'ab'.repeat(32)

  const cases: [string, Partial<Case>][] = [
    ['plain', {}],
    ['session token', { context: session }],
    ['port and path style', { endpoint: 'http://127.0.0.1:8000/bucket' }],
    ['default port written out', { endpoint: 'https://s3.example:443/bucket' }],
    ['space in the key', { key: 'a b/c  d' }],
    ['plus in the key', { key: 'a+b' }],
    ['percent in the key', { key: '100%/%20/%2F' }],
    ['unicode in the key', { key: 'Grüße/日本語/👋🏽.bin' }],
    ["!'()* in the key", { key: "it's (a) *star*!" }],
    ['reserved characters in the key', { key: 'a$b&c=d;e:f@g,h?i#j[k]l' }],
    ['unreserved characters in the key', { key: 'a-b_c.d~e' }],
    ['a backslash, a pipe and a caret in the key', { key: 'a\\b|c^d`e{f}g"h<i>' }],
    [
      'part of an upload',
      { method: 'PUT', query: { partNumber: '12', uploadId: '2~AbC.d_e-f/+=' }, payload: pinned },
    ],
    ['query without a value', { method: 'POST', query: { uploads: '' } }],
    [
      'query with odd characters',
      { query: { prefix: "a b+c/(d)*'!é", 'x-id': 'ListObjects', delimiter: '/' } },
    ],
    ['query names in need of sorting', { query: { b: '1', a: '2', B: '3', 'a-b': '4', a1: '5', A: '6' } }],
    ['range', { headers: { range: 'bytes=0-1023' } }],
    ['conditional create', { method: 'PUT', headers: { 'if-none-match': '*' }, payload: pinned }],
    ['spaces in a header', { headers: { 'x-amz-meta-note': '  two  spaces   here ' } }],
    ['session token and query', { context: session, query: { 'list-type': '2', prefix: 'org/repo/' } }],
    ['unsigned payload', { method: 'PUT', payload: UNSIGNED_PAYLOAD }],
    ['another service', { context: { ...session, service: 'sts' }, method: 'POST', key: '' }],
    ['no milliseconds', { context: { ...base.context, date: new Date('2026-01-02T03:04:05Z') } }],
  ]

  test.each(cases)('headers: %s', (_, change) => expectSameHeaders({ ...base, ...change }))

  test.each(cases)('URL: %s', (_, change) => expectSameUrl({ ...base, payload: UNSIGNED_PAYLOAD, ...change }))

  test('any key, any query', async () => {
    const text = fc.string({ unit: 'binary', minLength: 1, maxLength: 12 })
    // A dot segment would be resolved by URL; no key of ours has one.
    const key = fc.array(text, { minLength: 1, maxLength: 3 }).map((parts) => `k${parts.join('/k')}`)
    const name = fc.stringMatching(/^[a-z][a-zA-Z0-9 +*'()!é-]{0,8}$/)
    const query = fc.dictionary(name, text, { maxKeys: 4, noNullPrototype: true })
    await fc.assert(
      fc.asyncProperty(key, query, fc.boolean(), async (key, query, temporary) => {
        const given = { ...base, key, query, ...(temporary ? { context: session } : {}) }
        await expectSameHeaders(given)
        await expectSameUrl({ ...given, payload: UNSIGNED_PAYLOAD })
      }),
      { numRuns: 200 },
    )
  })

  test('the name of a header may be written in any case', () => {
    const url = urlOf(base)
    const lower = presign('PUT', url, { 'x-amz-content-sha256': pinned }, 60, base.context)
    expect(presign('PUT', url, { 'X-Amz-Content-Sha256': pinned }, 60, base.context)).toBe(lower)
    const signed = signHeaders('PUT', url, { 'If-None-Match': '*' }, pinned, base.context)
    expect(signed).toEqual(signHeaders('PUT', url, { 'if-none-match': '*' }, pinned, base.context))
  })

  test('a presigned URL is sent as it was signed: no plus for a space', () => {
    const given = { ...base, key: 'a b', query: { prefix: 'c d' } }
    const href = presign('GET', urlOf(given), {}, 60, base.context)
    expect(href).toContain('/a%20b?')
    expect(href).toContain('prefix=c%20d')
    expect(href).not.toContain('+')
  })

  test('the URL that was given is left alone', () => {
    const url = urlOf({ ...base, query: { partNumber: '1' } })
    const before = url.href
    presign('GET', url, {}, 60, session)
    signHeaders('GET', url, {}, EMPTY_SHA256, session)
    expect(url.href).toBe(before)
  })

  test('a presigned URL of the same moment is the same, of another it is not', () => {
    const at = (date: Date) => presign('GET', urlOf(base), {}, 60, { ...base.context, date })
    expect(at(new Date(1_000_000))).toBe(at(new Date(1_000_000)))
    expect(at(new Date(1_000_000))).not.toBe(at(new Date(1_001_000)))
  })
})

describe('encoding', () => {
  test('leaves unreserved characters and slashes of keys only', () => {
    const unreserved = 'ABCXYZabcxyz0189-_.~'
    expect(encodeKey(`${unreserved}/x`)).toBe(`${unreserved}/x`)
    expect(encodeRfc3986(`${unreserved}/x`)).toBe(`${unreserved}%2Fx`)
  })

  test('writes hexadecimal digits in upper case', () => {
    expect(encodeRfc3986("!'()* é")).toBe('%21%27%28%29%2A%20%C3%A9')
  })
})
