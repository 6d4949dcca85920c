/** Every error that timone throws on purpose, with a stable code. */

/**
 * What went wrong, stable across releases. Callers switch on this, never on message text.
 * How a code is shown outside is decided in two places only: `agent/session.ts` and `server/error-response.ts`.
 */
export type ErrorCode =
  | 'cancelled'
  | 'clock_skew'
  | 'config'
  | 'conflict'
  | 'connection'
  | 'credentials_expired'
  | 'denied'
  | 'disk_full'
  | 'dns'
  | 'exists'
  | 'forbidden'
  | 'hash_mismatch'
  | 'internal'
  | 'invalid'
  | 'lease_broken'
  | 'malformed'
  | 'method_not_allowed'
  | 'no_such_bucket'
  | 'no_such_upload'
  | 'not_acceptable'
  | 'not_found'
  | 'precondition_failed'
  | 'proxy'
  | 'quota_exceeded'
  | 'rate_limited'
  | 'read_only'
  | 'size_mismatch'
  | 'throttled'
  | 'timeout'
  | 'tls'
  | 'too_large'
  | 'unauthorized'
  | 'unavailable'
  | 'upstream'
  | 'uri_too_long'
  | 'wrong_region'

/** What may be attached to a {@link TimoneError}. Never a secret: all of it may be logged. */
export interface ErrorDetails {
  cause?: unknown
  /** The HTTP status that the other side answered with. */
  status?: number
  /** Seconds to wait before the next try, from `Retry-After`. */
  retryAfter?: number
  /** The request id that the other side gave, so that its operator can find the request. */
  requestId?: string
  /** Host (and port) that was talked to. */
  host?: string
}

const RETRYABLE: ReadonlySet<ErrorCode> = new Set([
  'connection',
  'dns',
  'rate_limited',
  'throttled',
  'timeout',
  'unavailable',
  'upstream',
])

/**
 * An expected failure. `message` is one line for a person: what failed, for which object, on which host, what to do.
 * It must never hold a secret; a signed URL is a secret.
 */
export class TimoneError extends Error {
  override readonly name = 'TimoneError'
  readonly code: ErrorCode
  readonly status: number | undefined
  readonly retryAfter: number | undefined
  readonly requestId: string | undefined
  readonly host: string | undefined

  constructor(code: ErrorCode, message: string, details: ErrorDetails = {}) {
    super(message, details.cause === undefined ? undefined : { cause: details.cause })
    this.code = code
    this.status = details.status
    this.retryAfter = details.retryAfter
    this.requestId = details.requestId
    this.host = details.host
  }

  /** The same request may succeed later without anything being changed. */
  get retryable(): boolean {
    return RETRYABLE.has(this.code)
  }
}

/** True when `error` is a {@link TimoneError}, with one of `codes` where some are given. */
export function isTimoneError(error: unknown, ...codes: ErrorCode[]): error is TimoneError {
  return error instanceof TimoneError && (codes.length === 0 || codes.includes(error.code))
}

/** The Node.js system error code (`ENOSPC`, `ECONNRESET`, …) of `error` or of its causes. */
export function systemCode(error: unknown): string | undefined {
  for (let at: unknown = error, depth = 0; at instanceof Error && depth < 5; at = at.cause, depth++) {
    const code = (at as { code?: unknown }).code
    if (typeof code === 'string') return code
  }
  return undefined
}
