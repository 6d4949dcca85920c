import { Hono } from 'hono'
import { SecretBox } from '../auth/secret-box.ts'
import type { Tokens } from '../auth/tokens.ts'
import type { Database } from '../database/connect.ts'
import { recordEvent } from '../identity/events.ts'
import { principalOf } from '../identity/principals.ts'
import { Users } from '../identity/users.ts'
import { GitHubApps, type GitHubAppsOptions } from './github-app.ts'
import { GITHUB, githubRoutes } from './github-routes.ts'
import type { LeaseSource } from './lease.ts'
import { LeaseBroker } from './lease-broker.ts'
import type { LeaseEnv } from './lease-env.ts'
import { LeaseStore } from './lease-store.ts'

/** Whose credentials are handed out. */
export interface LeaseSettings {
  githubApps?: (Omit<GitHubAppsOptions, 'now'> & { open: boolean }) | undefined
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
  routes(): Hono<LeaseEnv>
}

/** Puts the room together. @throws {TimoneError} `config` for a malformed key */
export function createLeases(options: LeasesOptions): Leases {
  const { database, tokens, githubApps, now = Date.now } = options
  const { db } = database
  const sources = new Map<string, LeaseSource>()
  if (githubApps !== undefined) sources.set(GITHUB, new GitHubApps({ ...githubApps, now }))
  const store = new LeaseStore({ db, box: new SecretBox(options.secretKeys), now })
  const broker = new LeaseBroker({ store, database, sources, now })
  const users = new Users(db, now)
  const shared = {
    broker,
    identify: (authorization: string | undefined) => principalOf(authorization, { tokens, users }),
    audit: (event: Parameters<typeof recordEvent>[1]) => recordEvent(db, event, now()),
  }
  return {
    broker,
    store,
    routes: () => {
      const app = new Hono<LeaseEnv>()
      for (const path of ['/api/health', '/api/_health'])
        app.get(path, (c) => c.json({ message: 'ok' }, 200, { 'Cache-Control': 'no-store' }))
      if (githubApps !== undefined) app.route('/', githubRoutes({ ...shared, open: githubApps.open }))
      return app
    },
  }
}
