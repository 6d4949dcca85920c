import { readAtMost } from '../bounded-text.ts'
import { systemCode, TimoneError } from '../errors.ts'

/** Bytes of an answer that is certainly not one of a token endpoint. */
const MAX_ANSWER = 1024 * 1024

/** An answer as it came, its body read. */
export interface UpstreamAnswer {
  status: number
  headers: Headers
  /** The JSON value of the body; undefined: it is not JSON. */
  json: unknown
}

/**
 * Sends one request to somebody who issues credentials, and reads the whole answer.
 * @param who for messages
 * @throws {TimoneError} `upstream` when there is no answer, or one that is too large
 */
export async function askUpstream(
  who: string,
  request: {
    url: string
    method: string
    headers: Record<string, string>
    body?: string
    signal: AbortSignal
  },
): Promise<UpstreamAnswer> {
  const { url, ...init } = request
  try {
    const response = await fetch(url, init)
    const text = await readAtMost(response, MAX_ANSWER)
    if (text === undefined) throw new TimoneError('upstream', 'the answer of a provider is too large')
    return { status: response.status, headers: response.headers, json: parse(text) }
  } catch (error) {
    if (error instanceof TimoneError) throw error
    throw unreachable(who, error)
  }
}

/** What is thrown when `who` gave no answer: `error` came from fetch. */
export function unreachable(who: string, error: unknown): TimoneError {
  const { name, code, cause } = error as { name?: string; code?: unknown; cause?: unknown }
  // The last is the OAuth library's own.
  const late = name === 'TimeoutError' || name === 'AbortError' || code === 'OAUTH_TIMEOUT'
  const reason = late ? 'no answer in time' : (systemCode(cause) ?? systemCode(error) ?? 'no connection')
  return new TimoneError('upstream', `${who} cannot be reached (${reason}): try again later`, {
    cause: error,
  })
}

/** Seconds that an answer asks to wait (RFC 9110, section 10.2.3); undefined: it does not say. */
export function retryAfterOf(headers: Headers, now: number): number | undefined {
  const value = headers.get('retry-after')
  if (value === null) return undefined
  const seconds = /^\d{1,9}$/.test(value) ? Number(value) : (Date.parse(value) - now) / 1000
  return Number.isFinite(seconds) ? Math.max(0, seconds) : undefined
}

/** Somebody else's words, fit for one line of a log or message. */
export function quote(text: unknown, most = 200): string {
  return typeof text === 'string'
    ? text
        .replace(/[\p{Cc}\p{Cf}\s]+/gu, ' ')
        .trim()
        .slice(0, most)
    : ''
}

function parse(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch {
    return undefined
  }
}
