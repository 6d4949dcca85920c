import { type Context, Hono } from 'hono'
import type { Principal } from '../auth/principal.ts'
import { allows } from '../auth/scope.ts'
import type { SecretBox } from '../auth/secret-box.ts'
import { isTimoneError, TimoneError } from '../errors.ts'
import type { Connections } from '../identity/connections.ts'
import type { Event } from '../identity/events.ts'
import { type IdentityEnv, sourceOf } from '../identity/identity-env.ts'
import type { Session, Sessions } from '../identity/sessions.ts'
import type { User, Users } from '../identity/users.ts'
import type { LeaseKey, LeaseState } from './lease.ts'
import type { LeaseBroker } from './lease-broker.ts'
import type { LeaseStore } from './lease-store.ts'
import type { OAuthProvider } from './oauth-provider.ts'
import { findPending, forgetPending, keepPending, PENDING_LIFE } from './pending.ts'

/** What people are told of a provider; tokenstore's metadata. */
export interface ProviderDescription {
  readonly name?: string | undefined
  readonly url?: string | undefined
  readonly icon?: string | undefined
  readonly description?: string | undefined
  readonly logo?: string | undefined
}

export interface OAuthRoutesOptions {
  broker: LeaseBroker
  store: LeaseStore
  connections: Connections
  providers: ReadonlyMap<string, { source: OAuthProvider; description: ProviderDescription }>
  sessions: Sessions
  users: Users
  /** Who sent an `Authorization` header. */
  identify: (authorization: string | undefined) => Promise<Principal | undefined>
  audit: (event: Event) => Promise<void>
  box: SecretBox
  /** Public URL, without a slash at its end. */
  url: string
  /** Origins, beside our own, that browsers may be sent back to and whose scripts may ask. */
  returnOrigins: readonly string[]
  now: () => number
}

/** Who asks: a browser with a session, or a program with a token that was given rights. */
interface Caller {
  user: User
  session: Session | undefined
  principal: Principal | undefined
}

const SECRET = { 'Cache-Control': 'no-store' }

/**
 * `/api/v1.0/authorizations` and `/api/v1.0/{provider}/authorize|redirect_uri|token|revoke`, in the words of tokenstore;
 * `/api/v1/` has the same in the flat shapes of the older ecocloud form. Whoever is not signed in gets 403, as there.
 */
