import { copyFile, mkdir, readdir, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { gitLfsVersions } from '../helpers/git-lfs.ts'
import {
  type Backend,
  backendSettings,
  hashTree,
  lfsObject,
  type RunningServer,
  startServer,
  World,
  writeRandom,
} from '../helpers/world.ts'

const MIB = 2 ** 20
const BACKENDS: Backend[] = ['file', 's3-sts', 's3-url']

/** How many agents git-lfs started and objects they moved, from what they logged. */
async function agentLog(world: World): Promise<string> {
  const { readFile } = await import('node:fs/promises')
  return readFile(world.path('agent.log'), 'utf8').catch(() => '')
}

for (const gitLfs of gitLfsVersions()) {
  describe.skipIf(gitLfs.missing !== undefined)(gitLfs.name, () => {
    describe.each(BACKENDS)('%s', (backend) => {
      let server: RunningServer
      let serverFolder: World
      beforeAll(async () => {
        serverFolder = await World.create()
        const data = serverFolder.path('data')
        server = await startServer(data, backendSettings(backend, data))
      })
      afterAll(async () => {
        expect(await server.stop()).toBe(0)
        await serverFolder.remove()
      })

      describe.each(['timone', 'basic'] as const)('transfer %s', (transfer) => {
        let world: World
        beforeEach(async () => {
          world = await World.create(gitLfs.folder === undefined ? {} : { gitLfs: gitLfs.folder })
          if (transfer === 'timone') await world.install()
          world.env.TIMONE_LOG = world.path('agent.log')
          await world.signIn(server)
        })
        afterEach(() => world.remove())

        test('push, clone, pull, fetch and push again, byte for byte', async () => {
          const name = `org/${transfer}-${gitLfs.name.replace(/[^a-z0-9]/gi, '')}`
          const { origin, work } = await world.repository(server, name)
          await writeRandom(join(work, 'big.bin'), 21 * MIB + 7)
          await writeRandom(join(work, 'exact.bin'), 16 * MIB)
          await writeRandom(join(work, 'one.bin'), 1)
          await writeFile(join(work, 'empty.bin'), '')
          await writeRandom(join(work, 'with space & "quotes" \'n $HOME.bin'), 1000)
          await writeRandom(join(work, 'тимоне', '☃ é.bin'), 70_000)
          await world.commit(work)
          await world.git(work, 'push', '-q', 'origin', 'main')

          const clone = world.path('a clone')
          await world.git(world.folder, 'clone', '-q', origin, clone)
          const sent = await hashTree(work)
          expect(Object.keys(sent)).toHaveLength(6)
          expect(await hashTree(clone)).toEqual(sent)
          await world.git(clone, 'lfs', 'fsck')

          // Nothing to move: no agent is started.
          const before = (await agentLog(world)).length
          await world.git(work, 'push', '-q', 'origin', 'main:again')
          expect((await agentLog(world)).length).toBe(before)

          await writeRandom(join(work, 'later.bin'), 123_456)
          await world.commit(work)
          await world.git(work, 'push', '-q', 'origin', 'main')
          await world.git(clone, 'pull', '-q')
          await rm(join(clone, '.git/lfs/objects'), { recursive: true })
          await world.git(clone, 'lfs', 'fetch')
          await world.git(clone, 'lfs', 'checkout')
          expect(await hashTree(clone)).toEqual(await hashTree(work))
          await world.git(clone, 'lfs', 'fsck')
          expect((await agentLog(world)).includes('upload complete')).toBe(transfer === 'timone')
          if (transfer === 'timone') {
            expect(await readdir(join(clone, '.git/lfs/timone'))).toEqual([])
            expect(await readdir(join(work, '.git/lfs/timone')).catch(() => [])).toEqual([])
          }
        })
      })
    })
  })
}

describe('many and large', () => {
  test.each(BACKENDS)('300 small files and one of 200 MiB through %s', async (backend) => {
    const world = await World.create()
    const data = world.path('data')
    const server = await startServer(data, backendSettings(backend, data))
    try {
      await world.install()
      await world.signIn(server)
      const { origin, work } = await world.repository(server)
      for (let number = 0; number < 300; number++)
        await writeRandom(join(work, `small/${number}.bin`), 100 + number * 97)
      await writeRandom(join(work, 'large.bin'), 200 * MIB)
      await world.commit(work)
      await world.git(work, 'push', '-q', 'origin', 'main')
      const clone = world.path('clone')
      await world.git(world.folder, 'clone', '-q', origin, clone)
      expect(await hashTree(clone)).toEqual(await hashTree(work))
      await world.git(clone, 'lfs', 'fsck')
    } finally {
      await server.stop()
      await world.remove()
    }
  })
})

describe('two remotes', () => {
  test('objects go to both servers, and come from either', async () => {
    const world = await World.create()
    const servers: RunningServer[] = []
    try {
      for (const name of ['one', 'two']) {
        const data = world.path(name)
        servers.push(await startServer(data, backendSettings('file', data)))
      }
      const [one, two] = servers as [RunningServer, RunningServer]
      await world.install()
      const tokens = [await world.signIn(one), await world.signIn(two)]
      await writeFile(
        world.path('home', 'credentials'),
        servers.map(({ port }, index) => `http://ada:${tokens[index]}@127.0.0.1:${port}\n`).join(''),
      )
      const { work } = await world.repository(one)
      await world.git(work, 'config', '-f', '.lfsconfig', '--unset', 'lfs.url')
      const second = world.path('second.git')
      await world.git(world.folder, 'init', '-q', '--bare', second)
      await world.git(work, 'remote', 'add', 'second', second)
      await world.git(work, 'config', 'remote.origin.lfsurl', `${one.url}/org/repo/info/lfs`)
      await world.git(work, 'config', 'remote.second.lfsurl', `${two.url}/other/repo/info/lfs`)
      const oid = await writeRandom(join(work, 'a.bin'), 300_000)
      await world.commit(work)
      await world.git(work, 'push', '-q', 'origin', 'main')
      await world.git(work, 'push', '-q', 'second', 'main')
      for (const remote of ['origin', 'second']) {
        await rm(join(work, '.git/lfs/objects'), { recursive: true })
        await world.git(work, 'lfs', 'fetch', remote)
        await copyFile(lfsObject(work, oid), world.path('copy'))
      }
    } finally {
      for (const server of servers) await server.stop()
      await world.remove()
    }
  })
})

describe('where git-lfs starts the agent', () => {
  let world: World
  let server: RunningServer
  beforeEach(async () => {
    world = await World.create()
    const data = world.path('data')
    server = await startServer(data, backendSettings('file', data))
    await world.install()
    await world.signIn(server)
  })
  afterEach(async () => {
    await server.stop()
    await world.remove()
  })

  /** A pushed repository whose clone has no objects yet. */
  async function emptyClone(): Promise<{
    origin: string
    work: string
    clone: string
    sent: Record<string, string>
  }> {
    const { origin, work } = await world.repository(server)
    await writeRandom(join(work, 'a.bin'), 100_000)
    await writeRandom(join(work, 'folder/b.bin'), 200_000)
    await world.commit(work)
    await world.git(work, 'push', '-q', 'origin', 'main')
    const clone = world.path('clone')
    world.env.GIT_LFS_SKIP_SMUDGE = '1'
    await world.git(world.folder, 'clone', '-q', origin, clone)
    delete world.env.GIT_LFS_SKIP_SMUDGE
    return { origin, work, clone, sent: await hashTree(work) }
  }

  test('a folder below the root', async () => {
    const { clone, sent } = await emptyClone()
    await world.git(join(clone, 'folder'), 'lfs', 'pull')
    expect(await hashTree(clone)).toEqual(sent)
  })

  test('a linked work tree', async () => {
    const { clone, sent } = await emptyClone()
    await world.git(clone, 'worktree', 'add', '-q', world.path('linked'), '-b', 'linked')
    expect(await hashTree(world.path('linked'))).toEqual(sent)
    // All work trees share the objects of the common folder.
    expect(await readdir(join(clone, '.git/lfs/objects'))).toHaveLength(2)
  })

  test('a submodule', async () => {
    const { origin, sent } = await emptyClone()
    const outer = world.path('outer')
    await world.git(world.folder, 'init', '-q', outer)
    await world.git(outer, 'submodule', '--quiet', 'add', origin, 'inner')
    expect(await hashTree(join(outer, 'inner'))).toEqual(sent)
    expect(await readdir(join(outer, '.git/modules/inner/lfs/objects'))).toHaveLength(2)
  })

  test('a bare repository', async () => {
    const { origin, work } = await emptyClone()
    const bare = world.path('bare.git')
    await world.git(world.folder, 'clone', '-q', '--bare', origin, bare)
    await world.git(bare, 'config', 'lfs.url', `${server.url}/org/repo/info/lfs`)
    await world.git(bare, 'lfs', 'fetch', 'origin', 'main')
    expect(await readdir(join(bare, 'lfs/objects'))).toHaveLength(2)
    expect(await readdir(join(work, '.git/lfs/objects'))).toHaveLength(2)
  })

  test('GIT_DIR elsewhere', async () => {
    const { clone, sent } = await emptyClone()
    world.env.GIT_DIR = join(clone, '.git')
    world.env.GIT_WORK_TREE = clone
    await world.git(clone, 'lfs', 'pull')
    expect(await hashTree(clone)).toEqual(sent)
  })

  test('lfs.storage, absolute and relative', async () => {
    const { clone, sent } = await emptyClone()
    await mkdir(world.path('a store'))
    await world.git(clone, 'config', 'lfs.storage', world.path('a store'))
    await world.git(clone, 'lfs', 'pull')
    expect(await hashTree(clone)).toEqual(sent)
    expect(await readdir(world.path('a store', 'objects'))).toHaveLength(2)

    await world.git(clone, 'config', 'lfs.storage', 'relative')
    await world.git(clone, 'lfs', 'fetch')
    expect(await readdir(join(clone, '.git/relative/objects'))).toHaveLength(2)
  })

  test('a shared repository under a strict umask', async () => {
    const { clone } = await emptyClone()
    await world.git(clone, 'config', 'core.sharedRepository', 'group')
    const { run } = await import('../helpers/world.ts')
    const ran = await run('sh', ['-c', 'umask 077; git lfs fetch'], { cwd: clone, env: world.env })
    expect(ran.code).toBe(0)
    const { stat } = await import('node:fs/promises')
    const [oid] = Object.values(await hashTree(world.path('work')))
    expect((await stat(lfsObject(clone, oid as string))).mode & 0o777).toBe(0o660)
  })

  test('without install the same clone works through basic', async () => {
    const { clone, sent } = await emptyClone()
    const ran = await world.timone(world.folder, 'uninstall', '--global')
    expect(ran.code).toBe(0)
    world.env.TIMONE_LOG = world.path('agent.log')
    await world.git(clone, 'lfs', 'pull')
    expect(await hashTree(clone)).toEqual(sent)
    expect(await agentLog(world)).toBe('')
  })
})
