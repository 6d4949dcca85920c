import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { request as httpRequest } from 'node:http'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest'
import { generateKey } from '../../src/auth/secret-box.ts'
import { Tokens } from '../../src/auth/tokens.ts'
import { connect } from '../../src/database/connect.ts'
import { Grants } from '../../src/identity/grants.ts'
import { OpaqueTokens } from '../../src/identity/opaque-tokens.ts'
import { Users } from '../../src/identity/users.ts'
import { type FakeGitHub, startFakeGitHub } from '../helpers/github-app.ts'
import { type TestDatabase, testPostgres } from '../helpers/postgres.ts'
import { type Serving, startServing } from '../helpers/serving.ts'
import { type Running, SECRET, startOnFiles } from '../server/harness.ts'

let github: FakeGitHub
let keys: { first: string; second: string }

beforeAll(async () => {
  github = await startFakeGitHub()
  keys = {
    first: github.app('1001', ['foo/bar', 'foo/other', ...Array.from({ length: 20 }, (_, n) => `foo/r${n}`)]),
    second: github.app('Iv23client', ['acme/tools'], 'pkcs8'),
  }
})
afterEach(() => {
  github.override = undefined
  github.skew = 0
})
afterAll(() => github.close())

interface Answer {
  status: number
  headers: Headers
  json: Record<string, unknown> & { access_token?: string; error?: string }
}

async function ask(
  url: string,
  authorization?: string,
  headers: Record<string, string> = {},
): Promise<Answer> {
  const response = await fetch(url, { headers: { ...(authorization ? { authorization } : {}), ...headers } })
  return {
    status: response.status,
    headers: response.headers,
    json: (await response.json()) as Answer['json'],
  }
}

const apps = () => [
  { id: '1001', privateKey: keys.first },
  { id: 'Iv23client', privateKey: keys.second },
]