export function oauthRoutes(options: OAuthRoutesOptions): Hono<IdentityEnv> {
  const { broker, store, connections, providers, sessions, users, identify, audit, box, url, now } = options
  const origins = new Set([new URL(url).origin, ...options.returnOrigins])
  const secure = url.startsWith('https:')
  const app = new Hono<IdentityEnv>()

  const callerOf = async (c: Context<IdentityEnv>): Promise<Caller> => {
    const authorization = c.req.header('authorization')
    const session =
      authorization === undefined ? await sessions.of({ cookie: c.req.header('cookie') }) : undefined
    const principal =
      authorization === undefined ? undefined : await identify(authorization).catch(asForbidden)
    const user = session?.user ?? (principal === undefined ? undefined : await userOf(principal))
    c.set('subject', user?.login ?? principal?.subject)
    if (user === undefined) throw refused()
    // Lax cookies come along from other sites of the same domain.
    const origin = c.req.header('origin')
    if (session !== undefined && c.req.method === 'POST' && origin !== undefined && !origins.has(origin))
      throw new TimoneError('forbidden', 'this page may not do that here')
    return { user, session, principal }
  }
  const userOf = ({ userId, subject }: Principal) =>
    userId === undefined ? users.byLogin(subject) : users.byId(userId)

  const admit = (caller: Caller, provider: string): void => {
    if (caller.principal === undefined) return
    const { scopes } = caller.principal
    const wanted = { noun: 'lease', resource: provider, level: 'token' }
    if (scopes === 'full' || !allows(scopes, wanted))
      throw new TimoneError('forbidden', `this needs the scope lease:${provider}:token`)
  }
  const providerOf = (c: Context<IdentityEnv>) => {
    const id = c.req.param('provider') ?? ''
    const found = providers.get(id)
    if (found === undefined) throw new TimoneError('not_found', 'there is no such provider')
    return { id, ...found }
  }
  const keyOf = (user: User, source: string): LeaseKey => ({ owner: `user:${user.id}`, source, resource: '' })

  app.use('/api/:version{v1(?:\\.0)?}/*', async (c, next) => {
    const origin = c.req.header('origin')
    if (origin !== undefined && options.returnOrigins.includes(origin)) {
      c.header('Access-Control-Allow-Origin', origin)
      c.header('Access-Control-Allow-Credentials', 'true')
      c.header('Vary', 'Origin')
      if (c.req.method === 'OPTIONS') {
        c.header('Access-Control-Allow-Methods', 'GET, POST')
        c.header('Access-Control-Allow-Headers', 'Authorization, Cache-Control')
        return c.body(null, 204)
      }
    }
    return next()
  })

  app.get('/api/:version{v1(?:\\.0)?}/authorizations', async (c) => {
    const caller = await callerOf(c)
    const flat = c.req.param('version') === 'v1'
    const leases = new Map((await store.list(`user:${caller.user.id}`)).map((lease) => [lease.source, lease]))
    const base = `${url}/api/${c.req.param('version')}`
    const list = [...providers].map(([id, { description }]) =>
      describe(id, description, leases.get(id), base, flat),
    )
    return c.json(list, 200, SECRET)
  })

  const authorize = async (c: Context<IdentityEnv>): Promise<string> => {
    const { session } = await callerOf(c)
    const { id, source } = providerOf(c)
    if (session === undefined)
      throw new TimoneError('forbidden', 'sign in with a browser to connect an account')
    const { return_url, referer } = c.req.query()
    const returnUrl = checkReturn(return_url ?? referer ?? c.req.header('referer'), url, origins)
    const { url: target, checks } = await source.begin()
    const pending = {
      provider: id,
      session: session.id,
      ...checks,
      returnUrl,
      expires: now() + PENDING_LIFE * 1000,
    }
    c.header('Set-Cookie', keepPending(pending, box, secure))
    c.header('Cache-Control', 'no-store')
    return target
  }
  app.get('/api/:version{v1(?:\\.0)?}/:provider/authorize', async (c) => c.redirect(await authorize(c), 302))
  app.post('/api/v1/:provider/authorize', async (c) => {
    c.header('Location', await authorize(c))
    return c.body(null, 201)
  })

  app.get('/api/:version{v1(?:\\.0)?}/:provider/redirect_uri', async (c) => {
    const { user, session } = await callerOf(c)
    const { id, source } = providerOf(c)
    const query = new URL(c.req.url).searchParams
    const state = query.get('state') ?? ''
    const returned = { state, provider: id, session: session?.id ?? '', now: now() }
    const pending = findPending(c.req.header('cookie'), returned, box)
    const back = new URL(pending.returnUrl)
    const refusal = query.get('error')
    if (refusal === null) {
      await broker.keep(keyOf(user, id), await source.redeem(query, pending))
      await audit({
        actor: user.login,
        action: 'lease.connect',
        subject: `provider:${id}`,
        source: sourceOf(c),
      })
    } else {
      back.searchParams.set('error', /^[a-z_]{1,64}$/.test(refusal) ? refusal : 'invalid_request')
    }
    c.header('Set-Cookie', forgetPending(state, secure))
    c.header('Cache-Control', 'no-store')
    return c.redirect(back.href, 302)
  })

  app.get('/api/:version{v1(?:\\.0)?}/:provider/token', async (c) => {
    const caller = await callerOf(c)
    const { id } = providerOf(c)
    admit(caller, id)
    const fresh = /\bno-cache\b/i.test(c.req.header('cache-control') ?? '')
    const lease = await broker.lease(keyOf(caller.user, id), { fresh })
    const end = lease.expiresAt
    const answer = {
      access_token: lease.accessToken,
      expires_in: end === null ? null : Math.max(0, Math.floor((end - now()) / 1000)),
      expires_at: end === null ? null : Math.floor(end / 1000),
      // openid-client puts it in lower case; RFC 6749, section 5.1, does not care, callers may.
      token_type: (lease.tokenType ?? 'bearer').replace(/^bearer$/i, 'Bearer'),
      scope: lease.scope,
    }
    return c.json(answer, 200, SECRET)
  })

  app.post('/api/:version{v1(?:\\.0)?}/:provider/revoke', async (c) => {
    const caller = await callerOf(c)
    const { id } = providerOf(c)
    admit(caller, id)
    await connections.end(caller.user, { source: id, resource: '' }, sourceOf(c))
    return c.req.param('version') === 'v1' ? c.body(null, 200) : c.json('Token revoked', 200)
  })

  app.get('/api/whoami', async (c) => {
    const { user, principal } = await callerOf(c)
    const scopes = principal === undefined || principal.scopes === 'full' ? [] : principal.scopes
    const answer = {
      claims: { sub: String(user.id), preferred_username: user.login },
      email: user.email,
      email_verified: user.email !== null,
      id: String(user.id),
      name: user.name,
      roles: [],
      scopes: scopes.map(({ noun, resource, level }) => `${noun}:${resource}:${level}`),
    }
    return c.json(answer, 200, SECRET)
  })

  return app
}

function refused(): TimoneError {
  return new TimoneError('forbidden', 'sign in first, at /auth/login or with a token')
}

/** tokenstore has no 401. */
function asForbidden(error: unknown): never {
  throw isTimoneError(error, 'unauthorized') ? refused() : error
}

/**
 * Where a browser may be sent back to: our own pages and those of origins in the settings.
 * @throws {TimoneError} `invalid` for any other place
 */
export function checkReturn(text: string | undefined, url: string, origins: ReadonlySet<string>): string {
  if (text === undefined) return `${url}/account`
  const target = text.startsWith('/') ? URL.parse(text, url) : URL.parse(text)
  // Browsers skip control characters and take \ for /, so that what is no URL to one reader is one to the next.
  if (target === null || /[\p{Cc}\\]/u.test(text) || !origins.has(target.origin) || target.username !== '')
    throw new TimoneError('invalid', 'return_url leads to a place that is not among leases.return_origins')
  return target.href
}

function describe(
  id: string,
  description: ProviderDescription,
  lease: LeaseState | undefined,
  base: string,
  flat: boolean,
): object {
  const { name = null, url = null, icon = null, logo = null } = description
  const actions = {
    authorize: `${base}/${id}/authorize`,
    token: `${base}/${id}/token`,
    revoke: `${base}/${id}/revoke`,
  }
  const metadata = { name, url, icon, description: description.description ?? null, logo }
  const state = {
    active: lease?.state === 'active',
    state: lease?.state ?? null,
    error: lease?.error ?? null,
    scope: lease?.scope ?? null,
  }
  return flat
    ? { ...state, provider: id, ...actions, ...metadata }
    : { ...state, provider: id, actions, metadata }
}
