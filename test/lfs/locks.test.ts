import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { connect } from '../../src/database/connect.ts'
import { TimoneError } from '../../src/errors.ts'
import { LockStore } from '../../src/lfs/lock-store.ts'
import { type TestDatabase, testPostgres } from '../helpers/postgres.ts'
import { type Answer, post, type Running, startOnFiles } from '../server/harness.ts'

const ISO = /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/

async function get(url: string, authorization?: string): Promise<Answer> {
  const response = await fetch(url, { headers: authorization === undefined ? {} : { authorization } })
  return { status: response.status, headers: response.headers, json: await response.json() }
}

describe.each(['sqlite', 'postgres'] as const)('locks in %s', (kind) => {
  let postgres: TestDatabase | undefined
  let running: Running
  let ada: string
  let bob: string
  let reader: string
  let stranger: string
  let repositories = 0

  beforeAll(async () => {
    postgres = kind === 'postgres' ? await testPostgres() : undefined
    running = await startOnFiles({ database: await connect(postgres?.url ?? 'sqlite::memory:') })
    ada = await running.as('ada')
    bob = await running.as('bob')
    reader = await running.as('rita', 'lfs:*:r')
    stranger = await running.as('sam', 'lfs:other/place:rw')
  })
  afterAll(async () => {
    await running.stop()
    await postgres?.drop()
  })

  /** The locks URL of a repository that no other test uses. */
  const fresh = (): string => `${running.url}/org/repo${repositories++}/info/lfs/locks`
  const lock = async (url: string, path: string, who = ada): Promise<Answer['json']> => {
    const made = await post(url, { path, ref: { name: 'refs/heads/main' } }, who)
    expect(made.status).toBe(201)
    return made.json.lock
  }

  test('create: 201 with the lock and nothing else', async () => {
    const made = await post(fresh(), { path: 'art/ä b.psd' }, ada)
    expect(made.status).toBe(201)
    expect(made.headers.get('content-type')).toBe('application/vnd.git-lfs+json')
    expect(made.json).toEqual({
      lock: {
        id: expect.stringMatching(/^[0-9a-f]{32}$/) as string,
        path: 'art/ä b.psd',
        locked_at: expect.stringMatching(ISO) as string,
        owner: { name: 'ada' },
      },
    })
  })

  test('create again: 409 with the lock that is there, whoever asks', async () => {
    const url = fresh()
    const first = await lock(url, 'a.psd')
    const others = await post(url, { path: 'a.psd' }, bob)
    expect(others.status).toBe(409)
    expect(others.json.lock).toEqual(first)
    expect(others.json.message).toContain('already locked by ada since')
    const own = await post(url, { path: 'a.psd' }, ada)
    expect(own.status).toBe(409)
    expect(own.json.lock).toEqual(first)
    expect(own.json.message).toContain('already locked by you since')
    // Another repository is another matter.
    await lock(fresh(), 'a.psd', bob)
  })

  test.each([
    ['A.psd', 'a.psd'],
    ['caf\u00e9.psd', 'cafe\u0301.psd'],
  ])('create of a twin, %s and %s: 409 that says so', async (one, other) => {
    const url = fresh()
    const first = await lock(url, one)
    const twin = await post(url, { path: other }, bob)
    expect(twin.status).toBe(409)
    expect(twin.json.lock).toEqual(first)
    expect(twin.json.message).toContain('same file on Windows or macOS')
  })

  test.each([
    { path: '' },
    { path: '/etc/passwd' },
    { path: '../x' },
    { path: 'a\\..\\..\\x' },
    { path: 'a\0b' },
    { path: 'x'.repeat(5000) },
    { path: 7 },
    {},
    [],
    null,
    'no JSON',
    { path: 'a', ref: 'main' },
    { path: 'a', ref: { name: 7 } },
  ])('create %j: 422, nothing is locked', async (body) => {
    const url = fresh()
    const refused = await post(url, body, ada)
    expect(refused.status).toBe(422)
    expect(refused.json.message).toEqual(expect.any(String))
    expect((await get(url, ada)).json).toEqual({ locks: [] })
  })

  test('the longest path can be locked', async () => {
    const path = 'ж/'.repeat(1365)
    await lock(fresh(), `${path}x`)
  })

  test('two creates at once, in case and spelling apart: exactly one 201', async () => {
    for (let turn = 0; turn < 10; turn++) {
      const url = fresh()
      const paths = ['a.psd', 'A.psd', 'a.PSD', 'a.psd']
      const answers = await Promise.all(paths.map((path, at) => post(url, { path }, at % 2 ? bob : ada)))
      expect(answers.map(({ status }) => status).sort()).toEqual([201, 409, 409, 409])
      const made = answers.find(({ status }) => status === 201)?.json.lock
      for (const { json } of answers) expect(json.lock).toEqual(made)
    }
  })

  test('list: oldest first, by path and by id', async () => {
    const url = fresh()
    expect((await get(url, reader)).json).toEqual({ locks: [] })
    const first = await lock(url, 'a b&c.psd')
    await new Promise((resolve) => setTimeout(resolve, 2))
    const second = await lock(url, 'z.psd', bob)
    const all = await get(url, reader)
    expect(all.status).toBe(200)
    expect(all.json).toEqual({ locks: [first, second] })
    const by = async (query: Record<string, string>) =>
      (await get(`${url}?${new URLSearchParams(query)}`, reader)).json
    expect(await by({ path: 'a b&c.psd' })).toEqual({ locks: [first] })
    expect(await by({ path: 'A b&c.psd' })).toEqual({ locks: [] })
    expect(await by({ path: 'z.psd', id: first.id })).toEqual({ locks: [] })
    expect(await by({ id: second.id, refspec: 'refs/heads/other' })).toEqual({ locks: [second] })
    expect(await by({ path: '', id: '', cursor: '', limit: '' })).toEqual({ locks: [first, second] })
    for (const odd of ['nope', "' or 1=1 --", '\0']) {
      expect(await by({ id: odd })).toEqual({ locks: [] })
      expect(await by({ path: odd })).toEqual({ locks: [] })
    }
  })

  test('verify: ours and theirs, always lists, owners named', async () => {
    const url = fresh()
    expect((await post(`${url}/verify`, {}, ada)).json).toEqual({ ours: [], theirs: [] })
    const mine = await lock(url, 'mine.psd')
    const theirs = await lock(url, 'theirs.psd', bob)
    const body = { ref: { name: 'refs/heads/main' }, cursor: '', limit: 0, unknown: true }
    const seen = await post(`${url}/verify`, body, ada)
    expect(seen.status).toBe(200)
    expect(seen.headers.get('content-type')).toBe('application/vnd.git-lfs+json')
    expect(seen.json).toEqual({ ours: [mine], theirs: [theirs] })
    expect((await post(`${url}/verify`, {}, bob)).json).toEqual({ ours: [theirs], theirs: [mine] })
    for (const odd of [
      { cursor: 7 },
      { cursor: 'x' },
      { limit: '5' },
      { limit: 1.5 },
      { limit: -1 },
      [],
      null,
    ]) {
      expect((await post(`${url}/verify`, odd, ada)).status).toBe(422)
    }
  })

  test('limits are kept within bounds', async () => {
    const url = fresh()
    for (const path of ['a', 'b', 'c']) await lock(url, path)
    const page = await get(`${url}?limit=2`, ada)
    expect(page.json.locks).toHaveLength(2)
    expect(page.json.next_cursor).toBe(page.json.locks[1].id)
    expect((await get(`${url}?limit=3`, ada)).json.next_cursor).toBeUndefined()
    expect((await get(`${url}?limit=999999999`, ada)).json.locks).toHaveLength(3)
    for (const odd of ['limit=-1', 'limit=x', 'limit=1e9', 'cursor=../x', 'cursor=1'])
      expect((await get(`${url}?${odd}`, ada)).status).toBe(422)
  })

  test('10 000 locks: the pages end, with locks given back and taken in between', async () => {
    const url = fresh()
    const repository = url.slice(running.url.length + 1).split('/info/')[0] as string
    const database = running.database
    let now = Date.now() - 20_000
    const store = new LockStore(database.db, () => now++)
    const kept = new Set<string>()
    for (let number = 0; number < 10_000; number += 100) {
      const made = await Promise.all(
        Array.from({ length: 100 }, (_, at) =>
          store.create(repository, `${number + at}.bin`, { subject: at % 2 ? 'ada' : 'bob', name: 'x' }),
        ),
      )
      for (const { created, lock } of made) {
        expect(created).toBe(true)
        kept.add(lock.id)
      }
    }
    const ids = [...kept].sort()
    const seen: string[] = []
    const cursors = new Set<string>()
    let cursor: string | undefined
    let pages = 0
    do {
      const page = await post(`${url}/verify`, cursor === undefined ? {} : { cursor }, ada)
      const { ours, theirs, next_cursor: next } = page.json
      expect(ours.length + theirs.length).toBeLessThanOrEqual(100)
      seen.push(...[...ours, ...theirs].map(({ id }: { id: string }) => id).sort())
      // The last one seen, which the cursor names, one seen long ago, and one still to come are given back.
      for (const gone of [next, seen[pages * 3], ids[pages * 100 + 150]]) {
        if (gone === undefined || !kept.delete(gone)) continue
        expect((await post(`${url}/${gone}/unlock`, { force: true }, ada)).status).toBe(200)
      }
      pages++
      if (next !== undefined) {
        expect(cursors.has(next)).toBe(false)
        cursors.add(next)
      }
      cursor = next
      expect(pages).toBeLessThan(150)
    } while (cursor !== undefined)
    expect(new Set(seen).size).toBe(seen.length)
    expect([...kept].filter((id) => !seen.includes(id))).toEqual([])
    expect(pages).toBeGreaterThan(95)
    // The server's own bound on a page.
    expect((await get(`${url}?limit=5000`, ada)).json.locks).toHaveLength(1000)
  }, 120_000)

  test('unlock: one’s own, which is then gone', async () => {
    const url = fresh()
    const mine = await lock(url, 'a.psd')
    const gone = await post(`${url}/${mine.id}/unlock`, {}, ada)
    expect(gone.status).toBe(200)
    expect(gone.json).toEqual({ lock: mine })
    expect((await post(`${url}/${mine.id}/unlock`, {}, ada)).status).toBe(404)
    await lock(url, 'A.psd', bob)
  })

  test('unlock somebody else’s: 403 without force, which is kept; 200 with', async () => {
    const url = fresh()
    const mine = await lock(url, 'a.psd')
    for (const body of [{}, { force: false }, { force: null }]) {
      const refused = await post(`${url}/${mine.id}/unlock`, body, bob)
      expect(refused.status).toBe(403)
      expect(refused.json.message).toContain('locked by ada')
    }
    expect((await post(`${url}/${mine.id}/unlock`, { force: 'yes' }, bob)).status).toBe(422)
    expect((await get(url, ada)).json.locks).toEqual([mine])
    const forced = await post(`${url}/${mine.id}/unlock`, { force: true, ref: null }, bob)
    expect(forced.json).toEqual({ lock: mine })
  })

  test('unlock what is not there, or in another repository: 404', async () => {
    const mine = await lock(fresh(), 'a.psd')
    const other = fresh()
    for (const id of [mine.id, '0'.repeat(32), 'x', '%00', '..%2f..', "'--"]) {
      expect((await post(`${other}/${id}/unlock`, { force: true }, ada)).status).toBe(404)
    }
  })

  test('two unlocks at once: one gets it', async () => {
    const url = fresh()
    const mine = await lock(url, 'a.psd')
    const answers = await Promise.all(
      [1, 2, 3].map(() => post(`${url}/${mine.id}/unlock`, { force: true }, bob)),
    )
    expect(answers.map(({ status }) => status).sort()).toEqual([200, 404, 404])
  })

  describe('rights', () => {
    const ask = async (url: string, id: string, who?: string) =>
      Object.fromEntries(
        await Promise.all(
          (
            [
              ['list', () => get(url, who)],
              ['create', () => post(url, { path: 'new' }, who)],
              ['verify', () => post(`${url}/verify`, {}, who)],
              ['unlock', () => post(`${url}/${id}/unlock`, { force: true }, who)],
            ] as const
          ).map(async ([name, call]) => [name, (await call()).status] as const),
        ),
      )

    test('nobody: 401, also on a public repository', async () => {
      const url = fresh()
      const { id } = await lock(url, 'a')
      const closed = { list: 401, create: 401, verify: 401, unlock: 401 }
      expect(await ask(url, id)).toEqual(closed)
      expect(await ask(url, id, 'Bearer forged')).toEqual(closed)
      expect(await ask(`${running.url}/open/source/info/lfs/locks`, id)).toEqual(closed)
    })

    test('a token that we made for a transfer: 401', async () => {
      const url = fresh()
      const { id } = await lock(url, 'a')
      for (const use of ['transfer', 'renew', 'verify'] as const) {
        const token = await running.tokens.issueUse({
          subject: 'ada',
          use,
          operation: 'upload',
          repository: { org: 'org', repo: new URL(url).pathname.split('/')[2] as string },
          authTime: Math.floor(Date.now() / 1000),
          expiresIn: 600,
        })
        expect(await ask(url, id, `Bearer ${token}`)).toEqual({
          list: 401,
          create: 401,
          verify: 401,
          unlock: 401,
        })
      }
    })

    test('read only: may list, and nothing else', async () => {
      const url = fresh()
      const { id } = await lock(url, 'a')
      expect(await ask(url, id, reader)).toEqual({ list: 200, create: 403, verify: 403, unlock: 403 })
      expect((await get(url, ada)).json.locks).toHaveLength(1)
    })

    test('no right to read: as if the repository did not exist, but verify never says 404', async () => {
      const url = fresh()
      const { id } = await lock(url, 'a')
      const nothing = { list: 404, create: 404, verify: 403, unlock: 404 }
      expect(await ask(url, id, stranger)).toEqual(nothing)
      for (const odd of ['.org/repo', 'api/repo', 'org/re%20po'])
        expect(await ask(`${running.url}/${odd}/info/lfs/locks`, id, ada)).toEqual(nothing)
    })
  })
})

