import { Hono } from 'hono'
import type { Kysely } from 'kysely'
import { SecretBox } from '../auth/secret-box.ts'
import type { IssuedTokenCheck, Tokens } from '../auth/tokens.ts'
import type { Schema } from '../database/schema.ts'
import { accountRoutes } from './account-routes.ts'
import type { Connections } from './connections.ts'
import { DeviceCodes } from './device-codes.ts'
import { DEVICE_CODE, deviceGrant, deviceRoutes } from './device-routes.ts'
import { type Grant, Grants } from './grants.ts'
import { Ident } from './ident.ts'
import type { IdentityEnv } from './identity-env.ts'
import { introspectionRoutes } from './introspection.ts'
import { IssuedTokens } from './issued-tokens.ts'
import { LinkedIdentities } from './linked-identities.ts'
import { loginRoutes } from './login-routes.ts'
import { type LoginSettings, OidcLogin } from './oidc-login.ts'
import { OpaqueTokens } from './opaque-tokens.ts'
import { IssuedPrincipals, OpaqueTokenCheck, principalOf } from './principals.ts'
import { Sessions } from './sessions.ts'
import { createWayIn, type SignInProvider } from './sign-in-provider.ts'
import { type KeyAlgorithm, SigningKeys } from './signing-keys.ts'
import { type TokenGrant, tokenRoutes } from './token-endpoint.ts'
import { exchangeToken, TOKEN_EXCHANGE } from './token-exchange.ts'
import { Trust } from './trust.ts'
import type { TrustRule } from './trust-rules.ts'
import { userRoutes } from './user-routes.ts'
import { Users } from './users.ts'
import { whoAmIRoutes } from './who-am-i.ts'

/** Settings of sign-in. */
export interface IdentitySettings {
  /** Undefined: no sign-in in the browser. */
  login?: LoginSettings | undefined
  /** Others whose accounts users may link, and then sign in with. */
  signInProviders?: readonly SignInProvider[] | undefined
  /** What JWTs that we issue are signed with. Default: HS256, with the token secret. */
  signing?: 'HS256' | KeyAlgorithm
  /** Grants of the settings. */
  grants?: readonly Grant[]
}

export interface IdentityOptions extends IdentitySettings {
  db: Kysely<Schema>
  /** Public URL, without a slash at its end. */
  url: string
  tokenSecret: string
  secretKeys: readonly string[]
  /** Whose identity tokens are exchanged; none: nobody's. */
  trust?: readonly TrustRule[] | undefined
  /** Called after users were changed by request. */
  usersChanged?: (() => void) | undefined
  /** Milliseconds since the epoch. */
  now?: () => number
}

/** Everything about who somebody is, put together. */
export interface Identity {
  readonly users: Users
  readonly grants: Grants
  readonly sessions: Sessions
  readonly opaque: OpaqueTokens
  readonly issued: IssuedTokens
  readonly keys: SigningKeys
  /** For {@link Tokens}: what we issued. */
  readonly check: IssuedTokenCheck
  /** Grants of `POST /oauth/token` by their `grant_type`; other rooms add theirs. */
  readonly tokenGrants: Map<string, TokenGrant>
  /** Routes of this room. `tokens` checks who asks, `connections` are shown on the page of each account. */
  routes(tokens: Tokens, connections: Connections): Hono<IdentityEnv>
}

/** Puts the room together. @throws {TimoneError} `config` for a malformed key */
export function createIdentity(options: IdentityOptions): Identity {
  const { db, url, tokenSecret, secretKeys, signing = 'HS256', now = Date.now } = options
  const users = new Users(db, now)
  const grants = new Grants(db, options.grants, now)
  const principals = new IssuedPrincipals(grants, now)
  const box = new SecretBox(secretKeys)
  const keys = new SigningKeys(db, box, now)
  const issued = new IssuedTokens({
    db,
    url,
    secret: tokenSecret,
    algorithm: signing,
    keys,
    principals,
    opaque: new OpaqueTokenCheck(db, principals, now),
    now,
  })
  const sessions = new Sessions({ db, url, now })
  const tokenGrants = new Map<string, TokenGrant>()
  const codes = new DeviceCodes(db, now)
  if (options.login !== undefined) {
    const expiresIn = options.login.tokenExpiresIn
    tokenGrants.set(DEVICE_CODE, deviceGrant({ codes, issued, users, expiresIn }))
  }
  const { trust: rules = [] } = options
  if (rules.length > 0) {
    const trust = new Trust({ rules, issued, db, url, now })
    tokenGrants.set(TOKEN_EXCHANGE, ({ form, source }) => exchangeToken(trust, form, source))
  }
  return {
    users,
    grants,
    sessions,
    opaque: new OpaqueTokens(db, now),
    issued,
    keys,
    check: issued,
    tokenGrants,
    routes: (tokens, connections) => {
      const app = new Hono<IdentityEnv>()
      app.get('/.well-known/jwks.json', async (c) =>
        c.json(await keys.jwks(), 200, { 'Cache-Control': 'public, max-age=300' }),
      )
      app.route(
        '/',
        tokenRoutes({ grants: tokenGrants, revoke: (token, from) => issued.revoke(token, from) }),
      )
      if (options.login !== undefined) {
        const login = new OidcLogin({ ...options.login, url, secret: tokenSecret, now })
        const from = { url, secret: tokenSecret, now }
        const ways = (options.signInProviders ?? []).map((provider) => createWayIn(provider, from))
        const byId = new Map(ways.map((way) => [way.id, way]))
        const identities = new LinkedIdentities(db, now, options.usersChanged)
        app.route('/', loginRoutes({ login, ways: byId, identities, sessions, users, grants, url }))
        app.route('/', deviceRoutes({ codes, sessions, url, now }))
        const opaque = new OpaqueTokens(db, now)
        app.route('/', accountRoutes({ sessions, identities, tokens: opaque, connections, ways }))
      }
      const identify = (header: string | undefined) => principalOf(header, { tokens, users })
      app.route('/', introspectionRoutes({ tokens: new OpaqueTokens(db, now), identify, url }))
      const ident = new Ident({ db, box, changed: options.usersChanged ?? (() => {}), now })
      app.route('/', userRoutes({ ident, identify }))
      app.route('/', whoAmIRoutes({ tokens, users, url, now }))
      return app
    },
  }
}