describe.each(['sqlite', 'postgres'] as const)('GET /api/{namespace}/{repository} on %s', (kind) => {
  let postgres: TestDatabase | undefined
  let running: Running
  let ci: string
  let all: string
  let count = 0
  let now = Date.now()
  /** A repository that nobody has asked for yet. */
  const fresh = (): string => `foo/r${count++}`

  beforeAll(async () => {
    postgres = kind === 'postgres' ? await testPostgres() : undefined
    const database = await connect(postgres?.url ?? 'sqlite::memory:')
    const leases = { githubApps: { apps: apps(), api: github.api, renewBefore: 60, open: false } }
    running = await startOnFiles({ database, leases, now: () => now })
    all = await running.as('ci', 'lease:github/*/*:token')
    ci = await running.as('ci', 'lease:github/foo/*:contents=read,issues=write')
  })
  afterAll(async () => {
    await running.stop()
    await postgres?.drop()
  })

  test('200 with the token, for that repository only, and its end', async () => {
    const { status, json, headers } = await ask(`${running.url}/api/foo/bar`, all)
    const mint = github.mints.at(-1)
    expect(status).toBe(200)
    expect(json).toEqual({
      namespace: 'foo',
      repository: 'bar',
      access_token: mint?.token,
      expires_at: expect.stringMatching(/^\d{4}-\d\d-\d\dT[\d:.]+Z$/) as string,
    })
    expect(json.access_token?.length).toBeGreaterThan(500)
    expect(mint).toMatchObject({ app: '1001', repositories: ['bar'] })
    expect(mint?.permissions).toBeUndefined()
    expect(headers.get('cache-control')).toBe('no-store')
  })

  test('the same token again, whatever the case of the names', async () => {
    const first = await ask(`${running.url}/api/foo/bar`, all)
    const again = await ask(`${running.url}/api/FOO/Bar`, all)
    expect(again.json).toMatchObject({
      namespace: 'FOO',
      repository: 'Bar',
      access_token: first.json.access_token,
    })
  })

  test('no-cache mints anew for a caller that was refused', async () => {
    const url = `${running.url}/api/${fresh()}`
    const first = await ask(url, all)
    now += 10_000
    const again = await ask(url, all, { 'cache-control': 'no-cache' })
    expect(again.json.access_token).not.toBe(first.json.access_token)
    expect((await ask(url, all)).json.access_token).toBe(again.json.access_token)
  })

  test('another app where the first is not installed, with a PKCS#8 key', async () => {
    const { status, json } = await ask(`${running.url}/api/acme/tools`, all)
    expect(status).toBe(200)
    expect(github.mints.at(-1)).toMatchObject({ app: 'Iv23client', token: json.access_token })
  })

  test('permissions asked for, each set once', async () => {
    const name = fresh()
    const url = `${running.url}/api/${name}?permissions=`
    await ask(`${url}issues:write,contents:read`, all)
    const { mints } = github
    expect(mints.at(-1)?.permissions).toEqual({ contents: 'read', issues: 'write' })
    const before = mints.length
    await ask(`${url}contents:read,issues:write`, all)
    expect(mints.length).toBe(before)
    await ask(`${url}contents:read`, all)
    expect(mints.at(-1)?.permissions).toEqual({ contents: 'read' })
  })

  test('no more permissions than the scope has', async () => {
    const url = `${running.url}/api/${fresh()}`
    expect((await ask(url, ci)).status).toBe(200)
    expect(github.mints.at(-1)?.permissions).toEqual({ contents: 'read', issues: 'write' })
    expect((await ask(`${url}?permissions=issues:read`, ci)).status).toBe(200)
    const { status, json } = await ask(`${url}?permissions=contents:write`, ci)
    expect(status).toBe(403)
    expect(json.error).toContain('contents=write')
  })

  test('401 without credentials, 403 without the scope, nothing asked of GitHub', async () => {
    const before = github.requests
    const url = `${running.url}/api/foo/other`
    expect((await ask(url)).status).toBe(401)
    expect((await ask(url, 'Bearer x.y.z')).status).toBe(401)
    for (const scope of [
      'lfs:*:rw',
      'full',
      'lease:github/foo/bar:token',
      'lease:github:token',
      'users:*:rw',
    ])
      expect((await ask(url, await running.as('eve', scope))).status, scope).toBe(403)
    expect(github.requests).toBe(before)
  })

  test("400 in the seed's words where the app is not installed", async () => {
    const { status, json } = await ask(`${running.url}/api/nobody/nothing`, all)
    expect(status).toBe(400)
    expect(json.error).toBe('Failed to retrieve a token: App is not installed on nobody/nothing')
  })

  test('names and permissions that GitHub would not give: 400, and not asked', async () => {
    const before = github.requests
    for (const path of [
      "foo'--/bar",
      'foo/%0d%0aX:1',
      'foo/b%20r',
      '%2e%2e/bar',
      'foo/..%2fbar',
      `foo/${'x'.repeat(101)}`,
    ])
      expect([400, 404], path).toContain((await ask(`${running.url}/api/${path}`, all)).status)
    for (const asked of [
      'contents',
      'contents:all',
      'con tents:read',
      ':read',
      'a:read:write',
      '__proto__:read',
    ])
      expect(
        (await ask(`${running.url}/api/foo/bar?permissions=${encodeURIComponent(asked)}`, all)).status,
      ).toBe(400)
    expect(github.requests).toBe(before)
  })

  test.each([
    [403, { 'x-ratelimit-remaining': '0', 'x-ratelimit-reset': '99999999999' }, '3600'],
    [429, { 'retry-after': '17' }, '17'],
    [403, { 'retry-after': '60' }, '60'],
    [502, {}, '5'],
    [200, {}, '5'],
  ])('GitHub answers %i with %j: 503 and when to come again', async (status, headers, wait) => {
    github.override = (_request, response) =>
      void response.writeHead(status, { ...headers, 'content-type': 'text/html' }).end('<html>no</html>')
    const answer = await ask(`${running.url}/api/${fresh()}`, all)
    expect(answer.status).toBe(503)
    expect(answer.headers.get('retry-after')).toBe(wait)
    expect(answer.json.error).toMatch(/try again later/)
  })

  test('another refusal of GitHub: 400 with what it said, on one line', async () => {
    github.override = (_request, response) =>
      void response
        .writeHead(403, { 'content-type': 'application/json' })
        .end('{"message":"Not\\r\\n allowed"}')
    const { status, json } = await ask(`${running.url}/api/${fresh()}`, all)
    expect(status).toBe(400)
    expect(json.error).toBe('GithubException: 403 Not allowed')
  })

  test('a clock that differs from ours is made up for', async () => {
    github.skew = -1_200_000
    expect((await ask(`${running.url}/api/${fresh()}`, all)).status).toBe(200)
    github.skew = 1_200_000
    expect((await ask(`${running.url}/api/${fresh()}`, all)).status).toBe(200)
  })

  test('GET and HEAD /api/health', async () => {
    expect((await ask(`${running.url}/api/health`)).json).toEqual({ message: 'ok' })
    expect((await fetch(`${running.url}/api/health`, { method: 'HEAD' })).status).toBe(200)
    expect((await ask(`${running.url}/api/_health`)).json).toEqual({ message: 'ok' })
  })
})

