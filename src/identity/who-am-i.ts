import { Hono } from 'hono'
import { printScope } from '../auth/scope.ts'
import type { Tokens } from '../auth/tokens.ts'
import { TimoneError } from '../errors.ts'
import type { IdentityEnv } from './identity-env.ts'
import { principalOf } from './principals.ts'
import type { Users } from './users.ts'

/** `GET /auth/whoami`: who the credentials of the request are, and what they open now. */
export function whoAmIRoutes(deps: {
  tokens: Tokens
  users: Users
  url: string
  now: () => number
}): Hono<IdentityEnv> {
  const app = new Hono<IdentityEnv>()
  app.get('/auth/whoami', async (c) => {
    const principal = await principalOf(c.req.header('authorization'), deps)
    if (principal === undefined) throw new TimoneError('unauthorized', 'sign in: no credentials were sent')
    c.set('subject', principal.subject)
    const { subject, userId, scopes, expiresAt } = principal
    const user = userId === undefined ? undefined : await deps.users.byId(userId)
    const answer = {
      user: subject,
      name: user?.name ?? null,
      email: user?.email ?? null,
      // Null: an operator's token without scopes, which opens all of LFS.
      scopes: scopes === 'full' ? null : scopes.map(printScope),
      expires_at: expiresAt === undefined ? null : new Date(expiresAt * 1000).toISOString(),
      server: deps.url,
      time: new Date(deps.now()).toISOString(),
    }
    return c.json(answer, 200, { 'Cache-Control': 'no-store' })
  })
  return app
}
