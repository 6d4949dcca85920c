import { createHash } from 'node:crypto'
import * as z from 'zod/mini'
import type { SecretBox } from '../auth/secret-box.ts'
import { TimoneError } from '../errors.ts'
import { readCookie } from '../identity/cookies.ts'

/** A browser that was sent to a provider and has not come back. */
const Pending = z.object({
  provider: z.string(),
  /** Id of the session that it began in. */
  session: z.string(),
  state: z.string(),
  nonce: z.string(),
  verifier: z.string(),
  returnUrl: z.string(),
  /** Milliseconds since the epoch. */
  expires: z.number(),
})
export type Pending = z.infer<typeof Pending>

/** Seconds that the whole detour may take. */
export const PENDING_LIFE = 600

/** `Set-Cookie` value that keeps `pending` in the browser, encrypted; one cookie for each detour under way. */
export function keepPending(pending: Pending, box: SecretBox, secure: boolean): string {
  return cookie(pending.state, box.seal(JSON.stringify(pending)), PENDING_LIFE, secure)
}

/** `Set-Cookie` value that makes the browser forget: a detour ends once. */
export function forgetPending(state: string, secure: boolean): string {
  return cookie(state, '', 0, secure)
}

/**
 * What belongs to the `state` that a browser came back with.
 * @throws {TimoneError} `forbidden` when this browser never left with it, in another session, to another provider, or
 *   too long ago
 */
export function findPending(
  header: string | undefined,
  returned: { state: string; provider: string; session: string; now: number },
  box: SecretBox,
): Pending {
  const sealed = readCookie(header, nameOf(returned.state))
  const pending = sealed === undefined ? undefined : open(sealed, box)
  const belongs =
    pending?.state === returned.state &&
    pending.provider === returned.provider &&
    pending.session === returned.session &&
    pending.expires > returned.now
  if (!belongs)
    throw new TimoneError(
      'forbidden',
      'this answer does not belong to a sign-in that began in this browser: start again',
    )
  return pending
}

function open(sealed: string, box: SecretBox): Pending | undefined {
  try {
    return Pending.parse(JSON.parse(box.open(sealed)))
  } catch {
    return undefined
  }
}

function nameOf(state: string): string {
  return `timone-connect-${createHash('sha256').update(state).digest('hex').slice(0, 12)}`
}

function cookie(state: string, value: string, seconds: number, secure: boolean): string {
  const end = secure ? '; Secure' : ''
  return `${nameOf(state)}=${value}; Path=/api; Max-Age=${seconds}; HttpOnly; SameSite=Lax${end}`
}