test('the open mode answers programs of this machine, and no page that got here by another name', async () => {
  const leases = { githubApps: { apps: apps(), api: github.api, renewBefore: 60, open: true } }
  const running = await startOnFiles({ leases })
  expect((await ask(`${running.url}/api/foo/bar`)).status).toBe(200)
  expect((await ask(`${running.url}/api/foo/bar`, await running.as('eve'))).status).toBe(403)
  const { port } = new URL(running.url)
  const status = await new Promise((resolve, reject) => {
    const options = {
      port,
      host: '127.0.0.1',
      path: '/api/foo/bar',
      headers: { host: `evil.example:${port}` },
    }
    httpRequest(options, (response) => resolve(response.resume().statusCode))
      .on('error', reject)
      .end()
  })
  expect(status).toBe(401)
  await running.stop()
})

describe('two server processes on one Postgres', () => {
  let postgres: TestDatabase
  let folder: string
  const servers: Serving[] = []

  beforeAll(async () => {
    postgres = await testPostgres()
    folder = await mkdtemp(join(tmpdir(), 'timone github '))
    await writeFile(join(folder, 'key.pem'), keys.first)
    const env = {
      TIMONE_DATABASE_URL: postgres.url,
      TIMONE_TOKEN_SECRET: SECRET,
      TIMONE_SECRET_KEYS: generateKey(),
      TIMONE_GITHUB_API: github.api,
      GITHUB_APP_ID: '1001',
      GITHUB_APP_PRIVATE_KEY: join(folder, 'key.pem'),
      TOKEN_RENEW_AT: '120',
    }
    servers.push(await startServing(env), await startServing(env))
  }, 60_000)
  afterAll(async () => {
    for (const server of servers) await server.stop()
    await postgres?.drop()
    await rm(folder, { recursive: true })
  })

  test('50 callers at once: exactly one mint, and no token in a log', async () => {
    const before = github.mints.length
    const answers = await Promise.all(
      Array.from({ length: 50 }, async (_, index) => {
        const { url } = servers[index % 2] as Serving
        const tokens = new Tokens({ secret: SECRET, issuer: url, requireScope: false })
        const token = await tokens.issueUser({ user: 'ci', scopes: ['lease:github/foo/other:contents=read'] })
        return ask(`${url}/api/foo/other?permissions=contents:read`, `Bearer ${token}`)
      }),
    )
    expect(answers.map(({ status }) => status)).toEqual(Array(50).fill(200))
    expect(github.mints.length - before).toBe(1)
    const { token } = github.mints.at(-1) as { token: string }
    expect(new Set(answers.map(({ json }) => json.access_token))).toEqual(new Set([token]))
    const rows = JSON.stringify(await postgres.query('select * from leases'))
    for (const text of [rows, ...servers.map(({ log }) => log())]) expect(text).not.toContain(token)
  })

  test('what is taken back on one server opens nothing on the other, from then on', async () => {
    const database = await connect(postgres.url)
    const [first, second] = servers as [Serving, Serving]
    const users = new Users(database.db)
    const tokens = new OpaqueTokens(database.db)
    const grants = new Grants(database.db)
    const user = await users.add({ login: 'ada' }, '')
    const scope = 'lease:github/foo/bar:contents=read'
    await grants.grant('user:ada', scope)
    const issue = () => tokens.issue({ userId: user.id, kind: 'personal', scopes: [scope], client: 'test' })
    /** Statuses of many requests at once on the second server. */
    const statuses = async (token: string): Promise<Set<number>> => {
      const asked = Array.from({ length: 20 }, () => ask(`${second.url}/api/foo/bar`, `Bearer ${token}`))
      return new Set((await Promise.all(asked)).map(({ status }) => status))
    }

    for (let round = 0; round < 10; round++) {
      const { token } = await issue()
      expect(await statuses(token)).toEqual(new Set([200]))
      // Also while requests with it are under way.
      const meanwhile = statuses(token)
      const body = new URLSearchParams({ token })
      expect((await fetch(`${first.url}/oauth/revoke`, { method: 'POST', body })).status).toBe(200)
      expect(await statuses(token)).toEqual(new Set([401]))
      await meanwhile
    }

    const { token } = await issue()
    expect(await statuses(token)).toEqual(new Set([200]))
    await grants.revoke('user:ada', scope)
    expect(await statuses(token)).toEqual(new Set([403]))
    await grants.grant('user:ada', scope)
    expect(await statuses(token)).toEqual(new Set([200]))
    await users.setDisabled('ada', true, '')
    expect(await statuses(token)).toEqual(new Set([401]))

    // An operator's token of that user is not in the table, and its user is.
    const operator = async (user: string) =>
      (await new Tokens({ secret: SECRET, issuer: second.url, requireScope: false }).issueUser({
        user,
        scopes: [scope],
      })) as string
    expect(await statuses(await operator('ada'))).toEqual(new Set([401]))
    await users.setDisabled('ada', false, '')
    expect(await statuses(await operator('ada'))).toEqual(new Set([200]))
    await database.close()
  }, 30_000)
})
