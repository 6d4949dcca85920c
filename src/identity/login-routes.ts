import { type Context, Hono } from 'hono'
import { html } from 'hono/html'
import { readCookie } from './cookies.ts'
import { readForm } from './form.ts'
import type { Grants } from './grants.ts'
import { type IdentityEnv, sourceOf } from './identity-env.ts'
import { type OidcLogin, PENDING_FOR } from './oidc-login.ts'
import { page } from './page.ts'
import { problemPage } from './problem-page.ts'
import { localPath } from './return-to.ts'
import { checkCsrf, type Sessions } from './sessions.ts'
import type { Users } from './users.ts'

export interface LoginRoutesOptions {
  login: OidcLogin
  sessions: Sessions
  users: Users
  grants: Grants
  /** Public URL of this server. */
  url: string
}

/** `/auth/login`, `/auth/callback`, `/auth/logout`: signing in and out with a browser. */
export function loginRoutes(options: LoginRoutesOptions): Hono<IdentityEnv> {
  const { login, sessions, users, grants, url } = options
  const app = new Hono<IdentityEnv>()
  const secure = url.startsWith('https:')
  const name = secure ? '__Host-timone-login' : 'timone-login'
  const pendingCookie = (value: string, seconds: number) =>
    `${name}=${value}; Path=/; Max-Age=${seconds}; HttpOnly; SameSite=Lax${secure ? '; Secure' : ''}`
  const redirect = (c: Context<IdentityEnv>, path: string) => {
    c.header('Cache-Control', 'no-store')
    c.header('Referrer-Policy', 'no-referrer')
    return c.redirect(path, 302)
  }

  app.get('/auth/login', async (c) =>
    problemPage(async () => {
      const returnTo = localPath(c.req.query('return_to'))
      const session = await sessions.of({ cookie: c.req.header('cookie') })
      if (session !== undefined) return redirect(c, returnTo)
      const { location, pending } = await login.begin(returnTo)
      c.header('Set-Cookie', pendingCookie(pending, PENDING_FOR))
      return redirect(c, location)
    }),
  )

  app.get('/auth/callback', async (c) =>
    problemPage(async () => {
      const pending = readCookie(c.req.header('cookie'), name)
      const { identity, groups, returnTo } = await login.finish(new URL(c.req.url).search, pending)
      const source = sourceOf(c)
      const user = await users.signIn(identity, source)
      const client = c.req.header('user-agent') ?? ''
      const { cookie } = await sessions.start(user.id, { source, client })
      if (groups !== undefined) await grants.setGroups(user.id, groups)
      c.set('subject', user.login)
      c.header('Set-Cookie', pendingCookie('', 0))
      c.header('Set-Cookie', cookie, { append: true })
      return redirect(c, returnTo)
    }),
  )

  app.get('/auth/signed-in', async (c) => {
    const session = await sessions.of({ cookie: c.req.header('cookie') })
    if (session === undefined) return redirect(c, '/auth/login')
    const { user, csrf } = session
    return page({
      title: 'Signed in',
      body: html`<p>You are signed in as <strong>${user.login}</strong> (${user.name}). <a href="/account">Your account</a></p>
<form method="post" action="/auth/logout"><input type="hidden" name="csrf" value="${csrf}"><button>Sign out</button></form>`,
    })
  })

  app.post('/auth/logout', async (c) =>
    problemPage(async () => {
      const session = await sessions.of({ cookie: c.req.header('cookie') })
      let headers = {}
      if (session !== undefined) {
        checkCsrf(session, (await readForm(c.req)).get('csrf'))
        c.set('subject', session.user.login)
        headers = { 'Set-Cookie': (await sessions.end(session.id)).cookie }
      }
      return page({
        title: 'Signed out',
        body: html`<p>You are signed out here. At your identity provider you may still be signed in.</p>`,
        headers,
      })
    }),
  )

  return app
}
