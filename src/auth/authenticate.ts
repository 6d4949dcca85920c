import type { Principal } from './principal.ts'
import { MAX_TOKEN_LENGTH, refused, type Tokens } from './tokens.ts'

/** User names that fixed-name clients send with any token: CI systems and credential helpers. */
const ANY_USER: ReadonlySet<string> = new Set(['_jwt', 'x-access-token'])

/** Basic carries the user name and a token in base64, which is a third longer. */
const MAX_HEADER_LENGTH = 2 * MAX_TOKEN_LENGTH

const HEADER = /^(basic|bearer) +([A-Za-z0-9._~+/-]+=*)$/i

/**
 * Who sent a request, by its `Authorization` header: `Bearer JWT` (RFC 6750) or `Basic user:JWT` (RFC 7617).
 * With Basic the user name must be the token's, or one of {@link ANY_USER}.
 * @returns undefined when there is no header: nobody has signed in
 * @throws {TimoneError} `unauthorized` for every header that does not prove who sent it
 */
export async function authenticate(
  header: string | undefined,
  tokens: Tokens,
): Promise<Principal | undefined> {
  if (header === undefined) return undefined
  if (header.length > MAX_HEADER_LENGTH) throw refused()
  const [, scheme, credentials] = HEADER.exec(header.trim()) ?? []
  if (scheme === undefined || credentials === undefined) throw refused()
  if (scheme.toLowerCase() === 'bearer') return tokens.verify(credentials)

  const { user, password } = decodeBasic(credentials)
  const principal = await tokens.verify(password)
  if (user.normalize('NFC') !== principal.subject.normalize('NFC') && !ANY_USER.has(user)) throw refused()
  return principal
}

/** The password of a header `Basic user:password` that is well formed; undefined for any other. */
export function basicPassword(header: string | undefined): string | undefined {
  if (header === undefined || header.length > MAX_HEADER_LENGTH) return undefined
  const [, scheme, credentials] = HEADER.exec(header.trim()) ?? []
  if (scheme?.toLowerCase() !== 'basic' || credentials === undefined) return undefined
  try {
    return decodeBasic(credentials).password
  } catch {
    return undefined
  }
}

/** The name ends at the first colon; a password may hold more of them (RFC 7617, section 2). */
function decodeBasic(credentials: string): { user: string; password: string } {
  const bytes = Buffer.from(credentials, 'base64')
  // Buffer skips what is not base64 and takes the URL alphabet too; only the one true spelling is let in.
  if (bytes.toString('base64').replace(/=+$/, '') !== credentials.replace(/=+$/, '')) throw refused()
  let text: string
  try {
    text = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes)
  } catch {
    throw refused()
  }
  const colon = text.indexOf(':')
  if (colon < 0) throw refused()
  return { user: text.slice(0, colon), password: text.slice(colon + 1) }
}
