import { isTimoneError, TimoneError } from '../errors.ts'
import type { Logger } from '../log.ts'
import type { CredentialsAnswer, Operation, Renewal } from './credentials.ts'
import { type HttpSend, readText, retryAfter } from './http-client.ts'
import type { Retrier } from './retry.ts'

/** An action as Batch gave it: where the credentials are, and the token that opens them. */
export interface CredentialsAction {
  href: string
  header: Record<string, string>
}

/** Storage credentials that know how long they last on this machine's clock. */
export interface HeldCredentials {
  answer: CredentialsAnswer
  /** Milliseconds since the epoch, by this machine's clock, whatever the server's says. */
  expiresAt: number
  /** Server's clock minus ours, milliseconds: what to add when signing. */
  clockOffset: number
}

/** Credentials are renewed when less than this share of their life is left, so that no request is sent with dead ones. */
const RENEW_SHARE = 0.2
const REQUEST_TIMEOUT = 30_000

/**
 * Exchanges an action's JWT for storage credentials, once for each repository and direction, and renews them before
 * they expire: one request at a time, however many transfers wait for it.
 */
export class CredentialsClient {
  readonly #send: HttpSend
  readonly #retrier: Retrier
  readonly #log: Logger
  readonly #now: () => number
  readonly #held = new Map<string, HeldCredentials & { renewAt: number; renewal: Renewal | undefined }>()
  readonly #pending = new Map<string, Promise<HeldCredentials>>()

  constructor(options: { send: HttpSend; retrier: Retrier; log: Logger; now?: () => number }) {
    this.#send = options.send
    this.#retrier = options.retrier
    this.#log = options.log
    this.#now = options.now ?? Date.now
  }

  /**
   * Credentials for `operation` behind `action`. `stale` are credentials that the store refused: they are never given
   * back.
   * @throws `unauthorized` when the token is no longer good, `forbidden`, `not_found`, or what the network did.
   */
  async get(
    action: CredentialsAction,
    operation: Operation,
    options: { stale?: HeldCredentials | undefined; signal?: AbortSignal | undefined } = {},
  ): Promise<HeldCredentials> {
    // The token is no part of the key: each batch brings a new one for the same credentials.
    const key = JSON.stringify([action.href, operation])
    const held = this.#held.get(key)
    if (held !== undefined && held !== options.stale && held.renewAt > this.#now()) return held
    const pending = this.#pending.get(key)
    if (pending !== undefined) {
      try {
        return await pending
      } catch (error) {
        // Whoever asked first has gone; that is not the fault of those who wait with him.
        if (!isTimoneError(error, 'cancelled') || options.signal?.aborted === true) throw error
        return this.get(action, operation, options)
      }
    }
    const fetching = this.#renew(key, action, operation, held?.renewal, options.signal).finally(() =>
      this.#pending.delete(key),
    )
    this.#pending.set(key, fetching)
    return fetching
  }

  async #renew(
    key: string,
    action: CredentialsAction,
    operation: Operation,
    renewal: Renewal | undefined,
    signal: AbortSignal | undefined,
  ): Promise<HeldCredentials> {
    if (renewal !== undefined && sameOrigin(renewal.href, action.href)) {
      try {
        return await this.#fetch(
          key,
          renewal.href,
          { Authorization: `Bearer ${renewal.token}` },
          operation,
          signal,
        )
      } catch (error) {
        // A later batch's token may still be good where the renewal is not.
        if (!isTimoneError(error, 'unauthorized', 'forbidden')) throw error
        this.#log.warn({ code: error.code }, 'renewal refused, trying the token of the action')
      }
    }
    return this.#fetch(key, action.href, action.header, operation, signal)
  }

  async #fetch(
    key: string,
    href: string,
    header: Record<string, string>,
    operation: Operation,
    signal: AbortSignal | undefined,
  ): Promise<HeldCredentials> {
    const url = parseHref(href)
    const { answer, serverTime } = await this.#retrier.run(
      url.host,
      () => postJson(this.#send, url, header, { operation }, signal),
      {
        signal,
        onRetry: (error, delay) => this.#log.warn({ host: url.host, delay, code: error.code }, error.message),
      },
    )
    const credentials = checkCredentials(answer, url)
    const now = this.#now()
    const clockOffset = serverTime === undefined ? 0 : serverTime - now
    const expiresAt = Date.parse(credentials.expires_at) - clockOffset
    const held = {
      answer: credentials,
      expiresAt,
      clockOffset,
      renewAt: expiresAt - (expiresAt - now) * RENEW_SHARE,
      renewal: credentials.renew,
    }
    this.#held.set(key, held)
    this.#log.info(
      {
        host: url.host,
        driver: credentials.driver,
        operation,
        seconds: Math.round((expiresAt - now) / 1000),
      },
      'got storage credentials',
    )
    return held
  }
}

