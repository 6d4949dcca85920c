import { once } from 'node:events'
import { writeFile } from 'node:fs/promises'
import { connect as connectTo, createServer, type Socket } from 'node:net'
import { join } from 'node:path'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { gitLfsVersions } from '../helpers/git-lfs.ts'
import { type TestDatabase, testPostgres } from '../helpers/postgres.ts'
import {
  backendSettings,
  freePort,
  type RunningServer,
  run,
  startServer,
  TIMONE,
  TOKEN_SECRET,
  World,
  writeRandom,
} from '../helpers/world.ts'

for (const gitLfs of gitLfsVersions()) {
  describe.skipIf(gitLfs.missing !== undefined)(gitLfs.name, () => {
    describe.each(['sqlite', 'postgres'] as const)('locks in %s', (kind) => {
      let server: RunningServer
      let serverFolder: World
      let postgres: TestDatabase | undefined
      let world: World
      let work: string
      let repositories = 0

      beforeAll(async () => {
        serverFolder = await World.create()
        const data = serverFolder.path('data')
        postgres = kind === 'postgres' ? await testPostgres() : undefined
        server = await startServer(data, {
          ...backendSettings('file', data),
          ...(postgres === undefined ? {} : { TIMONE_DATABASE_URL: postgres.url }),
        })
      })
      afterAll(async () => {
        expect(await server.stop()).toBe(0)
        await serverFolder.remove()
        await postgres?.drop()
      })
      beforeEach(async () => {
        world = await World.create(gitLfs.folder === undefined ? {} : { gitLfs: gitLfs.folder })
        await world.signIn(server)
        ;({ work } = await world.repository(server, `org/repo${repositories++}`))
        // The helper switches it off for tests of other things.
        await world.git(work, 'config', '-f', '.lfsconfig', 'lfs.locksverify', 'true')
        await world.git(work, 'lfs', 'track', '--lockable', '*.bin')
        await writeRandom(join(work, 'a b.bin'), 1000)
        await writeRandom(join(work, 'é.bin'), 1000)
        await world.commit(work)
        await world.git(work, 'push', '-q', 'origin', 'main')
      })
      afterEach(() => world.remove())

      const listed = async (): Promise<{ path: string; owner: { name: string }; id: string }[]> =>
        JSON.parse(await world.git(work, 'lfs', 'locks', '--json'))
      const change = async (name: string): Promise<void> => {
        // A lockable file that is not locked is read-only; root may write it all the same.
        await writeRandom(join(work, name), 2000)
        await world.commit(work)
      }
      const locksVerify = async () =>
        (await world.tryGit(work, 'config', '--get-regexp', '^lfs\\.http.*\\.locksverify$')).stdout

      test('lock, locks, unlock', async () => {
        expect(await world.git(work, 'lfs', 'lock', 'a b.bin')).toContain('Locked a b.bin')
        await world.git(work, 'lfs', 'lock', 'é.bin')
        expect(await listed()).toEqual([
          expect.objectContaining({ path: 'a b.bin', owner: { name: 'ada' } }),
          expect.objectContaining({ path: 'é.bin', owner: { name: 'ada' } }),
        ])
        const again = await world.tryGit(work, 'lfs', 'lock', 'a b.bin')
        expect(again.code).not.toBe(0)
        expect(again.stdout + again.stderr).toContain('already locked by you since')
        expect(await world.git(work, 'lfs', 'locks', '--verify')).toMatch(/^O a b\.bin\s+ada/m)
        expect(await world.git(work, 'lfs', 'unlock', 'a b.bin')).toContain('Unlocked a b.bin')
        const [left] = await listed()
        await world.git(work, 'lfs', 'unlock', `--id=${left?.id}`)
        expect(await listed()).toEqual([])
      })

      test('somebody else’s lock: not to be taken, unlocked with force only', async () => {
        await world.git(work, 'lfs', 'lock', 'a b.bin')
        await world.signIn(server, { user: 'bob' })
        const taken = await world.tryGit(work, 'lfs', 'lock', 'a b.bin')
        expect(taken.code).not.toBe(0)
        expect(taken.stdout + taken.stderr).toContain('already locked by ada since')
        expect(await world.git(work, 'lfs', 'locks', '--verify')).toMatch(/^ {2}a b\.bin\s+ada/m)
        const refused = await world.tryGit(work, 'lfs', 'unlock', 'a b.bin')
        expect(refused.code).not.toBe(0)
        expect(refused.stdout + refused.stderr).toContain('locked by ada')
        expect(await listed()).toHaveLength(1)
        await world.git(work, 'lfs', 'unlock', '--force', 'a b.bin')
        expect(await listed()).toEqual([])
      })

      test('push: refused for a file that somebody else locked, fine with one’s own lock', async () => {
        await world.git(work, 'lfs', 'lock', 'a b.bin')
        await change('a b.bin')
        const own = await world.tryGit(work, 'push', 'origin', 'main')
        expect(own.code).toBe(0)
        expect(own.stdout + own.stderr).toContain('Consider unlocking your own locked files')

        await change('a b.bin')
        await world.signIn(server, { user: 'bob' })
        const stopped = await world.tryGit(work, 'push', 'origin', 'main')
        expect(stopped.code).not.toBe(0)
        expect(stopped.stdout + stopped.stderr).toMatch(/a b\.bin - ada/)
        await world.git(work, 'lfs', 'unlock', '--force', 'a b.bin')
        await world.git(work, 'push', '-q', 'origin', 'main')
        expect(await locksVerify()).toBe('')
      })

      test('150 locks, more than a page: all are seen', async () => {
        const token = await world.signIn(server)
        const url = `${await world.git(work, 'config', '-f', '.lfsconfig', 'lfs.url')}`.trim()
        for (let number = 0; number < 150; number++) {
          const made = await fetch(`${url}/locks`, {
            method: 'POST',
            headers: { authorization: `Bearer ${token}` },
            body: JSON.stringify({ path: `${number}.bin` }),
          })
          expect(made.status).toBe(201)
        }
        expect(await listed()).toHaveLength(150)
        expect((await world.git(work, 'lfs', 'locks', '--verify')).trim().split('\n')).toHaveLength(150)
      })

      test('nothing that the server says makes the client give up on locks for good', async () => {
        // Nobody said whether locks matter: that is when git-lfs decides, and writes it down.
        await world.git(work, 'config', '-f', '.lfsconfig', '--unset', 'lfs.locksverify')
        await change('a b.bin')
        expect((await world.tryGit(work, 'push', 'origin', 'main')).code).toBe(0)
        for (const scope of ['lfs:*:r', 'lfs:other/place:rw']) {
          await world.signIn(server, { scope })
          await change('a b.bin')
          expect((await world.tryGit(work, 'push', 'origin', 'main')).code).not.toBe(0)
        }
        expect(await locksVerify()).not.toContain('false')
        // The same question where there are no locks at all: the test would see it.
        await world.git(work, 'config', '-f', '.lfsconfig', 'lfs.url', `${server.url}/nothing`)
        await world.tryGit(work, 'push', 'origin', 'main')
        expect(await locksVerify()).toContain('/nothing.locksverify false')
      })
    })
  })
}

