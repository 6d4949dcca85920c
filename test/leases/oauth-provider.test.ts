import { createServer, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest'
import { generateKey } from '../../src/auth/secret-box.ts'
import { Tokens } from '../../src/auth/tokens.ts'
import { connect, type Database } from '../../src/database/connect.ts'
import { Sessions } from '../../src/identity/sessions.ts'
import { Users } from '../../src/identity/users.ts'
import { checkReturn } from '../../src/leases/oauth-routes.ts'
import { startOidcProvider, type TestOidcProvider } from '../helpers/oidc-provider.ts'
import { type TestDatabase, testPostgres } from '../helpers/postgres.ts'
import { type Serving, startServing } from '../helpers/serving.ts'
import { type Running, SECRET, startOnFiles } from '../server/harness.ts'

/** A browser of one person: cookies by origin, no redirects followed on its own. */
class Browser {
  readonly #jars = new Map<string, Map<string, string>>()

  set(url: string, cookie: string): void {
    const [pair = ''] = cookie.split(';')
    const jar = this.#jars.get(new URL(url).origin) ?? new Map<string, string>()
    this.#jars.set(new URL(url).origin, jar)
    jar.set(pair.slice(0, pair.indexOf('=')), pair.slice(pair.indexOf('=') + 1))
  }

  async go(url: string, init: RequestInit & { headers?: Record<string, string> } = {}): Promise<Response> {
    const jar = this.#jars.get(new URL(url).origin) ?? new Map<string, string>()
    const cookie = [...jar].map(([name, value]) => `${name}=${value}`).join('; ')
    const response = await fetch(url, { redirect: 'manual', ...init, headers: { ...init.headers, cookie } })
    for (const value of response.headers.getSetCookie()) this.set(url, value)
    return response
  }

  /** From the provider's page, through its forms, to where it sends the browser back to `home`. */
  async consent(url: string, home: string): Promise<string> {
    let at = url
    for (let step = 0; step < 20; step++) {
      if (at.startsWith(home)) return at
      const response = await this.go(at)
      const location = response.headers.get('location')
      if (location !== null) {
        at = new URL(location, at).href
        continue
      }
      const html = await response.text()
      const action = new URL(/action="([^"]+)"/.exec(html)?.[1] ?? expect.fail(html), at).href
      const prompt = /name="prompt" value="(\w+)"/.exec(html)?.[1] ?? ''
      const body = new URLSearchParams({ prompt, login: 'ada@idp', password: 'x' })
      const posted = await this.go(action, { method: 'POST', body })
      at = new URL(posted.headers.get('location') ?? expect.fail(await posted.text()), at).href
    }
    return expect.fail('the provider never came to an end')
  }
}

async function signIn(
  database: Database,
  url: string,
  login: string,
): Promise<{ browser: Browser; id: number }> {
  const users = new Users(database.db)
  const user = (await users.byLogin(login)) ?? (await users.add({ login, name: login }, ''))
  const sessions = new Sessions({ db: database.db, url })
  const { cookie } = await sessions.start(user.id, { source: '', client: 'tests' })
  const browser = new Browser()
  browser.set(url, cookie)
  return { browser, id: user.id }
}

const location = (response: Response): string =>
  response.headers.get('location') ?? `none (${response.status})`

/** Makes a lease of an hour ago, whose token has just ended. */
const AGED =
  "update leases set updated_at = '2020-01-01T00:00:00.000Z', expires_at = '2020-01-01T01:00:00.000Z'"

