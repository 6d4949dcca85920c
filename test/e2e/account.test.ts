import type { Page } from 'playwright-core'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { connect } from '../../src/database/connect.ts'
import { OpaqueTokens } from '../../src/identity/opaque-tokens.ts'
import { type User, Users } from '../../src/identity/users.ts'
import { loadAgain, startBrowser, type TestBrowser } from '../helpers/browser.ts'
import { startOidcProvider, type TestOidcProvider } from '../helpers/oidc-provider.ts'
import { type TestDatabase, testPostgres } from '../helpers/postgres.ts'
import { type Running, startOnFiles } from '../server/harness.ts'

const PHONE = { width: 360, height: 740 }

let provider: TestOidcProvider
let browser: TestBrowser
beforeAll(async () => {
  const claims = { ada: { preferred_username: 'ada', name: 'Ada <b>L.</b>' } }
  provider = await startOidcProvider({ claims })
  browser = await startBrowser()
}, 60_000)
afterAll(async () => {
  await browser.close()
  await provider.close()
})

describe.each(['sqlite', 'postgres'] as const)('/account in Chromium without JavaScript, on %s', (kind) => {
  let postgres: TestDatabase | undefined
  let server: Running
  let tokens: OpaqueTokens
  let users: Users

  beforeAll(async () => {
    postgres = kind === 'postgres' ? await testPostgres() : undefined
    const { issuer, clientId, clientSecret } = provider
    server = await startOnFiles({
      database: await connect(postgres?.url ?? 'sqlite::memory:'),
      identity: {
        login: { issuer, clientId, clientSecret, scope: 'openid profile', tokenExpiresIn: 3600 },
      },
      leases: {
        providers: [
          {
            id: 'idp1',
            issuer,
            clientId,
            clientSecret,
            scope: 'openid offline_access',
            name: 'Files & more',
          },
        ],
      },
    })
    provider.allowRedirect(`${server.url}/auth/callback`)
    provider.allowRedirect(`${server.url}/api/v1.0/idp1/redirect_uri`)
    tokens = new OpaqueTokens(server.database.db)
    users = new Users(server.database.db)
  }, 60_000)
  afterAll(async () => {
    await server.stop()
    await postgres?.drop()
  })

  const open = async (login: string): Promise<{ page: Page; user: User }> => {
    const page = await browser.fresh({ javaScript: false })
    await page.setViewportSize(PHONE)
    await page.goto(`${server.url}/account`)
    expect(page.url().startsWith(provider.issuer)).toBe(true)
    await page.fill('input[name=login]', login)
    await page.fill('input[name=password]', 'any')
    await page.click('button[type=submit]')
    await consent(page)
    expect(page.url()).toBe(`${server.url}/account`)
    return { page, user: (await users.byLogin(login)) as User }
  }
  const consent = async (page: Page) => {
    for (let turn = 0; turn < 3 && page.url().startsWith(provider.issuer); turn++)
      await page.click('button[type=submit]')
  }
  const sectionOf = async (page: Page, title: string) =>
    (await page.textContent(`section:has(h2:text-is("${title}"))`)) as string
  const press = async (page: Page, label: string) => {
    await page.click(`button[aria-label="${label}"]`)
    expect(page.url()).toBe(`${server.url}/account`)
  }
  const post = async (page: Page, path: string, fields: Record<string, string>) => {
    const cookies = await page.context().cookies(server.url)
    const cookie = cookies.map(({ name, value }) => `${name}=${value}`).join('; ')
    const body = new URLSearchParams(fields)
    return fetch(server.url + path, { method: 'POST', redirect: 'manual', headers: { cookie }, body })
  }
  const csrfOn = (page: Page) => page.getAttribute('input[name=csrf]', 'value') as Promise<string>

  test('shows everything that gets at the account, and ends each at once', async () => {
    const { page, user } = await open('ada')
    expect(await page.textContent('main')).toContain('Ada <b>L.</b>')
    await users.link(user.id, { issuer: 'github', subject: '42', label: 'ada-gh' }, '')
    const make = (token: 'personal' | 'app', client: string, scope: string) =>
      tokens.issue({ userId: user.id, kind: token, scopes: [scope], client })
    const script = await make('personal', 'my-script', `lfs:${'o'.repeat(90)}/*:rw`)
    const app = await make('app', 'https://notes.example', 'storage:notes:rw')
    await make('personal', `<script>x</script>${'y'.repeat(150)}`, 'lfs:*:r')
    const elsewhere = await open('ada')

    await loadAgain(page)
    expect(await sectionOf(page, 'Linked identities')).toContain('ada-gh')
    expect(await sectionOf(page, 'Linked identities')).toContain(provider.issuer)
    expect(await sectionOf(page, 'Sign-ins')).toContain('This browser')
    expect(await sectionOf(page, 'Sign-ins')).toContain('HeadlessChrome')
    expect(await sectionOf(page, 'Tokens')).toContain('my-script')
    expect(await sectionOf(page, 'Tokens')).toContain('<script>x</script>')
    expect(await sectionOf(page, 'Approved apps')).toContain('https://notes.example')
    expect(await sectionOf(page, 'Approved apps')).toContain('opens storage:notes:rw')
    expect(await sectionOf(page, 'Connected accounts')).toContain('not connected')
    expect(await page.content()).not.toContain(script.token)

    // Readable on a phone, by day and by night, with buttons that a thumb can hit.
    expect(await page.evaluate('document.documentElement.scrollWidth')).toBeLessThanOrEqual(PHONE.width)
    for (const button of await page.locator('button').all()) {
      const box = await button.boundingBox()
      expect(box?.height).toBeGreaterThanOrEqual(32)
      expect((box?.x ?? 0) + (box?.width ?? 0)).toBeLessThanOrEqual(PHONE.width)
    }
    const ink = async (colorScheme: 'light' | 'dark') => {
      await page.emulateMedia({ colorScheme })
      return page.evaluate('getComputedStyle(document.body).color')
    }
    expect(await ink('light')).toBe('rgb(0, 0, 0)')
    expect(await ink('dark')).toBe('rgb(255, 255, 255)')

    await press(page, 'Revoke my-script')
    expect(await tokens.find(script.token)).toBeUndefined()
    expect(await sectionOf(page, 'Tokens')).not.toContain('my-script')
    await press(page, 'Revoke https://notes.example')
    expect(await tokens.find(app.token)).toBeUndefined()
    expect(await sectionOf(page, 'Approved apps')).toContain('None.')

    const agent = await page.textContent('article:has(strong:text-matches("^Mozilla")) strong')
    await press(page, `Revoke ${agent}`)
    expect(await sectionOf(page, 'Sign-ins')).not.toContain('HeadlessChrome')
    const response = await fetch(`${server.url}/account`, {
      redirect: 'manual',
      headers: {
        cookie: (await elsewhere.page.context().cookies(server.url))
          .map(({ name, value }) => `${name}=${value}`)
          .join('; '),
      },
    })
    expect(response.status).toBe(303)
    expect(response.headers.get('location')).toBe('/auth/login?return_to=/account')

    await press(page, 'Unlink github')
    expect(await users.byIdentity('github', '42')).toBeUndefined()
    expect(await sectionOf(page, 'Linked identities')).toContain('cannot be unlinked')
    const last = { csrf: await csrfOn(page), issuer: provider.issuer }
    expect((await post(page, '/account/unlink', last)).status).toBe(303)
    expect((await users.byIdentity(provider.issuer, 'ada'))?.id).toBe(user.id)

    const events = await server.database.db.selectFrom('events').selectAll().orderBy('id').execute()
    const done = events.map(({ actor, action, source }) => `${actor} ${action} ${source}`)
    expect(done).toEqual(expect.arrayContaining(['ada identity.unlink 127.0.0.1']))
    expect(done.filter((line) => line === 'ada token.revoke 127.0.0.1')).toHaveLength(3)

    await page.click('button[aria-label="Sign out this browser"]')
    expect(await page.textContent('h1')).toBe('Signed out')
  }, 90_000)

  test('an account elsewhere is connected, reconnected when it is broken, and disconnected', async () => {
    const { page, user } = await open('carl')
    const rows = () =>
      server.database.db.selectFrom('leases').selectAll().where('owner', '=', `user:${user.id}`).execute()
    const follow = async (link: string) => {
      await page.click(`a:text-is("${link}")`)
      await consent(page)
      expect(page.url()).toBe(`${server.url}/account`)
      expect(await sectionOf(page, 'Connected accounts')).toContain('active')
    }
    await follow('Connect Files & more')
    expect(await rows()).toHaveLength(1)
    expect(await page.locator('a').count()).toBe(0)
    const broken = { state: 'broken', error: 'the provider took it back' }
    await server.database.db.updateTable('leases').set(broken).execute()
    await loadAgain(page)
    expect(await sectionOf(page, 'Connected accounts')).toContain('broken · the provider took it back')
    await follow('Reconnect Files & more')
    await press(page, 'Disconnect Files & more')
    expect(await rows()).toEqual([])
    expect(await sectionOf(page, 'Connected accounts')).toContain('not connected')
    const event = await server.database.db
      .selectFrom('events')
      .selectAll()
      .where('action', '=', 'lease.revoke')
      .executeTakeFirstOrThrow()
    expect(event).toMatchObject({ actor: 'carl', source: '127.0.0.1', data: '{"told_provider":true}' })
  }, 90_000)

  test('forms of other sites, and what belongs to somebody else', async () => {
    const bob = await open('bob')
    const eve = await open('eve')
    const { id, token } = await tokens.issue({
      userId: bob.user.id,
      kind: 'personal',
      scopes: [],
      client: 'of bob',
    })
    for (const csrf of [{}, { csrf: '' }, { csrf: await csrfOn(eve.page) }])
      for (const path of ['revoke', 'unlink', 'disconnect'])
        expect((await post(bob.page, `/account/${path}`, { ...csrf, id })).status).toBe(403)
    expect(await eve.page.textContent('main')).not.toContain('of bob')
    const csrf = await csrfOn(eve.page)
    expect((await post(eve.page, '/account/revoke', { csrf, id })).status).toBe(303)
    expect((await post(eve.page, '/account/revoke', { csrf })).status).toBe(303)
    expect((await post(eve.page, '/account/disconnect', { csrf, source: "x' or 1=1 --" })).status).toBe(303)
    expect(await tokens.find(token)).toBeDefined()
    const stranger = await fetch(`${server.url}/account/revoke`, {
      method: 'POST',
      redirect: 'manual',
      body: new URLSearchParams({ id }),
    })
    expect(stranger.status).toBe(303)
    expect(await tokens.find(token)).toBeDefined()
    const shown = await loadAgain(bob.page)
    expect(shown?.headers()).toMatchObject({
      'content-security-policy': expect.stringContaining("default-src 'none'") as string,
      'x-frame-options': 'DENY',
      'cache-control': 'no-store',
    })
  }, 90_000)
})