describe('timone serve and its database', () => {
  let world: World
  beforeEach(async () => {
    world = await World.create()
  })
  afterEach(() => world.remove())

  test('locks outlive a server that is killed', async () => {
    const data = world.path('data')
    const first = await startServer(data, {})
    const { work } = await world.repository(first)
    await world.signIn(first)
    await world.git(work, 'lfs', 'lock', 'a.bin')
    await first.stop('SIGKILL')
    const second = await startServer(data, {}, { port: first.port })
    expect(await world.git(work, 'lfs', 'locks')).toContain('a.bin')
    expect(await second.stop()).toBe(0)
  })

  test('two that start at once on one new data folder both come up', async () => {
    const data = world.path('data')
    const servers = await Promise.all([startServer(data, {}), startServer(data, {})])
    for (const server of servers) expect(await server.stop()).toBe(0)
  })

  test('exit code 129 when it is not there at the start', async () => {
    const url = `postgres://timone:sesame@127.0.0.1:${await freePort()}/timone`
    await writeFile(world.path('file'), '')
    for (const database of [url, `sqlite:${world.path('file', 'timone.db')}`]) {
      const ran = await run(TIMONE, ['serve', '--listen', '127.0.0.1:0', '--data', world.path('data')], {
        cwd: world.folder,
        env: { ...world.env, TIMONE_TOKEN_SECRET: TOKEN_SECRET, TIMONE_DATABASE_URL: database },
        timeout: 20_000,
      })
      expect(ran.code).toBe(129)
      expect(ran.stderr).toMatch(/^timone: .*database/)
      expect(ran.stderr).not.toContain('sesame')
    }
  })

  test('lost while it runs: not ready, 429, back when it is back, and exit code 129 when it stays away', async () => {
    const postgres = await testPostgres()
    const target = new URL(postgres.url)
    // What stands between the server and its database can be cut.
    const sockets = new Set<Socket>()
    let cut = false
    const between = createServer((near) => {
      if (cut) return void near.destroy()
      const far = connectTo(Number(target.port), target.hostname)
      for (const [one, other] of [
        [near, far],
        [far, near],
      ] as const) {
        sockets.add(one)
        one.on('error', () => {}).on('close', () => other.destroy())
        one.pipe(other)
      }
    }).listen(0, '127.0.0.1')
    await once(between, 'listening')
    const setCut = (value: boolean): void => {
      cut = value
      if (value) for (const socket of sockets) socket.destroy()
    }
    const through = new URL(postgres.url)
    through.port = String((between.address() as { port: number }).port)
    const server = await startServer(world.path('data'), { TIMONE_DATABASE_URL: through.href })
    const token = await world.signIn(server)
    const verify = () =>
      fetch(`${server.url}/org/repo/info/lfs/locks/verify`, {
        method: 'POST',
        headers: { authorization: `Bearer ${token}` },
        body: '{}',
      })
    expect((await verify()).status).toBe(200)

    setCut(true)
    const refused = await verify()
    expect(refused.status).toBe(429)
    expect(Number(refused.headers.get('retry-after'))).toBeGreaterThan(0)
    await expect.poll(async () => (await fetch(`${server.url}/readyz`)).status, { timeout: 5_000 }).toBe(503)
    setCut(false)
    await expect.poll(async () => (await fetch(`${server.url}/readyz`)).status, { timeout: 5_000 }).toBe(200)
    expect((await verify()).status).toBe(200)

    setCut(true)
    const [code] = (await once(server.process, 'exit', { signal: AbortSignal.timeout(30_000) })) as [number]
    expect(code).toBe(129)
    expect(server.log()).toContain('the database is lost')
    between.close()
    await postgres.drop()
  })
})
