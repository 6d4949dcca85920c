import { TimoneError } from '../errors.ts'
import type { ResolvedSettings } from './resolve-settings.ts'

/** Sign-in in the browser, at an OpenID provider. */
export interface LoginSettings {
  readonly issuer: string
  readonly clientId: string
  readonly clientSecret: string
  readonly scope: string
  readonly groupsClaim?: string
  /** Seconds. */
  readonly tokenExpiresIn: number
}

/** Seconds that a token of `timone login` lives at most. */
const MAX_LIFETIME = 366 * 86_400

/** Undefined: no sign-in in the browser. @throws {TimoneError} `config` when half of it is set */
export function buildLogin(
  values: ResolvedSettings['values'],
  isLoopback: (host: string) => boolean,
): LoginSettings | undefined {
  // tokenstore named the discovery document (OpenID Connect Discovery 1.0, section 4).
  const issuer = values['login.issuer']?.replace(/\/\.well-known\/openid-configuration$/, '')
  const clientId = values['login.client_id']
  const clientSecret = values['login.client_secret']
  if (issuer === undefined && clientId === undefined && clientSecret === undefined) return undefined
  if (issuer === undefined || clientId === undefined || clientSecret === undefined) {
    throw new TimoneError(
      'config',
      'sign-in needs all of TIMONE_LOGIN_ISSUER, TIMONE_LOGIN_CLIENT_ID and TIMONE_LOGIN_CLIENT_SECRET',
    )
  }
  if (issuer.startsWith('http://') && !isLoopback(new URL(issuer).hostname)) {
    throw new TimoneError('config', 'TIMONE_LOGIN_ISSUER must begin with https://')
  }
  const scope = values['login.scope'] ?? 'openid profile email'
  if (!scope.split(' ').includes('openid'))
    throw new TimoneError('config', 'TIMONE_LOGIN_SCOPE must have openid among its scopes')
  const tokenExpiresIn = values['login.token_expires_in'] ?? 0
  if (tokenExpiresIn < 60 || tokenExpiresIn > MAX_LIFETIME)
    throw new TimoneError('config', 'TIMONE_LOGIN_TOKEN_EXPIRES_IN must be one minute to 366 days')
  const groupsClaim = values['login.groups_claim']
  return Object.freeze({
    issuer,
    clientId,
    clientSecret,
    scope,
    tokenExpiresIn,
    ...(groupsClaim === undefined ? {} : { groupsClaim }),
  })
}
