import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync } from 'node:fs'
import { chmod, mkdir, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { basicLfsServer } from '../helpers/basic-lfs-server.ts'
import { faultProxy } from '../helpers/fault-proxy.ts'
import { gitLfsVersions } from '../helpers/git-lfs.ts'
import {
  type Backend,
  backendSettings,
  freePort,
  hashTree,
  hasObject,
  lfsObject,
  type Ran,
  type RunningServer,
  run,
  startServer,
  TIMONE,
  World,
  writeRandom,
} from '../helpers/world.ts'

const MIB = 2 ** 20
const KIB = 1024
const BACKENDS: Backend[] = ['file', 's3-sts', 's3-url']

/** Events that `--json` printed. */
const eventsOf = ({ stdout }: Ran): Record<string, unknown>[] =>
  stdout
    .split('\n')
    .filter(Boolean)
    .map((line) => JSON.parse(line))
const summaryOf = (ran: Ran): Record<string, unknown> => {
  const events = eventsOf(ran)
  expect(events.filter(({ event }) => event === 'summary')).toHaveLength(1)
  return events.at(-1) as Record<string, unknown>
}

/** Runs timone and fails the test when it fails. */
async function timone(world: World, cwd: string, ...args: string[]): Promise<Ran> {
  const ran = await world.timone(cwd, ...args)
  expect(ran, `timone ${args.join(' ')}\n${ran.stdout}\n${ran.stderr}`).toMatchObject({ code: 0 })
  return ran
}

/** A clone that holds pointers, no objects. */
async function pointerClone(
  world: World,
  origin: string,
  name: string,
  ...options: string[]
): Promise<string> {
  const clone = world.path(name)
  const env = { ...world.env, GIT_LFS_SKIP_SMUDGE: '1' }
  const ran = await run('git', ['clone', '-q', ...options, origin, clone], { cwd: world.folder, env })
  expect(ran).toMatchObject({ code: 0 })
  return clone
}

/** What must be true of a clone after a pull, whoever made it. */
async function expectCleanClone(world: World, clone: string, work: string): Promise<void> {
  expect(await hashTree(clone)).toEqual(await hashTree(work))
  expect(await world.git(clone, 'status', '--porcelain')).toBe('')
  await world.git(clone, 'lfs', 'fsck')
  const status = await world.git(clone, 'lfs', 'status', '--porcelain')
  expect(status).toBe('')
  const listed = await world.git(clone, 'lfs', 'ls-files')
  // git-lfs marks with a dash what is a pointer still.
  expect(listed.split('\n').filter((line) => / - /.test(line))).toEqual([])
}

for (const gitLfs of gitLfsVersions()) {
  describe.skipIf(gitLfs.missing !== undefined)(gitLfs.name, () => {
    describe.each(BACKENDS)('%s', (backend) => {
      let server: RunningServer
      let serverFolder: World
      let world: World
      beforeAll(async () => {
        serverFolder = await World.create()
        const data = serverFolder.path('data')
        server = await startServer(data, backendSettings(backend, data))
      })
      afterAll(async () => {
        expect(await server.stop()).toBe(0)
        await serverFolder.remove()
      })
      beforeEach(async () => {
        world = await World.create(gitLfs.folder === undefined ? {} : { gitLfs: gitLfs.folder })
        await world.signIn(server)
      })
      afterEach(() => world.remove())

      test('what timone pushes git-lfs pulls, and what git-lfs pushes timone pulls, byte for byte', async () => {
        const { origin, work } = await world.repository(
          server,
          `org/fast-${gitLfs.name.replace(/[^a-z0-9]/gi, '')}`,
        )
        await writeRandom(join(work, 'big.bin'), 21 * MIB + 7)
        await writeRandom(join(work, 'exact.bin'), 16 * MIB)
        await writeRandom(join(work, 'one.bin'), 1)
        await writeFile(join(work, 'empty.bin'), '')
        await writeRandom(join(work, 'with space & "quotes" \'n $HOME [x]*.bin'), 1000)
        await writeRandom(join(work, 'тимоне', '☃ é.bin'), 70_000)
        for (let at = 0; at < 150; at++) await writeRandom(join(work, `small/${at}.bin`), 100 + at * 31)
        await writeFile(join(work, 'twin.bin'), await readFile(join(work, 'one.bin')))
        await world.commit(work)
        const pushed = summaryOf(await timone(world, work, 'push', '--json'))
        expect(pushed).toMatchObject({ exit_code: 0, moved: 155, failed: 0, skipped: 0 })
        // git's own push finds nothing left to do.
        await world.git(work, 'push', '-q', 'origin', 'main')
        expect(summaryOf(await timone(world, work, 'push', '--json', 'origin', 'main'))).toMatchObject({
          moved: 0,
          skipped: 0,
        })
        expect(summaryOf(await timone(world, work, 'push', '--json', '--all'))).toMatchObject({
          moved: 0,
          skipped: 155,
        })

        const byGitLfs = world.path('by git-lfs')
        await world.git(world.folder, 'clone', '-q', origin, byGitLfs)
        await expectCleanClone(world, byGitLfs, work)

        await writeRandom(join(work, 'later.bin'), 3 * MIB)
        await world.commit(work)
        await world.git(work, 'push', '-q', 'origin', 'main')
        const clone = await pointerClone(world, origin, 'by timone')
        const pulled = summaryOf(await timone(world, clone, 'pull', '--json'))
        expect(pulled).toMatchObject({ exit_code: 0, moved: 156, failed: 0, files: 157 })
        await expectCleanClone(world, clone, work)
        expect(await readdir(join(clone, '.git/lfs/timone')).catch(() => [])).toEqual([])
        for (const left of ['timone-fill', 'index.lock'])
          expect(existsSync(join(clone, '.git', left))).toBe(false)

        const again = await timone(world, clone, 'pull', '--json')
        expect(summaryOf(again)).toMatchObject({ moved: 0, skipped: 156, files: 0, bytes: 0 })
        expect(eventsOf(again)[0]).toEqual({ event: 'start', command: 'pull', endpoint: null })
      }, 180_000)
    })

    describe('in every kind of repository', () => {
      let world: World
      let server: RunningServer
      let origin: string
      let work: string
      let oids: Record<string, string>
      beforeAll(async () => {
        world = await World.create(gitLfs.folder === undefined ? {} : { gitLfs: gitLfs.folder })
        const data = world.path('data')
        server = await startServer(data, backendSettings('file', data))
        await world.signIn(server)
        ;({ origin, work } = await world.repository(server))
        oids = {}
        for (const name of ['a.bin', 'b.bin', 'sub/c.bin', 'sub/deep/d.bin', 'other/e.bin']) {
          oids[name] = await writeRandom(join(work, name), 5000)
        }
        await world.commit(work)
        oids.old = oids['a.bin'] as string
        oids['a.bin'] = await writeRandom(join(work, 'a.bin'), 6000)
        await world.commit(work)
        await world.git(work, 'checkout', '-q', '-b', 'feature')
        oids.feature = await writeRandom(join(work, 'feature.bin'), 7000)
        await world.commit(work)
        await world.git(work, 'checkout', '-q', 'main')
        await timone(world, work, 'push', 'origin', 'main', 'feature')
        await world.git(work, 'push', '-q', 'origin', 'main', 'feature')
      })
      afterAll(async () => {
        await server.stop()
        await world.remove()
      })
      let count = 0
      const clone = (...options: string[]) => pointerClone(world, origin, `clone ${++count}`, ...options)
      const held = (folder: string): string[] =>
        Object.keys(oids)
          .filter((name) => hasObject(folder, oids[name] as string))
          .sort()
      const MAIN = ['a.bin', 'b.bin', 'other/e.bin', 'sub/c.bin', 'sub/deep/d.bin']

      test('fetch: HEAD by default, or refs, or a remote and refs, or all; files stay pointers', async () => {
        const at = await clone()
        await timone(world, at, 'fetch')
        expect(held(at)).toEqual(MAIN)
        expect((await readFile(join(at, 'a.bin'), 'utf8')).startsWith('version https://git-lfs')).toBe(true)
        await timone(world, at, 'fetch', 'origin', 'origin/feature')
        expect(held(at)).toEqual([...MAIN, 'feature'].sort())
        await timone(world, at, 'fetch', '--all')
        expect(held(at)).toEqual([...MAIN, 'feature', 'old'].sort())
        await world.git(at, 'lfs', 'fsck', '--objects')
        expect(await world.timone(at, 'fetch', 'no-such-branch')).toMatchObject({
          code: 2,
          stderr: expect.stringContaining('no-such-branch'),
        })
        expect(await world.timone(at, 'fetch', '--all', '--recent')).toMatchObject({ code: 2 })
      })

      test('fetch --recent: branches of the last days', async () => {
        const at = await clone()
        await timone(world, at, 'fetch', '--recent')
        expect(held(at)).toEqual([...MAIN, 'feature'].sort())
        const without = await clone()
        await world.git(without, 'config', 'lfs.fetchrecentrefsdays', '0')
        await timone(world, without, 'fetch', '--recent')
        expect(held(without)).toEqual(MAIN)
      })

      test('--include and --exclude, and lfs.fetchinclude and lfs.fetchexclude unless they are given', async () => {
        const at = await clone()
        await timone(world, at, 'pull', '--include', 'sub', '-X', 'deep')
        expect(held(at)).toEqual(['sub/c.bin'])
        await world.git(at, 'config', 'lfs.fetchinclude', 'other/*')
        await timone(world, at, 'pull')
        expect(held(at)).toEqual(['other/e.bin', 'sub/c.bin'])
        expect(await world.git(at, 'status', '--porcelain')).toBe('')
        await timone(world, at, 'pull', '--include', '')
        expect(held(at)).toEqual(MAIN)
      })

      test('files that the user changed or removed the pointer of are not touched', async () => {
        const at = await clone()
        await writeFile(join(at, 'a.bin'), 'mine')
        const ran = await timone(world, at, 'pull')
        expect(await readFile(join(at, 'a.bin'), 'utf8')).toBe('mine')
        expect(ran.stderr).toMatch(/left a\.bin as it is: the file was changed/)
        expect((await stat(join(at, 'b.bin'))).size).toBe(5000)
        expect(await world.git(at, 'status', '--porcelain')).toBe(' M a.bin\n')
      })

      test('from a subfolder, and from inside the git folder', async () => {
        const at = await clone()
        await timone(world, join(at, 'sub/deep'), 'pull')
        await expectCleanClone(world, at, work)
        expect(await world.timone(join(at, '.git'), 'pull')).toMatchObject({ code: 2 })
      })

      test('linked work trees share the objects', async () => {
        const at = await clone()
        const linked = world.path(`linked ${count}`)
        const env = { ...world.env, GIT_LFS_SKIP_SMUDGE: '1' }
        await run('git', ['worktree', 'add', '-q', linked, 'origin/feature'], { cwd: at, env })
        await timone(world, linked, 'pull')
        expect((await stat(join(linked, 'feature.bin'))).size).toBe(7000)
        expect(await world.git(linked, 'status', '--porcelain')).toBe('')
        expect(held(at)).toEqual([...MAIN, 'feature'].sort())
        expect(summaryOf(await timone(world, at, 'pull', '--json'))).toMatchObject({ moved: 0, files: 5 })
      })

      test('submodules, each by itself', async () => {
        const outer = world.path(`outer ${++count}`)
        const env = { ...world.env, GIT_LFS_SKIP_SMUDGE: '1' }
        await world.git(world.folder, 'init', '-q', outer)
        const ran = await run('git', ['submodule', '--quiet', 'add', origin, 'inner'], { cwd: outer, env })
        expect(ran).toMatchObject({ code: 0 })
        await timone(world, join(outer, 'inner'), 'pull')
        expect(await hashTree(join(outer, 'inner'))).toEqual(await hashTree(work))
        expect(await world.git(join(outer, 'inner'), 'status', '--porcelain')).toBe('')
      })

      test('bare repositories: .lfsconfig is read from HEAD; fetch and push; no pull', async () => {
        const bare = await clone('--bare')
        await timone(world, bare, 'fetch')
        const object = join(bare, 'lfs/objects')
        expect(
          (await readdir(object, { recursive: true })).filter((name) => /[0-9a-f]{64}$/.test(name)),
        ).toHaveLength(5)
        expect(await world.timone(bare, 'pull')).toMatchObject({
          code: 2,
          stderr: expect.stringContaining('timone fetch'),
        })
        expect(summaryOf(await timone(world, bare, 'push', '--json', '--all', 'main'))).toMatchObject({
          failed: 0,
          skipped: 6,
        })
      })

      test('sparse checkouts fetch and fill what they show', async () => {
        const at = await clone('--sparse')
        await world.git(at, 'sparse-checkout', 'set', 'sub')
        await timone(world, at, 'pull')
        expect(held(at)).toEqual(['a.bin', 'b.bin', 'sub/c.bin', 'sub/deep/d.bin'])
        expect(await world.git(at, 'status', '--porcelain')).toBe('')
      })

      test('partial clones', async () => {
        await world.git(origin, 'config', 'uploadpack.allowFilter', 'true')
        const at = world.path(`clone ${++count}`)
        const env = { ...world.env, GIT_LFS_SKIP_SMUDGE: '1' }
        const ran = await run('git', ['clone', '-q', '--filter=blob:none', `file://${origin}`, at], {
          cwd: world.folder,
          env,
        })
        expect(ran).toMatchObject({ code: 0 })
        await timone(world, at, 'pull')
        await expectCleanClone(world, at, work)
      })

      test('objects of a repository that this one borrows from are linked, not fetched', async () => {
        const at = await clone('--reference', work)
        const ran = await timone(world, at, 'pull', '--json')
        expect(summaryOf(ran)).toMatchObject({ moved: 0, skipped: 5, files: 5 })
        const there = await stat(lfsObject(work, oids['b.bin'] as string))
        expect((await stat(lfsObject(at, oids['b.bin'] as string))).ino).toBe(there.ino)
        await expectCleanClone(world, at, work)
      })

      test('core.sharedRepository: the group may write objects and enter folders', async () => {
        const at = await clone('-c', 'core.sharedRepository=group')
        await timone(world, at, 'fetch')
        const object = lfsObject(at, oids['b.bin'] as string)
        expect((await stat(object)).mode & 0o777).toBe(0o660)
        expect((await stat(join(object, '..'))).mode & 0o770).toBe(0o770)
      })

      test('a damaged object is fetched anew; a server’s missing object is told, and the rest arrives', async () => {
        const at = await clone()
        await timone(world, at, 'fetch')
        await chmod(lfsObject(at, oids['b.bin'] as string), 0o644)
        await writeFile(lfsObject(at, oids['b.bin'] as string), 'short')
        expect(summaryOf(await timone(world, at, 'pull', '--json'))).toMatchObject({ moved: 1 })
        await expectCleanClone(world, at, work)

        const lost = await writeRandom(join(at, 'lost.bin'), 1234)
        await world.commit(at, 'An object that nobody pushes')
        await rm(lfsObject(at, lost))
        await rm(join(at, 'lost.bin'))
        await rm(lfsObject(at, oids['a.bin'] as string))
        const ran = await world.timone(at, 'pull')
        expect(ran.code).toBe(1)
        expect(ran.stderr).toContain(
          `timone: lost.bin (${lost.slice(0, 12)}): 127.0.0.1:${server.port} does not have the object`,
        )
        expect(ran.stderr).toContain('timone push --all')
        expect(hasObject(at, oids['a.bin'] as string)).toBe(true)
        const json = await world.timone(at, 'pull', '--json')
        expect(eventsOf(json).filter(({ event }) => event === 'error')).toMatchObject([
          { oid: lost, path: 'lost.bin', code: 'not_found' },
        ])
      })

      test('push: objects that are not here, lfs.allowincompletepush, --dry-run', async () => {
        const at = await clone()
        await timone(world, at, 'pull')
        const lost = await writeRandom(join(at, 'lost.bin'), 1234)
        const good = await writeRandom(join(at, 'good.bin'), 2345)
        await world.commit(at)
        const dry = await timone(world, at, 'push', '--dry-run')
        expect(dry.stdout.split('\n').slice(0, 2).sort()).toEqual(
          [`push ${good} => good.bin`, `push ${lost} => lost.bin`].sort(),
        )
        await rm(lfsObject(at, lost))
        const ran = await world.timone(at, 'push')
        expect(ran).toMatchObject({
          code: 1,
          stderr: expect.stringMatching(/lost\.bin .*neither here nor on the server.*allowincompletepush/),
        })
        await world.git(at, 'config', 'lfs.allowincompletepush', 'true')
        const allowed = await timone(world, at, 'push')
        expect(allowed.stderr).toMatch(/lost\.bin .* is left out/)
        // Without a branch it is HEAD all the same.
        // Not by checkout, which may clean the lost file once more and so bring its object back.
        const head = (await world.git(at, 'rev-parse', 'HEAD')).trim()
        await world.git(at, 'update-ref', '--no-deref', 'HEAD', head)
        expect(summaryOf(await timone(world, at, 'push', '--json'))).toMatchObject({ moved: 0, skipped: 1 })
      })

      test('an empty repository, and one without LFS', async () => {
        const empty = world.path(`empty ${++count}`)
        await world.git(world.folder, 'init', '-q', empty)
        expect((await world.timone(empty, 'pull')).code).toBe(0)
        await writeFile(join(empty, 'x'), 'x')
        await world.commit(empty)
        for (const command of ['pull', 'fetch', 'push'])
          expect((await world.timone(empty, command)).code).toBe(0)
        expect(await world.timone(world.folder, 'pull')).toMatchObject({
          code: 2,
          stderr: expect.stringContaining('git init'),
        })
      })
    })
  })
}

describe('servers', () => {
  let world: World
  let server: RunningServer
  let origin: string
  let work: string
  let oid: string
  beforeEach(async () => {
    world = await World.create()
    const data = world.path('data')
    server = await startServer(data, backendSettings('file', data))
    await world.signIn(server)
    ;({ origin, work } = await world.repository(server))
    oid = await writeRandom(join(work, 'a.bin'), 4000)
    await world.commit(work)
  })
  afterEach(async () => {
    await server.stop()
    await world.remove()
  })

  test('a wrong password is forgotten and the message says what to do; no secret is printed', async () => {
    await world.signIn(server, { token: 'not-a-token' })
    const ran = await world.timone(work, 'push')
    expect(ran.code).toBe(1)
    expect(ran.stderr).toContain('does not accept user ada with this password')
    expect(ran.stdout + ran.stderr).not.toContain('not-a-token')
    expect(await readFile(world.path('home/credentials'), 'utf8')).toBe('')
    const none = await world.timone(work, 'push')
    expect(none).toMatchObject({ code: 1, stderr: expect.stringContaining('wants a user and a password') })
  })

  test('a password in the URL works and is never shown', async () => {
    const token = await world.signIn(server)
    await rm(world.path('home/credentials'))
    await world.git(
      work,
      'config',
      'lfs.url',
      `http://ada:${token}@127.0.0.1:${server.port}/org/repo/info/lfs`,
    )
    const ran = await timone(world, work, 'push', '--json')
    expect(summaryOf(ran)).toMatchObject({ moved: 1 })
    expect(ran.stdout + ran.stderr).not.toContain(token)
    expect(eventsOf(ran)[0]).toMatchObject({ endpoint: `http://127.0.0.1:${server.port}/org/repo/info/lfs` })
  })

  test('http.<url>.extraHeader, as runners have it', async () => {
    const token = await world.signIn(server)
    await rm(world.path('home/credentials'))
    await world.git(
      work,
      'config',
      `http.http://127.0.0.1:${server.port}/.extraHeader`,
      `Authorization: Bearer ${token}`,
    )
    expect(summaryOf(await timone(world, work, 'push', '--json'))).toMatchObject({ moved: 1 })
  })

  test('a token without the right to write: 403, told once', async () => {
    await world.signIn(server, { scope: 'lfs:*:r' })
    const ran = await world.timone(work, 'push')
    expect(ran.code).toBe(1)
    expect(ran.stderr.match(/refused/g)).toHaveLength(1)
  })

  test('no server', async () => {
    await world.git(work, 'config', 'lfs.url', `http://127.0.0.1:${await freePort()}/org/repo/info/lfs`)
    await world.git(work, 'config', 'lfs.transfer.maxretries', '1')
    await world.git(work, 'config', 'lfs.transfer.maxretrydelay', '1')
    const ran = await world.timone(work, 'push', '--json')
    expect(ran.code).toBe(1)
    expect(eventsOf(ran).find(({ event }) => event === 'error')).toMatchObject({
      code: 'connection',
      oid: null,
    })
    expect(summaryOf(ran)).toMatchObject({ exit_code: 1, moved: 0, retries: 1 })
  })

  test('another LFS server is left to git-lfs, both ways, and it is said in one line', async () => {
    const other = await basicLfsServer()
    try {
      await world.git(work, 'config', '-f', '.lfsconfig', 'lfs.url', other.url)
      await world.commit(work)
      const pushed = await timone(world, work, 'push')
      expect(pushed.stderr.match(/is no timone server: git lfs sends 1 objects/g)).toHaveLength(1)
      expect([...other.objects.keys()]).toEqual([oid])
      expect(other.offered[0]).toEqual(['timone', 'basic'])
      await run('git', ['push', '-q', 'origin', 'main'], { cwd: work, env: world.env })
      const clone = await pointerClone(world, origin, 'clone')
      const pulled = await timone(world, clone, 'pull')
      expect(pulled.stderr).toContain('is no timone server: git lfs fetches 1 objects')
      await expectCleanClone(world, clone, work)
    } finally {
      await other.close()
    }
  })

  test('a remote that is a folder is left to git-lfs', async () => {
    await rm(join(work, '.lfsconfig'))
    await world.commit(work)
    const pushed = await timone(world, work, 'push')
    expect(pushed.stderr).toContain('left to git-lfs')
    await world.git(work, 'push', '-q', 'origin', 'main')
    const clone = await pointerClone(world, origin, 'clone')
    await timone(world, clone, 'pull')
    await expectCleanClone(world, clone, work)
  })

  test('somebody else’s lock stops a push where lfs.locksverify says so, and is warned of without it', async () => {
    await timone(world, work, 'push')
    await world.git(work, 'push', '-q', 'origin', 'main')
    await world.signIn(server, { user: 'bob' })
    await world.git(work, 'lfs', 'lock', 'a.bin')
    await world.signIn(server, { user: 'ada' })
    await chmod(join(work, 'a.bin'), 0o644)
    await writeRandom(join(work, 'a.bin'), 100)
    await writeRandom(join(work, 'free.bin'), 100)
    await world.commit(work)
    await world.git(work, 'config', 'lfs.locksverify', 'true')
    const ran = await world.timone(work, 'push', '--json')
    expect(ran.code).toBe(1)
    expect(eventsOf(ran).filter(({ event }) => event === 'error')).toMatchObject([
      { path: 'a.bin', code: 'conflict', message: expect.stringContaining('bob holds the lock of a.bin') },
    ])
    expect(summaryOf(ran)).toMatchObject({ moved: 1, failed: 1 })
    await world.git(work, 'config', '--unset', 'lfs.locksverify')
    await world.git(work, 'config', '-f', '.lfsconfig', '--unset', 'lfs.locksverify')
    const warned = await timone(world, work, 'push')
    expect(warned.stderr).toMatch(/bob holds the lock of a\.bin; it is pushed all the same/)
  })

  test('a .lfsconfig that is a link is not read', async () => {
    await timone(world, work, 'push')
    await world.git(work, 'push', '-q', 'origin', 'main')
    const clone = await pointerClone(world, origin, 'clone')
    await rm(join(clone, '.lfsconfig'))
    await writeFile(world.path('secret'), '[lfs]\n\turl = http://127.0.0.1:1/x\n')
    await run('ln', ['-s', world.path('secret'), join(clone, '.lfsconfig')], { cwd: clone })
    // The index still has the one that was committed.
    await timone(world, clone, 'fetch')
    expect(hasObject(clone, oid)).toBe(true)
  })
})

describe('interruption and company', () => {
  let world: World
  let server: RunningServer
  let origin: string
  let work: string
  let proxy: Awaited<ReturnType<typeof faultProxy>>
  const children: ChildProcess[] = []
  beforeEach(async () => {
    world = await World.create()
    const data = world.path('data')
    const port = await freePort()
    proxy = await faultProxy(`http://127.0.0.1:${port}`)
    server = await startServer(
      data,
      { ...backendSettings('file', data), TIMONE_ENDPOINT_URL: proxy.url },
      { port },
    )
    await world.signIn(server)
    ;({ origin, work } = await world.repository(server))
    await writeRandom(join(work, 'large.bin'), 24 * MIB)
    for (let at = 0; at < 40; at++) await writeRandom(join(work, `${at}.bin`), 10 * KIB + at)
    await world.commit(work)
    await timone(world, work, 'push')
    await world.git(work, 'push', '-q', 'origin', 'main')
  })
  afterEach(async () => {
    for (const child of children.splice(0)) child.kill('SIGKILL')
    await server.stop()
    await proxy.close()
    await world.remove()
  })

  function start(cwd: string, ...args: string[]): { child: ChildProcess; out: () => string } {
    const child = spawn(TIMONE, args, { cwd, env: world.env, stdio: ['ignore', 'pipe', 'pipe'] })
    children.push(child)
    let text = ''
    for (const stream of [child.stdout, child.stderr]) {
      stream?.setEncoding('utf8').on('data', (chunk: string) => {
        text += chunk
      })
    }
    return { child, out: () => text }
  }

  test('Ctrl-C in the middle of a pull leaves a clone that the next pull goes on with', async () => {
    const clone = await pointerClone(world, origin, 'clone')
    const stalled = new Promise<void>((resolve) => {
      proxy.fault = (request) => {
        if (!/\/object\//.test(request.url ?? '') || request.method !== 'GET') return undefined
        resolve()
        return { kind: 'stall', after: 3000 }
      }
    })
    const { child, out } = start(clone, 'pull', '--json')
    await stalled
    const ended = once(child, 'exit')
    const began = Date.now()
    child.kill('SIGINT')
    expect(await ended).toEqual([130, null])
    // It promises a second; a busy machine may take more to reap it.
    expect(Date.now() - began).toBeLessThan(5000)
    const events = out()
      .trim()
      .split('\n')
      .map((line) => JSON.parse(line))
    expect(events.at(-1)).toMatchObject({ event: 'summary', exit_code: 130 })
    expect(existsSync(join(clone, '.git/index.lock'))).toBe(false)
    proxy.fault = () => undefined
    await timone(world, clone, 'pull')
    await expectCleanClone(world, clone, work)
    expect(await readdir(join(clone, '.git/lfs/timone'))).toEqual([])
  })

  test('two pulls in one clone at once', async () => {
    const clone = await pointerClone(world, origin, 'clone')
    const both = [start(clone, 'pull'), start(clone, 'pull')]
    const codes = await Promise.all(both.map(async ({ child }) => (await once(child, 'exit'))[0]))
    expect(codes, both.map(({ out }) => out()).join('\n')).toEqual([0, 0])
    await timone(world, clone, 'pull')
    await expectCleanClone(world, clone, work)
  })

  test('a full line of faults: every object arrives, and the retries are counted', async () => {
    const clone = await pointerClone(world, origin, 'clone')
    await world.git(clone, 'config', 'lfs.transfer.maxretrydelay', '1')
    let faults = 0
    proxy.fault = (request) => {
      if (!/\/object\//.test(request.url ?? '') || ++faults % 5 !== 0) return undefined
      return { kind: 'answer', status: 503 }
    }
    const ran = await timone(world, clone, 'pull', '--json')
    expect(summaryOf(ran)).toMatchObject({ moved: 41, failed: 0 })
    expect(summaryOf(ran).retries).toBeGreaterThan(0)
    await expectCleanClone(world, clone, work)
  })
})

describe('what is shown', () => {
  let world: World
  let server: RunningServer
  let origin: string
  beforeAll(async () => {
    world = await World.create()
    const data = world.path('data')
    server = await startServer(data, backendSettings('file', data))
    await world.signIn(server)
    const made = await world.repository(server)
    origin = made.origin
    for (let at = 0; at < 30; at++) await writeRandom(join(made.work, `${at}.bin`), 2 * MIB)
    await world.commit(made.work)
    await timone(world, made.work, 'push')
    await world.git(made.work, 'push', '-q', 'origin', 'main')
  })
  afterAll(async () => {
    await server.stop()
    await world.remove()
  })
  let count = 0
  const clone = () => pointerClone(world, origin, `shown ${++count}`)

  /** Runs the command with a pseudo-terminal for all its streams. */
  const inTerminal = async (cwd: string, env: NodeJS.ProcessEnv, ...args: string[]): Promise<string> => {
    const command = `stty cols 100; ${[TIMONE, ...args].map((word) => `'${word}'`).join(' ')}`
    const ran = await run('script', ['-qec', command, '/dev/null'], {
      cwd,
      env: { ...world.env, TERM: 'xterm', ...env },
    })
    expect(ran.code).toBe(0)
    return ran.stdout
  }

  test('on a terminal: one line, redrawn, as wide as the terminal at most, and the cursor comes back', async () => {
    const shown = await inTerminal(await clone(), {}, 'pull')
    expect(shown).toContain('\u001b[?25l')
    expect(shown.lastIndexOf('\u001b[?25h')).toBeGreaterThan(shown.lastIndexOf('\u001b[?25l'))
    const drawn = shown.split('\r').filter((line) => line.startsWith('pull ') && line.includes('%'))
    expect(drawn.length).toBeGreaterThan(0)
    for (const line of drawn) expect((line.split('\u001b')[0] as string).length).toBeLessThan(100)
    expect(shown).toMatch(/pull: fetched 30 objects, 60\.0 MiB in [\d.]+ s .*30 files filled/)
  })

  test.each([
    ['CI', { CI: 'true' }],
    ['a dumb terminal', { TERM: 'dumb' }],
  ])('in %s: whole lines only', async (_, env) => {
    const shown = await inTerminal(await clone(), env, 'pull')
    expect(shown).not.toContain('\u001b')
    expect(shown).toContain('pull: fetched 30 objects')
  })

  test('--quiet says nothing, --json nothing but events', async () => {
    expect(await timone(world, await clone(), 'pull', '--quiet')).toMatchObject({ stdout: '', stderr: '' })
    const ran = await timone(world, await clone(), 'pull', '--json')
    expect(ran.stderr).toBe('')
    const events = eventsOf(ran)
    expect(events[0]).toMatchObject({ event: 'start', command: 'pull' })
    const objects = events.filter(({ event }) => event === 'object')
    expect(objects).toHaveLength(30)
    for (const object of objects) {
      expect(object).toEqual({
        event: 'object',
        oid: expect.stringMatching(/^[0-9a-f]{64}$/),
        size: 2 * MIB,
        path: expect.stringMatching(/^\d+\.bin$/),
        result: 'moved',
      })
    }
    const summary = summaryOf(ran)
    expect(summary).toEqual({
      event: 'summary',
      command: 'pull',
      exit_code: 0,
      moved: 30,
      cached: 0,
      skipped: 0,
      failed: 0,
      bytes: 60 * MIB,
      files: 30,
      seconds: expect.any(Number),
      rate: expect.any(Number),
      retries: 0,
    })
  })

  test('files with other filters or conversions are left to git lfs checkout', async () => {
    const at = await clone()
    await mkdir(join(at, '.git/info'), { recursive: true })
    await writeFile(join(at, '.git/info/attributes'), '3.bin ident\n')
    const ran = await timone(world, at, 'pull')
    expect(ran.stderr).toMatch(/left 3\.bin to git lfs checkout/)
    expect((await stat(join(at, '3.bin'))).size).toBe(2 * MIB)
    expect((await stat(join(at, '4.bin'))).size).toBe(2 * MIB)
  })
})
