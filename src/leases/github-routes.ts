import { type Context, Hono } from 'hono'
import type { Principal } from '../auth/principal.ts'
import { allows } from '../auth/scope.ts'
import { TimoneError } from '../errors.ts'
import type { Event } from '../identity/events.ts'
import { type IdentityEnv, sourceOf } from '../identity/identity-env.ts'
import {
  type GitHubResource,
  includesLevel,
  parseGitHubResource,
  permissionsOf,
  printGitHubResource,
} from './github-resource.ts'
import type { LeaseBroker } from './lease-broker.ts'

export interface GitHubRoutesOptions {
  broker: LeaseBroker
  /** Who sent an `Authorization` header. */
  identify: (authorization: string | undefined) => Promise<Principal | undefined>
  /** Anyone on this machine may ask, as at tokman. */
  open: boolean
  audit: (event: Event) => Promise<void>
}

/** Name in the broker of whoever mints for these routes. */
export const GITHUB = 'github'

/** First segments under `/api/` that are ours. */
const OURS: ReadonlySet<string> = new Set(['v1', 'oidc', 'users'])

/** `GET /api/{namespace}/{repository}`: an installation token of a GitHub App, in the words of tokman. */
export function githubRoutes({ broker, identify, open, audit }: GitHubRoutesOptions): Hono<IdentityEnv> {
  const app = new Hono<IdentityEnv>()

  app.get('/api/:namespace/:repository', async (c, next) => {
    const { namespace, repository } = c.req.param()
    if (OURS.has(namespace) || namespace.includes('.')) return next()
    const asked = parseGitHubResource(namespace, repository, c.req.query('permissions'))
    const isOpen = open && c.req.header('authorization') === undefined && isLocal(c)
    const principal = isOpen ? undefined : await identify(c.req.header('authorization'))
    c.set('subject', principal?.subject)
    const resource = isOpen ? asked : authorize(principal, asked)

    const fresh = /\bno-cache\b/i.test(c.req.header('cache-control') ?? '')
    const key = { owner: '', source: GITHUB, resource: printGitHubResource(resource) }
    const lease = await broker.lease(key, { fresh })
    if (fresh) {
      const actor = principal?.subject ?? ''
      await audit({ actor, action: 'lease.fresh', subject: `github:${key.resource}`, source: sourceOf(c) })
    }
    const expiresAt = lease.expiresAt === null ? null : new Date(lease.expiresAt).toISOString()
    return c.json({ namespace, repository, access_token: lease.accessToken, expires_at: expiresAt }, 200, {
      'Cache-Control': 'no-store',
    })
  })

  return app
}

/**
 * What `principal` may have of what was asked for: the right `token` is all that the app has, `contents=read` that
 * much. Who asks for nothing in particular gets as much as their scope names.
 * @throws {TimoneError} `unauthorized`, `forbidden`
 */
function authorize(principal: Principal | undefined, asked: GitHubResource): GitHubResource {
  if (principal === undefined) throw new TimoneError('unauthorized', 'sign in: no credentials were sent')
  const name = `${asked.namespace}/${asked.repository}`
  const scopes = principal.scopes === 'full' ? [] : principal.scopes
  const rights = scopes
    .filter(({ noun }) => noun === 'lease')
    .map((scope) => ({ ...scope, resource: scope.resource.toLowerCase() }))
    .flatMap((scope) =>
      scope.level
        .split(',')
        .filter((level) => allows([scope], { noun: 'lease', resource: `github/${name}`, level })),
    )
  if (rights.includes('token')) return asked
  const granted = permissionsOf(rights)
  const wanted = Object.entries(asked.permissions)
  if (Object.keys(granted).length === 0)
    throw new TimoneError('forbidden', `this needs the scope lease:github/${name}:token, or :contents=read`)
  for (const [permission, level] of wanted) {
    if (!includesLevel(granted[permission], level))
      throw new TimoneError('forbidden', `this needs the scope lease:github/${name}:${permission}=${level}`)
  }
  return wanted.length === 0 ? { ...asked, permissions: granted } : asked
}

/** A page of another site must not reach the open mode through a name that leads here (DNS rebinding). */
function isLocal(c: Context<IdentityEnv>): boolean {
  const host = URL.parse(`http://${c.req.header('host') ?? ''}`)?.hostname ?? ''
  return host === 'localhost' || host === '[::1]' || /^127(\.\d{1,3}){3}$/.test(host)
}
