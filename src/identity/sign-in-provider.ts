import { OAuthLogin } from './oauth-login.ts'
import { type BrowserLogin, OidcLogin } from './oidc-login.ts'

/** A provider besides that of `[login]`, whose accounts users may link and then sign in with. */
export interface SignInProvider {
  readonly id: string
  /** For people. */
  readonly name?: string | undefined
  /** Of an OpenID provider. Undefined: plain OAuth 2.0, with its endpoints. */
  readonly issuer?: string | undefined
  readonly authorizationEndpoint?: string | undefined
  readonly tokenEndpoint?: string | undefined
  readonly userinfoEndpoint?: string | undefined
  readonly clientId: string
  readonly clientSecret?: string | undefined
}

/** One of the ways to sign in. */
export interface WayIn {
  readonly id: string
  /** For people. */
  readonly name: string
  readonly login: BrowserLogin
}

/** @param from.secret the operator's token secret */
export function createWayIn(
  provider: SignInProvider,
  from: { url: string; secret: string; now: () => number },
): WayIn {
  const { id, name = id, issuer, clientId, clientSecret } = provider
  const shared = { ...from, provider: id, clientId, clientSecret }
  if (issuer !== undefined)
    return { id, name, login: new OidcLogin({ ...shared, issuer, scope: 'openid profile' }) }
  const { authorizationEndpoint = '', tokenEndpoint = '', userinfoEndpoint = '' } = provider
  return {
    id,
    name,
    login: new OAuthLogin({ ...shared, authorizationEndpoint, tokenEndpoint, userinfoEndpoint }),
  }
}
