import { type Context, Hono } from 'hono'
import { html } from 'hono/html'
import { TimoneError } from '../errors.ts'
import { readCookie } from './cookies.ts'
import { readForm } from './form.ts'
import type { Grants } from './grants.ts'
import { type IdentityEnv, sourceOf } from './identity-env.ts'
import type { LinkedIdentities } from './linked-identities.ts'
import type { BrowserLogin, SignedIn } from './oidc-login.ts'
import { page } from './page.ts'
import { PENDING_FOR } from './pending-sign-in.ts'
import { problemPage } from './problem-page.ts'
import { localPath } from './return-to.ts'
import { checkCsrf, type Sessions } from './sessions.ts'
import type { WayIn } from './sign-in-provider.ts'
import type { Users } from './users.ts'

export interface LoginRoutesOptions {
  /** Makes users known here. */
  login: BrowserLogin
  /** Lead to users who linked them. */
  ways: ReadonlyMap<string, WayIn>
  identities: LinkedIdentities
  sessions: Sessions
  users: Users
  grants: Grants
  /** Public URL of this server. */
  url: string
}

/**
 * `/auth/login`, `/auth/callback`, `/auth/logout`: signing in and out with a browser; `/auth/login/{provider}` and
 * `/auth/callback/{provider}` with an account elsewhere, which `POST /account/link` links to whoever is signed in.
 */
export function loginRoutes(options: LoginRoutesOptions): Hono<IdentityEnv> {
  const { login, ways, identities, sessions, users, grants, url } = options
  const app = new Hono<IdentityEnv>()
  const secure = url.startsWith('https:')
  const nameOf = (way?: WayIn) => {
    const name = `timone-login${way === undefined ? '' : `-${way.id}`}`
    return secure ? `__Host-${name}` : name
  }
  const pendingCookie = (way: WayIn | undefined, value: string, seconds: number) =>
    `${nameOf(way)}=${value}; Path=/; Max-Age=${seconds}; HttpOnly; SameSite=Lax${secure ? '; Secure' : ''}`
  const redirect = (c: Context<IdentityEnv>, path: string) => {
    c.header('Cache-Control', 'no-store')
    c.header('Referrer-Policy', 'no-referrer')
    return c.redirect(path, 302)
  }
  const wayOf = (id: string | undefined): WayIn => {
    const way = ways.get(id ?? '')
    if (way === undefined) throw new TimoneError('invalid', 'there is no such provider to sign in with')
    return way
  }
  const begin = async (c: Context<IdentityEnv>, way?: WayIn): Promise<Response> => {
    const returnTo = localPath(c.req.query('return_to'))
    const session = await sessions.of({ cookie: c.req.header('cookie') })
    if (session !== undefined) return redirect(c, returnTo)
    if (way === undefined && ways.size > 0 && c.req.query('here') === undefined)
      return choicePage([...ways.values()], returnTo)
    const { location, pending } = await (way?.login ?? login).begin(returnTo)
    c.header('Set-Cookie', pendingCookie(way, pending, PENDING_FOR))
    return redirect(c, location)
  }
  const finish = (c: Context<IdentityEnv>, way?: WayIn): Promise<SignedIn> => {
    const pending = readCookie(c.req.header('cookie'), nameOf(way))
    c.header('Set-Cookie', pendingCookie(way, '', 0))
    return (way?.login ?? login).finish(new URL(c.req.url).search, pending)
  }
  const enter = async (c: Context<IdentityEnv>, userId: number, returnTo: string): Promise<Response> => {
    const client = c.req.header('user-agent') ?? ''
    const { cookie, session } = await sessions.start(userId, { source: sourceOf(c), client })
    c.set('subject', session.user.login)
    c.header('Set-Cookie', cookie, { append: true })
    return redirect(c, returnTo)
  }

  app.get('/auth/login', (c) => problemPage(() => begin(c)))
  app.get('/auth/login/:provider', (c) => problemPage(async () => begin(c, wayOf(c.req.param('provider')))))

  app.get('/auth/callback', (c) =>
    problemPage(async () => {
      const { identity, groups, returnTo } = await finish(c)
      const user = await users.signIn(identity, sourceOf(c))
      const answer = await enter(c, user.id, returnTo)
      if (groups !== undefined) await grants.setGroups(user.id, groups)
      return answer
    }),
  )

  app.get('/auth/callback/:provider', (c) =>
    problemPage(async () => {
      const { identity, returnTo, link } = await finish(c, wayOf(c.req.param('provider')))
      if (link !== undefined) {
        const session = await sessions.of({ cookie: c.req.header('cookie') })
        // The one that pressed the button, and no other that this browser has by now.
        if (session?.id !== link)
          throw new TimoneError('forbidden', 'you signed out meanwhile: sign in, and link the account again')
        c.set('subject', session.user.login)
        await identities.link(session.user, identity, sourceOf(c))
        return redirect(c, returnTo)
      }
      const user = await users.byIdentity(identity.issuer, identity.subject)
      if (user === undefined)
        throw new TimoneError(
          'forbidden',
          'nobody here has linked this account: sign in as you always do, and link it on the page of your account',
        )
      return enter(c, user.id, returnTo)
    }),
  )

  app.post('/account/link', (c) =>
    problemPage(async () => {
      const session = await sessions.of({ cookie: c.req.header('cookie') })
      if (session === undefined) return redirect(c, '/auth/login?return_to=/account')
      c.set('subject', session.user.login)
      const form = await readForm(c.req)
      // Whoever could begin this for somebody else could link an account of their own, and be that user from then on.
      checkCsrf(session, form.get('csrf'))
      const way = wayOf(form.get('provider') ?? undefined)
      const { location, pending } = await way.login.begin('/account', session.id)
      return page({
        title: `Link ${way.name}`,
        // A form must not lead to another site (form-action), and that site may lead to any other.
        refresh: location,
        body: html`<p>You are being sent to ${way.name}. <a href="${location}">Go on</a></p>`,
        headers: { 'Set-Cookie': pendingCookie(way, pending, PENDING_FOR) },
      })
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

function choicePage(ways: readonly WayIn[], returnTo: string): Promise<Response> {
  const query = `return_to=${encodeURIComponent(returnTo)}`
  return page({
    title: 'Sign in',
    body: html`<p><a href="/auth/login?here&amp;${query}">Sign in</a></p>
${ways.map(({ id, name }) => html`<p><a href="/auth/login/${id}?${query}">Sign in with ${name}</a>, once it is linked to you</p>`)}`,
  })
}
