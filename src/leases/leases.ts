import { Hono } from 'hono'
import { SecretBox } from '../auth/secret-box.ts'
import type { Tokens } from '../auth/tokens.ts'
import type { Database } from '../database/connect.ts'
import { recordEvent } from '../identity/events.ts'
import type { IdentityEnv } from '../identity/identity-env.ts'
import { principalOf } from '../identity/principals.ts'
import { Sessions } from '../identity/sessions.ts'
import { Users } from '../identity/users.ts'
import { GitHubApps, type GitHubAppsOptions } from './github-app.ts'
import { GITHUB, githubRoutes } from './github-routes.ts'
import type { LeaseSource } from './lease.ts'
import { LeaseBroker } from './lease-broker.ts'
import { LeaseStore } from './lease-store.ts'
import { OAuthProvider, type OAuthProviderOptions } from './oauth-provider.ts'
import { oauthRoutes, type ProviderDescription } from './oauth-routes.ts'
import { UserConnections } from './user-connections.ts'

/** Name in the broker of storage sessions, which another room asks for and hands out. */
export const STS = 'sts'

/** Whose credentials are handed out. */
export interface LeaseSettings {
  githubApps?: (Omit<GitHubAppsOptions, 'now'> & { open: boolean }) | undefined
  /** At which users connect accounts of theirs, in the order that they are shown. */
  providers?: readonly (OAuthProviderOptions & ProviderDescription)[] | undefined
  /** Origins that browsers may be sent back to, beside our own. */
  returnOrigins?: readonly string[] | undefined
  /** Who issues storage sessions; undefined: nobody. */
  sts?: LeaseSource | undefined
}

export interface LeasesOptions extends LeaseSettings {
  database: Database
  secretKeys: readonly string[]
  tokens: Tokens
  /** Public URL of the server, without a slash at its end. */
  url: string
  /** Milliseconds since the epoch. */
  now?: () => number
}

/** The room put together. */
export interface Leases {
  readonly broker: LeaseBroker
  readonly store: LeaseStore
  /** For the page of a user's account. */
  readonly connections: UserConnections
  routes(): Hono<IdentityEnv>
  /** Every hour renews what nobody has used for a day, and removes what is over, until the function that it gives is called. */
  keepAlive(report: (failed: { source: string; error: unknown }) => void): () => void
}

const HOUR = 3600 * 1000
const DAY = 24 * HOUR

/** Puts the room together. @throws {TimoneError} `config` for a malformed key */
export function createLeases(options: LeasesOptions): Leases {
  const { database, tokens, url, githubApps, returnOrigins = [], now = Date.now } = options
  const { db } = database
  const sources = new Map<string, LeaseSource>()
  if (githubApps !== undefined) sources.set(GITHUB, new GitHubApps({ ...githubApps, now }))
  const providers = new Map(
    (options.providers ?? []).map((provider) => [
      provider.id,
      { source: new OAuthProvider(provider, url, now), description: provider },
    ]),
  )
  for (const [id, { source }] of providers) sources.set(id, source)
  if (options.sts !== undefined) sources.set(STS, options.sts)
  const box = new SecretBox(options.secretKeys)
  const store = new LeaseStore({ db, box, now })
  const broker = new LeaseBroker({ store, database, sources, now })
  const users = new Users(db, now)
  const shared = {
    broker,
    identify: (authorization: string | undefined) => principalOf(authorization, { tokens, users }),
    audit: (event: Parameters<typeof recordEvent>[1]) => recordEvent(db, event, now()),
  }
  const connections = new UserConnections({ ...shared, store, providers })
  return {
    broker,
    store,
    connections,
    keepAlive: (report) => {
      const keep = async (): Promise<void> => {
        try {
          await broker.removeExpired()
          const { failures } = await broker.renewUnused(DAY)
          for (const { key, error } of failures) report({ source: key.source, error })
        } catch (error) {
          report({ source: '', error })
        }
      }
      const timer = setInterval(() => void keep(), HOUR)
      timer.unref()
      return () => clearInterval(timer)
    },
    routes: () => {
      const app = new Hono<IdentityEnv>()
      for (const path of ['/api/health', '/api/_health'])
        app.get(path, (c) => c.json({ message: 'ok' }, 200, { 'Cache-Control': 'no-store' }))
      app.get('/api/oidc/login', (c) => {
        const next = c.req.query('next') ?? c.req.query('return_url')
        const query = next === undefined ? '' : `?return_to=${encodeURIComponent(next)}`
        return c.redirect(`/auth/login${query}`, 302)
      })
      app.get('/api/oidc/callback', (c) => c.redirect(`/auth/callback${new URL(c.req.url).search}`, 302))
      app.get('/api/oidc/logout', (c) => c.redirect('/auth/logout', 302))
      const sessions = new Sessions({ db, url, now })
      if (providers.size > 0)
        app.route(
          '/',
          oauthRoutes({
            ...shared,
            store,
            connections,
            providers,
            sessions,
            users,
            box,
            url,
            returnOrigins,
            now,
          }),
        )
      // Last: its path is the most general.
      if (githubApps !== undefined) app.route('/', githubRoutes({ ...shared, open: githubApps.open }))
      return app
    },
  }
}