test('servers on one Postgres: of creates at once exactly one gets 201, and all see it', async () => {
  const postgres = await testPostgres()
  const servers = await Promise.all(
    [1, 2, 3].map(async () => startOnFiles({ database: await connect(postgres.url) })),
  )
  try {
    for (let turn = 0; turn < 20; turn++) {
      const answers = await Promise.all(
        servers.flatMap((server, at) =>
          [1, 2].map(async () =>
            post(
              `${server.url}/org/repo/info/lfs/locks`,
              { path: `${turn}.psd` },
              await server.as(`user${at}`),
            ),
          ),
        ),
      )
      expect(answers.filter(({ status }) => status === 201)).toHaveLength(1)
      expect(answers.filter(({ status }) => status === 409)).toHaveLength(5)
      expect(new Set(answers.map(({ json }) => json.lock.id)).size).toBe(1)
    }
    for (const server of servers) {
      const all = await get(`${server.url}/org/repo/info/lfs/locks`, await server.as('user0'))
      expect(all.json.locks).toHaveLength(20)
    }
  } finally {
    for (const server of servers) await server.stop()
    await postgres.drop()
  }
})

test('without its database: 429 with Retry-After, never 404 or 503, and not ready', async () => {
  const memory = await connect('sqlite::memory:')
  const away = new TimoneError('unavailable', 'the database cannot be reached (ECONNREFUSED)')
  const db = new Proxy(memory.db, {
    get: (target, name) => {
      if (name === 'selectFrom' || name === 'insertInto' || name === 'deleteFrom') throw away
      return Reflect.get(target, name) as unknown
    },
  })
  const server = await startOnFiles({ database: { ...memory, db, check: () => Promise.reject(away) } })
  const ada = await server.as('ada')
  const url = `${server.url}/org/repo/info/lfs/locks`
  const answers = [
    await get(url, ada),
    await post(url, { path: 'a' }, ada),
    await post(`${url}/verify`, {}, ada),
    await post(`${url}/${'0'.repeat(32)}/unlock`, {}, ada),
  ]
  for (const { status, headers } of answers) {
    expect(status).toBe(429)
    expect(Number(headers.get('retry-after'))).toBeGreaterThan(0)
  }
  const ready = await get(`${server.url}/readyz`)
  expect(ready.status).toBe(503)
  expect(ready.json.checks).toEqual({ storage: 'ok', database: 'unavailable' })
  await server.stop()
})