/** One POST of JSON to the server; its answer and, from the `Date` header, its clock (milliseconds since the epoch). */
export async function postJson(
  send: HttpSend,
  url: URL,
  header: Record<string, string>,
  body: unknown,
  signal: AbortSignal | undefined,
  idleTimeout: number = REQUEST_TIMEOUT,
): Promise<{ answer: unknown; serverTime: number | undefined }> {
  const text = JSON.stringify(body)
  const response = await send({
    method: 'POST',
    url,
    headers: {
      ...header,
      accept: 'application/json',
      'content-type': 'application/json',
      'content-length': String(Buffer.byteLength(text)),
    },
    body: text,
    idleTimeout,
    ...(signal === undefined ? {} : { signal }),
  })
  const answerText = await readText(response, 64 * 2 ** 20)
  if (response.status < 200 || response.status > 299) throw serverError(response, answerText, url)
  const date = Date.parse(response.headers.date ?? '')
  try {
    return { answer: JSON.parse(answerText), serverTime: Number.isNaN(date) ? undefined : date }
  } catch {
    throw new TimoneError(
      'invalid',
      `${url.host} answered something that is not JSON: is this a timone server?`,
      {
        host: url.host,
        status: response.status,
      },
    )
  }
}

/** A server's refusal in words, with the code that callers ask for. `text` is the body of its answer. */
export function serverError(
  response: { status: number; headers: Record<string, unknown> },
  text: string,
  url: URL,
): TimoneError {
  const { status } = response
  let said = ''
  let code: unknown
  let requestId: string | undefined
  try {
    const json = JSON.parse(text) as { message?: unknown; code?: unknown; request_id?: unknown }
    if (typeof json.message === 'string') said = `: ${json.message.slice(0, 300)}`
    code = json.code
    if (typeof json.request_id === 'string') requestId = json.request_id
  } catch {
    // Not our server's words (a proxy's page, perhaps): the status alone must do.
  }
  const wait = retryAfter(response.headers as Record<string, string>)
  const details = {
    status,
    host: url.host,
    ...(wait === undefined ? {} : { retryAfter: wait }),
    ...(requestId === undefined ? {} : { requestId }),
  }
  const trace = requestId === undefined ? '' : ` (request ${requestId})`
  if (status === 401) {
    return new TimoneError(
      'unauthorized',
      `${url.host} no longer accepts the token of this transfer${said}: sign in again and repeat the command${trace}`,
      details,
    )
  }
  if (status === 403) return new TimoneError('forbidden', `${url.host} refused${said}${trace}`, details)
  if (status >= 300 && status < 400) {
    return new TimoneError(
      'config',
      `${url.host} redirects elsewhere (${status}), which is not followed, since the token is for this host only: set lfs.url to the server's own address${trace}`,
      details,
    )
  }
  if (status === 404) {
    return new TimoneError(
      code === 'no_such_upload' ? 'no_such_upload' : 'not_found',
      `${url.host} answered 404${said}${trace}`,
      details,
    )
  }
  if (status === 409) return new TimoneError('conflict', `${url.host} answered 409${said}${trace}`, details)
  if (status === 413) return new TimoneError('too_large', `${url.host} answered 413${said}${trace}`, details)
  if (status === 422) {
    const reason = code === 'hash_mismatch' || code === 'size_mismatch' ? code : 'invalid'
    return new TimoneError(reason, `${url.host} answered 422${said}${trace}`, details)
  }
  if (status === 429) return new TimoneError('throttled', `${url.host} is busy (429)${said}${trace}`, details)
  if (status === 507)
    return new TimoneError('disk_full', `${url.host} has no room (507)${said}${trace}`, details)
  if (status >= 500 || status === 408) {
    return new TimoneError('unavailable', `${url.host} answered ${status}${said}${trace}`, details)
  }
  return new TimoneError('invalid', `${url.host} answered ${status}${said}${trace}`, details)
}

function sameOrigin(a: string, b: string): boolean {
  return URL.canParse(a) && URL.canParse(b) && new URL(a).origin === new URL(b).origin
}

/** @throws `invalid` unless `href` is an absolute http or https URL. */
export function parseHref(href: string): URL {
  if (isHref(href)) return new URL(href)
  throw new TimoneError('invalid', 'the server gave an action without a usable URL: is it a timone server?')
}

const isHref = (href: unknown): boolean =>
  isText(href) && URL.canParse(href) && /^https?:$/.test(new URL(href).protocol)

const isText = (value: unknown): value is string => typeof value === 'string' && value !== ''

function checkCredentials(value: unknown, url: URL): CredentialsAnswer {
  const answer = value as CredentialsAnswer
  const bad = (what: string): TimoneError =>
    new TimoneError('invalid', `${url.host} answered storage credentials with a bad ${what}`, {
      host: url.host,
    })
  if (typeof answer !== 'object' || answer === null) throw bad('shape')
  if (!isTime(answer.expires_at)) throw bad('expires_at')
  const { renew } = answer
  if (renew !== undefined && (typeof renew !== 'object' || renew === null || !isText(renew.token)))
    throw bad('renew')
  if (answer.driver === 's3') {
    for (const name of [
      'endpoint',
      'region',
      'bucket',
      'prefix',
      'access_key_id',
      'secret_access_key',
      'session_token',
    ] as const) {
      if (!isText(answer[name])) throw bad(name)
    }
    if (typeof answer.force_path_style !== 'boolean') throw bad('force_path_style')
    if (!isHref(answer.endpoint)) throw bad('endpoint')
    if (!answer.prefix.endsWith('/')) throw bad('prefix')
    return answer
  }
  if (answer.driver === 'url') {
    if (!isText(answer.token)) throw bad('token')
    if (!isHref(answer.transfers)) throw bad('transfers')
    return answer
  }
  throw bad('driver')
}

function isTime(value: unknown): boolean {
  return isText(value) && !Number.isNaN(Date.parse(value))
}
