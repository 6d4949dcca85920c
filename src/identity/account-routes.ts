import { type Context, Hono } from 'hono'
import { accountPage } from './account-page.ts'
import type { Connections } from './connections.ts'
import { readForm } from './form.ts'
import { type IdentityEnv, sourceOf } from './identity-env.ts'
import type { LinkedIdentities } from './linked-identities.ts'
import type { OpaqueTokens } from './opaque-tokens.ts'
import { problemPage } from './problem-page.ts'
import { checkCsrf, type Session, type Sessions } from './sessions.ts'
import type { WayIn } from './sign-in-provider.ts'

export interface AccountRoutesOptions {
  sessions: Sessions
  identities: LinkedIdentities
  tokens: OpaqueTokens
  connections: Connections
  /** Providers whose accounts can be linked. */
  ways: readonly WayIn[]
}

/** Newest ones that the page shows. */
const MOST = 300

/** `GET /account` and its buttons: what gets at the account of whoever is signed in with this browser. */
export function accountRoutes(options: AccountRoutesOptions): Hono<IdentityEnv> {
  const { sessions, identities, tokens, connections } = options
  const ways = options.ways.map(({ id, name, login }) => ({ id, name, issuer: login.issuer }))
  const app = new Hono<IdentityEnv>()
  const sessionOf = async (c: Context<IdentityEnv>): Promise<Session | undefined> => {
    const session = await sessions.of({ cookie: c.req.header('cookie') })
    c.set('subject', session?.user.login)
    return session
  }
  const goTo = (c: Context<IdentityEnv>, path: string): Response => {
    c.header('Cache-Control', 'no-store')
    return c.redirect(path, 303)
  }
  const signIn = '/auth/login?return_to=/account'

  app.get('/account', async (c) => {
    const session = await sessionOf(c)
    if (session === undefined) return goTo(c, signIn)
    const { id } = session.user
    return accountPage({
      session,
      identities: await identities.of(id),
      tokens: await tokens.list(id, MOST),
      connections: await connections.of(id),
      ways,
    })
  })

  /** What is not there any more, or is somebody else's, is left alone: the page shows how it is. */
  const onButton = (
    path: string,
    work: (session: Session, form: URLSearchParams, source: string) => Promise<unknown>,
  ): void => {
    app.post(path, (c) =>
      problemPage(async () => {
        const session = await sessionOf(c)
        if (session === undefined) return goTo(c, signIn)
        const form = await readForm(c.req)
        checkCsrf(session, form.get('csrf'))
        await work(session, form, sourceOf(c))
        return goTo(c, '/account')
      }),
    )
  }
  onButton('/account/unlink', ({ user }, form, source) =>
    identities.unlink(user, form.get('issuer') ?? '', source),
  )
  onButton('/account/revoke', ({ user }, form, source) =>
    tokens.revoke(form.get('id') ?? '', { actor: user.login, source, userId: user.id }),
  )
  onButton('/account/disconnect', ({ user }, form, source) =>
    connections.end(user, { source: form.get('source') ?? '', resource: form.get('resource') ?? '' }, source),
  )

  return app
}
