import { createHash, timingSafeEqual } from 'node:crypto'
import type { IncomingHttpHeaders } from 'node:http'
import { refused } from '../auth/tokens.ts'
import { TimoneError } from '../errors.ts'

/** Who asks for metrics. */
export interface MetricsQuestion {
  /** Address at the other end of the connection. */
  peer: string | undefined
  headers: IncomingHttpHeaders
}

/** What proxies add; one on this machine makes everybody come from loopback. */
const FORWARDED = ['forwarded', 'x-forwarded-for', 'x-forwarded-host', 'x-real-ip', 'via']

/**
 * Lets in who sends the token (RFC 6750) or, where none is set, programs of this machine.
 * @throws {TimoneError} `unauthorized` for a missing or wrong token; `not_found` for everybody else
 */
export function admitToMetrics(token: string | undefined, { peer, headers }: MetricsQuestion): void {
  if (token !== undefined) {
    const [, given = ''] = /^bearer +(\S+)$/i.exec(headers.authorization ?? '') ?? []
    if (!timingSafeEqual(digest(given), digest(token))) throw refused()
    return
  }
  const direct = FORWARDED.every((name) => headers[name] === undefined)
  if (!direct || !isLoopbackAddress(peer)) throw new TimoneError('not_found', 'not found')
}

function isLoopbackAddress(address: string | undefined): boolean {
  return /^(::ffff:)?127\.\d+\.\d+\.\d+$|^::1$/.test(address ?? '')
}

const digest = (text: string): Buffer => createHash('sha256').update(text).digest()