describe.each(['sqlite', 'postgres'] as const)('/api/v1.0 on %s', (kind) => {
  let postgres: TestDatabase | undefined
  let running: Running
  let idp: TestOidcProvider
  let ada: Browser
  let api: string
  const faults: { answer?: ((response: ServerResponse) => void) | undefined } = {}
  /** A plain OAuth 2.0 provider, as GitHub: answers of its token endpoint. */
  const plain = createServer((_request, response) => {
    if (faults.answer !== undefined) return faults.answer(response)
    response.writeHead(200, { 'content-type': 'application/json' })
    response.end(JSON.stringify({ access_token: 'gho_x', token_type: 'bearer', scope: 'repo,gist' }))
  })

  beforeAll(async () => {
    postgres = kind === 'postgres' ? await testPostgres() : undefined
    idp = await startOidcProvider()
    await new Promise<void>((resolve) => plain.listen(0, '127.0.0.1', resolve))
    const origin = `http://127.0.0.1:${(plain.address() as AddressInfo).port}`
    running = await startOnFiles({
      database: await connect(postgres?.url ?? 'sqlite::memory:'),
      leases: {
        returnOrigins: ['https://portal.example'],
        providers: [
          {
            id: 'idp1',
            issuer: idp.issuer,
            clientId: idp.clientId,
            clientSecret: idp.clientSecret,
            scope: 'openid email offline_access',
            name: 'IDP1',
          },
          {
            id: 'hub',
            authorizationEndpoint: `${origin}/authorize`,
            tokenEndpoint: `${origin}/token`,
            clientId: 'timone',
            clientSecret: 'x',
            scope: 'repo',
          },
        ],
      },
    })
    api = `${running.url}/api/v1.0`
    idp.allowRedirect(`${api}/idp1/redirect_uri`)
    ada = (await signIn(running.database, running.url, 'ada')).browser
  })
  afterEach(() => {
    faults.answer = undefined
  })
  afterAll(async () => {
    await running.stop()
    await idp.close()
    plain.closeAllConnections()
    plain.close()
    await postgres?.drop()
  })

  const connectIdp = async (browser = ada, back = 'https://portal.example/done?x=1'): Promise<Response> => {
    const sent = await browser.go(`${api}/idp1/authorize?return_url=${encodeURIComponent(back)}`)
    return browser.go(await browser.consent(location(sent), running.url))
  }
  const connectHub = async (): Promise<Response> => {
    const sent = new URL(location(await ada.go(`${api}/hub/authorize`)))
    return ada.go(`${api}/hub/redirect_uri?code=c1&state=${sent.searchParams.get('state')}`)
  }

  test('403 without signing in, also for a provider that there is not', async () => {
    for (const path of [
      'authorizations',
      'idp1/token',
      'idp1/authorize',
      'nobody/token',
      'idp1/redirect_uri',
    ])
      expect((await fetch(`${api}/${path}`, { redirect: 'manual' })).status, path).toBe(403)
    expect(
      (await fetch(`${running.url}/api/whoami`, { headers: { authorization: 'Bearer x' } })).status,
    ).toBe(403)
    expect((await ada.go(`${api}/nobody/token`)).status).toBe(404)
    expect((await ada.go(`${api}/constructor/token`)).status).toBe(404)
  })

  test('authorizations, and the flat shape of v1', async () => {
    const [first] = (await (await ada.go(`${api}/authorizations`)).json()) as [object]
    expect(first).toEqual({
      active: false,
      state: null,
      error: null,
      scope: null,
      provider: 'idp1',
      actions: {
        authorize: `${api}/idp1/authorize`,
        token: `${api}/idp1/token`,
        revoke: `${api}/idp1/revoke`,
      },
      metadata: { name: 'IDP1', url: null, icon: null, description: null, logo: null },
    })
    const [flat] = (await (await ada.go(`${running.url}/api/v1/authorizations`)).json()) as [object]
    expect(flat).toMatchObject({ provider: 'idp1', name: 'IDP1', token: `${running.url}/api/v1/idp1/token` })
  })

  test('400 before anything is connected, with where to connect', async () => {
    const response = await ada.go(`${api}/idp1/token`)
    expect(response.status).toBe(400)
    expect(((await response.json()) as { error: string }).error).toContain(`${api}/idp1/authorize`)
  })

  test('connect, use, refresh, use, revoke', async () => {
    expect(location(await connectIdp())).toBe('https://portal.example/done?x=1')
    const first = (await (await ada.go(`${api}/idp1/token`)).json()) as Record<string, unknown>
    expect(first).toMatchObject({ token_type: 'Bearer', scope: 'openid email offline_access' })
    expect(first.expires_in).toBeGreaterThan(3500)
    const bearer = { authorization: await running.as('ada', 'lease:idp1:token') }
    expect(await (await fetch(`${api}/idp1/token`, { headers: bearer })).json()).toMatchObject({
      access_token: first.access_token,
    })
    const narrow = { authorization: await running.as('ada', 'lease:hub:token') }
    expect((await fetch(`${api}/idp1/token`, { headers: narrow })).status).toBe(403)

    const { db } = running.database
    await db
      .updateTable('leases')
      .set({ updated_at: '2020-01-01T00:00:00.000Z', expires_at: '2020-01-01T01:00:00.000Z' })
      .execute()
    const second = (await (await ada.go(`${api}/idp1/token`)).json()) as Record<string, unknown>
    expect(second.access_token).not.toBe(first.access_token)

    const revoked = await ada.go(`${api}/idp1/revoke`, { method: 'POST' })
    expect([revoked.status, await revoked.json()]).toEqual([200, 'Token revoked'])
    expect((await ada.go(`${api}/idp1/revoke`, { method: 'POST' })).status).toBe(200)
    expect((await ada.go(`${api}/idp1/token`)).status).toBe(400)
    const events = await db
      .selectFrom('events')
      .select(['action', 'data'])
      .where('action', 'like', 'lease.%')
      .execute()
    expect(events).toEqual([
      { action: 'lease.connect', data: '{}' },
      { action: 'lease.revoke', data: '{"told_provider":true}' },
    ])
  })

  test('a token that was revoked at the provider: broken, shown so, and put right by connecting again', async () => {
    await connectIdp()
    const { db } = running.database
    const { refresh_token } = await db.selectFrom('leases').selectAll().executeTakeFirstOrThrow()
    const aged = { updated_at: '2020-01-01T00:00:00.000Z', expires_at: '2020-01-01T01:00:00.000Z' }
    await db.updateTable('leases').set(aged).execute()
    expect((await ada.go(`${api}/idp1/token`)).status).toBe(200)
    // As an older copy of the database would.
    await db
      .updateTable('leases')
      .set({ ...aged, refresh_token })
      .execute()
    const broken = await ada.go(`${api}/idp1/token`)
    expect(broken.status).toBe(400)
    expect(((await broken.json()) as { error: string }).error).toContain('connect again at')
    const [shown] = (await (await ada.go(`${api}/authorizations`)).json()) as [object]
    expect(shown).toMatchObject({ active: false, state: 'broken' })
    await connectIdp()
    expect((await ada.go(`${api}/idp1/token`)).status).toBe(200)
  })

  test('the answer of a provider counts once, for the browser, session and provider that it began with', async () => {
    const sent = location(await ada.go(`${api}/idp1/authorize`))
    const back = await ada.consent(sent, running.url)
    const eve = (await signIn(running.database, running.url, 'eve')).browser
    expect((await eve.go(back)).status).toBe(403)
    expect((await fetch(back, { redirect: 'manual' })).status).toBe(403)
    expect((await ada.go(back.replace('/idp1/', '/hub/'))).status).toBe(403)
    const mixed = new URL(back)
    mixed.searchParams.set('state', 'x'.repeat(43))
    expect((await ada.go(mixed.href)).status).toBe(403)
    expect((await ada.go(back.replace(/[?].*/, ''))).status).toBe(403)
    const good = await ada.go(back)
    expect(location(good)).toBe(`${running.url}/account`)
    // The cookie is gone; with a copy of it the provider refuses the code.
    expect((await ada.go(back)).status).toBe(403)
  })

  test('a code that is used again: 400', async () => {
    const sent = await ada.go(`${api}/idp1/authorize`)
    const [kept = ''] = sent.headers.getSetCookie()
    const back = await ada.consent(location(sent), running.url)
    expect((await ada.go(back)).status).toBe(302)
    ada.set(running.url, kept)
    expect((await ada.go(back)).status).toBe(400)
  })

  test('a refusal at the provider is passed on to the page', async () => {
    const sent = new URL(location(await ada.go(`${api}/hub/authorize?return_url=/account`)))
    const state = sent.searchParams.get('state')
    const back = await ada.go(`${api}/hub/redirect_uri?error=access_denied&state=${state}`)
    expect(location(back)).toBe(`${running.url}/account?error=access_denied`)
  })

  test('PKCE, state, nonce, and no secret in the address', async () => {
    const sent = new URL(location(await ada.go(`${api}/idp1/authorize`)))
    expect(Object.fromEntries(sent.searchParams)).toMatchObject({
      code_challenge_method: 'S256',
      prompt: 'consent',
      response_type: 'code',
      redirect_uri: `${api}/idp1/redirect_uri`,
    })
    expect(sent.searchParams.get('nonce')).toMatch(/^[\w-]{43}$/)
    expect(sent.href).not.toContain(encodeURIComponent(idp.clientSecret))
  })

  test('plain OAuth 2.0: no ID token, no end, no refresh token', async () => {
    expect(location(await connectHub())).toBe(`${running.url}/account`)
    expect(await (await ada.go(`${api}/hub/token`)).json()).toMatchObject({
      access_token: 'gho_x',
      expires_at: null,
      scope: 'repo,gist',
    })
    expect((await ada.go(`${api}/hub/revoke`, { method: 'POST' })).status).toBe(200)
  })

  test.each([
    [
      'HTML',
      503,
      (response: ServerResponse) => void response.setHeader('content-type', 'text/html').end('<h1>hi'),
    ],
    ['500', 503, (response: ServerResponse) => void response.writeHead(500).end('oops')],
    ['nothing: it hangs up', 503, (response: ServerResponse) => void response.destroy()],
    [
      '200 with an error',
      400,
      (response: ServerResponse) =>
        void response.setHeader('content-type', 'application/json').end('{"error":"invalid_grant"}'),
    ],
    [
      'no access token',
      503,
      (response: ServerResponse) =>
        void response.setHeader('content-type', 'application/json').end('{"token_type":"bearer"}'),
    ],
  ])('a token endpoint that answers %s: %i', async (_, status, answer) => {
    faults.answer = answer
    const response = await connectHub()
    expect(response.status).toBe(status)
    expect(response.headers.get('retry-after')).toBe(status === 503 ? '5' : null)
    expect((await ada.go(`${api}/hub/token`)).status).toBe(400)
  })

  test('a token endpoint that takes the request and says nothing: 503 in time', async () => {
    faults.answer = () => {}
    const started = performance.now()
    const response = await connectHub()
    expect(response.status).toBe(503)
    expect(response.headers.get('retry-after')).toBe('5')
    expect(await response.json()).toMatchObject({
      error: expect.stringContaining('no answer in time') as string,
    })
    expect(performance.now() - started).toBeLessThan(12_000)
  }, 20_000)

  test('v1: POST authorize gives 201 and the address, POST revoke an empty 200', async () => {
    const v1 = `${running.url}/api/v1`
    const made = await ada.go(`${v1}/idp1/authorize?referer=https://portal.example/`, { method: 'POST' })
    expect(made.status).toBe(201)
    expect(location(made)).toContain(idp.issuer)
    const gone = await ada.go(`${v1}/idp1/revoke`, { method: 'POST' })
    expect([gone.status, await gone.text()]).toEqual([200, ''])
  })

  test('other sites: no CORS, and no POST in the name of who is signed in here', async () => {
    const origin = 'https://evil.example'
    const read = await ada.go(`${api}/authorizations`, { headers: { origin } })
    expect(read.headers.get('access-control-allow-origin')).toBeNull()
    expect((await ada.go(`${api}/idp1/revoke`, { method: 'POST', headers: { origin } })).status).toBe(403)
    const friend = await ada.go(`${api}/authorizations`, { headers: { origin: 'https://portal.example' } })
    expect(friend.headers.get('access-control-allow-origin')).toBe('https://portal.example')
  })

  test('whoami, and the sign-in that tokenstore had under /api/oidc', async () => {
    expect(await (await ada.go(`${running.url}/api/whoami`)).json()).toMatchObject({
      name: 'ada',
      roles: [],
      scopes: [],
    })
    const login = await fetch(`${running.url}/api/oidc/login?next=/account`, { redirect: 'manual' })
    expect(location(login)).toBe('/auth/login?return_to=%2Faccount')
  })

  test.each([
    'https://evil.example/',
    '//evil.example',
    '/\\evil.example',
    'https:evil.example',
    'javascript:alert(1)',
    'https://portal.example@evil.example/',
    'https://portal.example.evil.example/',
    'https://user@portal.example/',
    'http://portal.example/',
    '/account\r\nX-Evil: 1',
    '\t//evil.example',
  ])('does not send browsers to %j', async (target) => {
    const response = await ada.go(`${api}/idp1/authorize?return_url=${encodeURIComponent(target)}`)
    expect(response.status).toBe(400)
    expect(response.headers.get('location')).toBeNull()
  })

  test('sends them to our own pages and to origins of the settings', () => {
    const origins = new Set(['https://timone.example', 'https://portal.example'])
    expect(checkReturn('/x?y', 'https://timone.example', origins)).toBe('https://timone.example/x?y')
    expect(checkReturn('https://portal.example/a', 'https://timone.example', origins)).toBe(
      'https://portal.example/a',
    )
    expect(checkReturn(undefined, 'https://timone.example', origins)).toBe('https://timone.example/account')
  })
})

