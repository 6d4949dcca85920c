import type { BrowserContext, Page } from 'playwright-core'
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest'
import { connect } from '../../src/database/connect.ts'
import { type User, Users } from '../../src/identity/users.ts'
import { loadAgain, startBrowser, type TestBrowser } from '../helpers/browser.ts'
import { type FakeGithubSignIn, startGithubSignIn } from '../helpers/github-sign-in.ts'
import { startOidcProvider, type TestOidcProvider } from '../helpers/oidc-provider.ts'
import { type TestDatabase, testPostgres } from '../helpers/postgres.ts'
import { type Running, startOnFiles } from '../server/harness.ts'

let home: TestOidcProvider
let other: TestOidcProvider
let github: FakeGithubSignIn
let browser: TestBrowser
beforeAll(async () => {
  home = await startOidcProvider()
  other = await startOidcProvider({
    clientId: 'second',
    claims: { 'ada-2': { preferred_username: 'ada-2' } },
  })
  github = await startGithubSignIn()
  browser = await startBrowser()
}, 60_000)
afterEach(() => {
  github.answer = undefined
})
afterAll(async () => {
  await browser.close()
  await home.close()
  await other.close()
  await github.close()
})

describe.each(['sqlite', 'postgres'] as const)(
  'linking accounts in Chromium without JavaScript, on %s',
  (kind) => {
    let postgres: TestDatabase | undefined
    let server: Running
    let users: Users
    let told = 0

    beforeAll(async () => {
      postgres = kind === 'postgres' ? await testPostgres() : undefined
      const { issuer, clientId, clientSecret } = home
      server = await startOnFiles({
        database: await connect(postgres?.url ?? 'sqlite::memory:'),
        usersChanged: () => told++,
        identity: {
          login: { issuer, clientId, clientSecret, scope: 'openid profile', tokenExpiresIn: 3600 },
          signInProviders: [
            {
              id: 'second',
              name: 'Second & Co',
              issuer: `${other.issuer}/.well-known/openid-configuration`,
              clientId: other.clientId,
              clientSecret: other.clientSecret,
            },
            {
              id: 'my-github',
              name: 'GitHub',
              authorizationEndpoint: `${github.url}/login/oauth/authorize`,
              tokenEndpoint: `${github.url}/login/oauth/access_token`,
              userinfoEndpoint: `${github.url}/user`,
              clientId: github.clientId,
              clientSecret: github.clientSecret,
            },
          ],
        },
      })
      home.allowRedirect(`${server.url}/auth/callback`)
      other.allowRedirect(`${server.url}/auth/callback/second`)
      users = new Users(server.database.db)
    }, 60_000)
    afterAll(async () => {
      await server.stop()
      await postgres?.drop()
    })

    const fill = async (page: Page, login: string) => {
      await page.fill('input[name=login]', login)
      await page.fill('input[name=password]', 'any')
      await page.click('button[type=submit]')
      for (let turn = 0; turn < 3 && !page.url().startsWith(server.url); turn++)
        await page.click('button[type=submit]')
    }
    /** Signs in where everybody does. */
    const open = async (login: string): Promise<{ page: Page; user: User }> => {
      const page = await browser.fresh({ javaScript: false })
      await page.setViewportSize({ width: 360, height: 740 })
      await page.goto(`${server.url}/account`)
      expect(await page.textContent('h1')).toBe('Sign in')
      await page.click('a:text-is("Sign in")')
      await fill(page, login)
      expect(page.url()).toBe(`${server.url}/account`)
      return { page, user: (await users.byLogin(login)) as User }
    }
    const identities = async (page: Page) =>
      (await page.textContent('section:has(h2:text-is("Linked identities"))')) as string
    const cookieOf = async (context: BrowserContext) =>
      (await context.cookies(server.url)).map(({ name, value }) => `${name}=${value}`).join('; ')
    const link = async (page: Page, name: string) => {
      await page.click(`button[aria-label="Link ${name}"]`)
      await page.waitForURL((url) => !url.href.startsWith(`${server.url}/account/link`))
    }
    const events = async (user: User, action: string) =>
      server.database.db
        .selectFrom('events')
        .selectAll()
        .where('action', '=', action)
        .where('subject', '=', `user:${user.id}`)
        .execute()

    test('another OpenID provider: linked, shown, signed in with, unlinked', async () => {
      const { page, user } = await open('ada')
      await link(page, 'Second & Co')
      await fill(page, 'ada-2')
      expect(page.url()).toBe(`${server.url}/account`)
      expect(await identities(page)).toContain('ada-2')
      expect(await page.locator('button[aria-label="Link Second & Co"]').count()).toBe(0)
      expect((await users.byIdentity(other.issuer, 'ada-2'))?.id).toBe(user.id)
      expect(await events(user, 'identity.link')).toMatchObject([
        // Nobody else is told of that, so it does not wait to be published.
        { actor: 'ada', source: '127.0.0.1', published_at: expect.any(String) as string },
      ])
      expect(await page.content()).not.toContain(other.clientSecret)

      const elsewhere = await browser.fresh({ javaScript: false })
      await elsewhere.goto(`${server.url}/auth/login?return_to=/account`)
      await elsewhere.click('a:text-is("Sign in with Second & Co")')
      await fill(elsewhere, 'ada-2')
      expect(elsewhere.url()).toBe(`${server.url}/account`)
      expect(await elsewhere.textContent('main')).toContain('You are ada')

      await page.click(`button[aria-label="Unlink ${other.issuer}"]`)
      expect(await identities(page)).not.toContain('ada-2')
      const after = await browser.fresh({ javaScript: false })
      await after.goto(`${server.url}/auth/login/second`)
      await fill(after, 'ada-2')
      expect(await after.textContent('main')).toContain('nobody here has linked this account')
      const names = (await after.context().cookies(server.url)).map(({ name }) => name)
      expect(names).not.toContain('timone-session')
    }, 120_000)

    test('GitHub: asked for no rights, its token not kept, and refused when somebody else holds the account', async () => {
      const { page, user } = await open('bob')
      await link(page, 'GitHub')
      await page.waitForURL(`${server.url}/account`)
      expect(await identities(page)).toContain('octocat')
      expect((await users.byIdentity(`${github.url}/user`, '583231'))?.id).toBe(user.id)
      expect(github.scopes.every((scope) => scope === null)).toBe(true)
      expect(await server.database.db.selectFrom('leases').selectAll().execute()).toEqual([])

      const eve = await open('eve')
      await link(eve.page, 'GitHub')
      expect(await eve.page.textContent('main')).toContain('belongs to another user here')
      expect((await users.byIdentity(`${github.url}/user`, '583231'))?.id).toBe(user.id)
      expect(await events(eve.user, 'identity.link')).toEqual([])

      const elsewhere = await browser.fresh({ javaScript: false })
      await elsewhere.goto(`${server.url}/auth/login/my-github?return_to=/account`)
      expect(await elsewhere.textContent('main')).toContain('You are bob')
    }, 120_000)

    test.each([
      ['HTML', (response) => void response.setHeader('content-type', 'text/html').end('<h1>hi')],
      ['500', (response) => void response.writeHead(500).end('oops')],
      ['nobody', (response) => void response.end('{"login":"octocat"}')],
      ['an id that is none', (response) => void response.end('{"id":{"$ne":1}}')],
      ['no answer', (response) => void response.destroy()],
    ] satisfies [string, NonNullable<FakeGithubSignIn['answer']>][])(
      'a provider that says who somebody is by %s: nothing is linked',
      async (_, answer) => {
        const { page, user } = await open('carl')
        github.answer = answer
        await link(page, 'GitHub')
        expect(await page.textContent('h1')).toBe('That did not work')
        expect(await events(user, 'identity.link')).toEqual([])
      },
      60_000,
    )

    test('begins with a form of this session only, and ends in the session that it began in', async () => {
      const dora = await open('dora')
      const eve = await open('eve')
      const post = async (page: Page, fields: Record<string, string>) =>
        fetch(`${server.url}/account/link`, {
          method: 'POST',
          redirect: 'manual',
          headers: { cookie: await cookieOf(page.context()) },
          body: new URLSearchParams(fields),
        })
      const csrfOf = (page: Page) => page.getAttribute('input[name=csrf]', 'value') as Promise<string>
      for (const csrf of [{}, { csrf: '' }, { csrf: await csrfOf(eve.page) }])
        expect((await post(dora.page, { ...csrf, provider: 'second' })).status).toBe(403)
      const csrf = await csrfOf(dora.page)
      for (const provider of ['', 'nobody', '__proto__', 'constructor'])
        expect((await post(dora.page, { csrf, provider })).status).toBe(400)

      // What eve began is brought back by dora's browser: nothing is linked to either.
      github.user = { id: 77, login: 'eve-gh', name: 'Eve' }
      const begun = await post(eve.page, { csrf: await csrfOf(eve.page), provider: 'my-github' })
      expect(begun.status).toBe(200)
      const pending = begun.headers.get('set-cookie')?.split(';')[0] ?? ''
      const target = /content="0; url=([^"]+)"/.exec(await begun.text())?.[1]?.replaceAll('&amp;', '&') ?? ''
      const back = (await fetch(target, { redirect: 'manual' })).headers.get('location') ?? ''
      const finish = async (cookie: string, address = back) =>
        (await fetch(address, { redirect: 'manual', headers: { cookie } })).status
      const dorasCookie = await cookieOf(dora.page.context())
      const evesCookie = await cookieOf(eve.page.context())
      expect(await finish(`${dorasCookie}; ${pending}`)).toBe(403)
      expect(await finish(pending)).toBe(403)
      expect(await finish(evesCookie)).toBe(403)
      expect(await finish(`${evesCookie}; ${pending}`, back.replace(/state=[^&]+/, 'state=x'))).toBe(403)
      expect(await finish(`${evesCookie}; ${pending}`, back.replace('my-github', 'second'))).toBe(403)
      // The code was used up by the first of them.
      expect(await finish(`${evesCookie}; ${pending}`)).toBe(403)
      expect(await users.byIdentity(`${github.url}/user`, '77')).toBeUndefined()
      github.user = { id: 583231, login: 'octocat', name: 'The Octocat' }
    }, 120_000)

    test('programs that know of GitHub accounts are told of a link and of its end', async () => {
      const { page, user } = await open('fred')
      const before = told
      await users.link(user.id, { issuer: 'github', subject: '42', label: 'fred-gh' }, '')
      await loadAgain(page)
      await page.click('button[aria-label="Unlink github"]')
      expect(told).toBe(before + 1)
      const heard = await events(user, 'user.patch')
      expect(heard.map(({ data, published_at }) => [JSON.parse(data), published_at])).toEqual([
        [{ ops: [{ op: 'add', path: '/github', value: { id: 42 } }] }, null],
        [{ ops: [{ op: 'remove', path: '/github' }] }, null],
      ])
    }, 60_000)
  },
)
