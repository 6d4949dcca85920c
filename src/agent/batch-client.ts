import { parseHref, serverError } from '../access/client.ts'
import type { Operation } from '../access/credentials.ts'
import type { HttpSend } from '../access/http-client.ts'
import type { Retrier } from '../access/retry.ts'
import { isTimoneError, TimoneError } from '../errors.ts'
import type { Logger } from '../log.ts'
import type { Oid } from '../oid.ts'
import { type LfsApi, postLfs } from './lfs-api.ts'
import type { Action } from './protocol.ts'

/** One object as the Batch API is asked for it. */
export interface WantedObject {
  oid: Oid
  /** Bytes. */
  size: number
}

/** What the server says about one object. */
export type BatchVerdict =
  /** Move it, by timone's own transfer; without an action, where standalone mode says. */
  | { kind: 'move'; action: Action | null; verify: Action | undefined }
  /** Move it, by a transfer that timone leaves to git-lfs. */
  | { kind: 'foreign'; transfer: string }
  /** Nothing to do: an upload of what the server has. */
  | { kind: 'present' }
  | { kind: 'failed'; error: TimoneError }

export interface BatchClientOptions {
  api: LfsApi
  operation: Operation
  /** Full name of the ref that is pushed or checked out; undefined where there is none. */
  ref: string | undefined
}

/** What any LFS server takes in one request; git-lfs sends as many. */
const FEWEST = 100

/** Asks the Batch API (git-lfs docs/api/batch.md) what is to be done with objects. */
export class BatchClient {
  readonly #options: BatchClientOptions
  #most = Number.POSITIVE_INFINITY

  constructor(options: BatchClientOptions) {
    this.#options = options
  }

  /**
   * The server's word on each of `objects`, in their order; in several requests where it does not take so many.
   * @throws {TimoneError} what fails them all; what fails one of them is its verdict
   */
  async ask(objects: readonly WantedObject[], signal: AbortSignal): Promise<BatchVerdict[]> {
    if (objects.length > this.#most) {
      const verdicts: BatchVerdict[] = []
      // Held fast: it may fall on the way.
      const step = this.#most
      for (let at = 0; at < objects.length; at += step) {
        verdicts.push(...(await this.ask(objects.slice(at, at + step), signal)))
      }
      return verdicts
    }
    const { api, operation, ref } = this.#options
    const request = {
      operation,
      transfers: ['timone', 'basic'],
      ...(ref === undefined ? {} : { ref: { name: ref } }),
      objects: objects.map(({ oid, size }) => ({ oid, size })),
      hash_algo: 'sha256',
    }
    try {
      return readAnswer(await api.post('objects/batch', request, signal), objects, operation, api.host)
    } catch (error) {
      const tooMany =
        isTimoneError(error, 'too_large') || (isTimoneError(error, 'invalid') && error.status === 422)
      if (!tooMany || objects.length <= 1) throw error
      if (!isTimoneError(error, 'too_large') && objects.length <= FEWEST) throw error
      this.#most = Math.ceil(objects.length / 2)
      return this.ask(objects, signal)
    }
  }
}

function readAnswer(
  answer: unknown,
  objects: readonly WantedObject[],
  operation: Operation,
  host: string,
): BatchVerdict[] {
  const { transfer = 'basic', objects: list, hash_algo: hash } = (answer ?? {}) as Record<string, unknown>
  if (!Array.isArray(list) || typeof transfer !== 'string') {
    throw new TimoneError(
      'invalid',
      `${host} answered the Batch request with another shape than LFS servers do`,
      { host },
    )
  }
  if (typeof hash === 'string' && hash !== 'sha256') {
    throw new TimoneError(
      'invalid',
      `${host} names objects by ${hash.slice(0, 20)}: timone knows sha256 only`,
      { host },
    )
  }
  const said = new Map<string, Record<string, unknown>>()
  for (const one of list) {
    const { oid } = (one ?? {}) as { oid?: unknown }
    if (typeof oid === 'string') said.set(oid, one as Record<string, unknown>)
  }
  return objects.map(({ oid }) => {
    const one = said.get(oid)
    if (one === undefined) {
      return {
        kind: 'failed',
        error: new TimoneError('invalid', `${host} left the object out of its answer: try again`, { host }),
      }
    }
    return readVerdict(one, transfer, operation, host)
  })
}

function readVerdict(
  one: Record<string, unknown>,
  transfer: string,
  operation: Operation,
  host: string,
): BatchVerdict {
  const { error, actions } = one as {
    error?: { code?: unknown; message?: unknown }
    actions?: Record<string, unknown>
  }
  if (typeof error === 'object' && error !== null)
    return { kind: 'failed', error: objectError(error, operation, host) }
  const action = readAction(actions?.[operation])
  if (action === undefined) {
    if (operation === 'upload') return { kind: 'present' }
    return {
      kind: 'failed',
      error: new TimoneError(
        'not_found',
        `${host} gives no way to fetch the object: push it again from a clone that has it`,
        { host },
      ),
    }
  }
  if (transfer !== 'timone') return { kind: 'foreign', transfer }
  return { kind: 'move', action, verify: readAction(actions?.verify) }
}

function readAction(value: unknown): Action | undefined {
  const { href, header } = (value ?? {}) as { href?: unknown; header?: unknown }
  if (typeof href !== 'string') return undefined
  const action: Action = { href, header: {} }
  for (const [name, text] of Object.entries(header ?? {})) {
    if (typeof text === 'string') action.header[name] = text
  }
  return action
}

function objectError(
  error: { code?: unknown; message?: unknown },
  operation: Operation,
  host: string,
): TimoneError {
  const status = typeof error.code === 'number' ? error.code : 0
  const said = typeof error.message === 'string' ? `: ${error.message.slice(0, 300)}` : ''
  const details = { host, status }
  if (status === 404 || status === 410) {
    return new TimoneError(
      'not_found',
      operation === 'download'
        ? `${host} does not have the object${said}: push it from a clone that has it (timone push --all)`
        : `${host} does not know the object${said}`,
      details,
    )
  }
  const code = status === 403 ? 'forbidden' : status === 409 ? 'conflict' : 'invalid'
  return new TimoneError(code, `${host} refuses the object (${status})${said}`, details)
}

/**
 * Asks the server to check an uploaded object, where it wants to be asked (git-lfs docs/api/basic-transfers.md).
 * @throws {TimoneError} `not_found` or `invalid` when the object did not arrive as it should
 */
export async function verifyUpload(
  object: WantedObject,
  action: Action,
  options: { send: HttpSend; retrier: Retrier; log: Logger },
  signal: AbortSignal,
): Promise<void> {
  const url = parseHref(action.href)
  const text = JSON.stringify({ oid: object.oid, size: object.size })
  await options.retrier.run(
    url.host,
    async () => {
      const { status, headers, body } = await postLfs(options.send, url, action.header, text, signal)
      if (status < 200 || status > 299) throw serverError({ status, headers }, body, url)
    },
    {
      signal,
      onRetry: (error, delay) =>
        options.log.warn({ oid: object.oid, host: url.host, delay, code: error.code }, error.message),
    },
  )
}