describe('two server processes on one Postgres, a provider that rotates', () => {
  let postgres: TestDatabase
  let database: Database
  let idp: TestOidcProvider
  const servers: Serving[] = []

  beforeAll(async () => {
    postgres = await testPostgres()
    idp = await startOidcProvider()
    const env = {
      TIMONE_DATABASE_URL: postgres.url,
      TIMONE_TOKEN_SECRET: SECRET,
      TIMONE_SECRET_KEYS: generateKey(),
      TOKENSTORE_TOKEN_PROVIDERS: 'idp1',
      IDP1_DISCOVERY_URL: `${idp.issuer}/.well-known/openid-configuration`,
      IDP1_CLIENT_ID: idp.clientId,
      TOKENSTORE_IDP1_CLIENT_SECRET: idp.clientSecret,
    }
    servers.push(await startServing(env), await startServing(env))
    database = await connect(postgres.url)
  }, 60_000)
  afterAll(async () => {
    for (const server of servers) await server.stop()
    await database?.close()
    await idp?.close()
    await postgres?.drop()
  })

  test('50 callers at once: one refresh, 50 times 200, and the next refresh works', async () => {
    const { url } = servers[0] as Serving
    idp.allowRedirect(`${url}/api/v1.0/idp1/redirect_uri`)
    const { browser } = await signIn(database, url, 'ada')
    const sent = await browser.go(`${url}/api/v1.0/idp1/authorize`)
    expect((await browser.go(await browser.consent(location(sent), url))).status).toBe(302)
    const tokens = await Promise.all(
      servers.map((server) => {
        const issuer = new Tokens({ secret: SECRET, issuer: server.url, requireScope: false })
        return issuer.issueUser({ user: 'ada', scopes: ['lease:idp1:token'] })
      }),
    )
    for (const round of [1, 2, 3]) {
      await postgres.query(AGED)
      const answers = await Promise.all(
        Array.from({ length: 50 }, async (_, index) => {
          const headers = { authorization: `Bearer ${tokens[index % 2]}` }
          const response = await fetch(`${servers[index % 2]?.url}/api/v1.0/idp1/token`, { headers })
          return { status: response.status, ...((await response.json()) as { access_token: string }) }
        }),
      )
      expect(answers.map(({ status }) => status)).toEqual(Array(50).fill(200))
      expect(new Set(answers.map(({ access_token }) => access_token)).size).toBe(1)
      expect(idp.grants.filter((grant) => grant.startsWith('refresh_token'))).toEqual(
        Array(round).fill('refresh_token ok'),
      )
    }

    /** Statuses of many requests at once on one of the servers. */
    const statuses = async (number: number): Promise<Set<number>> => {
      const headers = { authorization: `Bearer ${tokens[number]}` }
      const asked = Array.from({ length: 20 }, () =>
        fetch(`${servers[number]?.url}/api/v1.0/idp1/token`, { headers }),
      )
      return new Set((await Promise.all(asked)).map(({ status }) => status))
    }
    expect(await statuses(1)).toEqual(new Set([200]))
    await postgres.query("update leases set state = 'broken', error = 'for the test'")
    expect(await statuses(1)).toEqual(new Set([400]))
    await postgres.query("update leases set state = 'active', error = null")
    expect(await statuses(1)).toEqual(new Set([200]))
    const ended = await fetch(`${url}/api/v1.0/idp1/revoke`, {
      method: 'POST',
      headers: { authorization: `Bearer ${tokens[0]}` },
    })
    expect(ended.status).toBe(200)
    expect(await statuses(1)).toEqual(new Set([400]))
  })
})
