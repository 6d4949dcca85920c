import { spawnSync } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import {
  existsSync,
  globSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  statSync,
  utimesSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { Readable } from 'node:stream'
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest'
import { Reception } from '../../src/remotestorage/incoming.ts'
import { LargeDocuments } from '../../src/remotestorage/large-documents.ts'
import { moveMain, whileMainStands } from '../../src/remotestorage/main-lock.ts'
import { packIfMany } from '../../src/remotestorage/packing.ts'
import { prune } from '../../src/remotestorage/prune.ts'
import { Spaces } from '../../src/remotestorage/spaces.ts'
import { Storage } from '../../src/remotestorage/storage.ts'
import { createFileStore } from '../../src/storage/file-store.ts'

const SECONDS = 8
const user = {
  ...{ id: 1, login: 'bob', name: 'bob', email: null, pictureUrl: null },
  ...{ quota: null, disabledAt: null, createdAt: '' },
}

let folder: string
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'timone-prune-'))
})
afterAll(() => rmSync(folder, { recursive: true, force: true }))

function fsck(gitDir: string, ...options: string[]) {
  const args = ['--git-dir', gitDir, 'fsck', '--strict', '--full', '--no-progress', ...options]
  const { stdout, stderr, status } = spawnSync('git', args, { encoding: 'utf8' })
  return { stdout, stderr, status }
}

/** As another server process on the same folder would have it. */
function server() {
  const root = join(folder, 'spaces')
  const spaces = new Spaces({ root })
  const large = new LargeDocuments(createFileStore(join(folder, 'objects')), '')
  const reception = new Reception(join(root, '.incoming'), 1024)
  const storage = new Storage({ spaces, reception, large, quota: 1e12, now: Date.now })
  return { spaces, large, storage }
}

test('takes nothing that servers are just about to use, and no server notices', async () => {
  const servers = [server(), server()]
  const pruner = server()
  // Few contents, written and deleted again and again: what one is removing, another is about to refer to.
  const contents = Array.from({ length: 6 }, (_, n) => randomBytes(n % 2 === 0 ? 200 : 2000))
  const start = Date.now()
  // On a busy machine as long as it takes.
  const isOver = () =>
    Date.now() > start + SECONDS * 1000 && (prunings > 3 || Date.now() > start + 4 * SECONDS * 1000)
  const expected = new Map<string, Buffer>()
  let writes = 0
  let prunings = 0
  let packings = 0
  const client = async (number: number): Promise<void> => {
    const { storage } = servers[number % servers.length] as (typeof servers)[number]
    for (let turn = 0; !isOver(); turn++) {
      const name = `d${number}-${turn % 3}`
      const content = contents[(number + turn) % contents.length] as Buffer
      if (turn % 4 === 3 && expected.has(name)) {
        expected.delete(name)
        await storage.delete(user, ['m', name], { client: 'x' })
      } else {
        const given = { type: 'text/plain', length: content.length, client: 'x' }
        await storage.put(user, ['m', name], Readable.from([content]), given)
        expected.set(name, content)
      }
      writes++
    }
  }
  const pruning = async (): Promise<void> => {
    await new Promise((resolve) => setTimeout(resolve, 300))
    const space = pruner.spaces.of(user.id)
    while (!isOver()) {
      const { large } = pruner
      await prune({ space, user, large, before: Date.now() - 1000, write: true, now: Date.now, grace: 2000 })
      prunings++
      if (prunings % 3 === 0 && (await packIfMany(space.gitDir, 0).catch(() => false))) packings++
    }
  }
  await Promise.all([...Array.from({ length: 6 }, (_, number) => client(number)), pruning()])
  expect([writes > 50, prunings > 3, packings > 0]).toEqual([true, true, true])

  const late = server()
  for (const [name, content] of expected) {
    const body = await (await late.storage.document(user, ['m', name])).open()
    const chunks = Buffer.isBuffer(body) ? [body] : ((await body.toArray()) as Buffer[])
    expect(Buffer.concat(chunks).equals(content)).toBe(true)
  }
  // What lost races have left behind goes too, in time.
  await new Promise((resolve) => setTimeout(resolve, 2100))
  const { large } = pruner
  const space = pruner.spaces.of(user.id)
  await prune({ space, user, large, before: Date.now(), write: true, now: Date.now, grace: 2000 })
  expect(fsck(space.gitDir)).toEqual({ stdout: '', stderr: '', status: 0 })
  for (const { spaces } of [...servers, pruner, late]) spaces.close()
}, 60_000)

test('young objects that nothing refers to stay, with the old ones that they lead to', async () => {
  const { storage, spaces, large } = server()
  const owner = { ...user, id: 2 }
  const put = async (name: string) =>
    storage.put(owner, ['m', name], Readable.from([Buffer.from(name)]), {
      type: 'a/b',
      length: 1,
      client: 'x',
    })
  await put('1')
  await put('2')
  const space = spaces.of(owner.id)
  const git = (...args: string[]) =>
    spawnSync('git', ['--git-dir', space.gitDir, ...args], { encoding: 'utf8' }).stdout.trim()
  const [blob, tree] = [git('rev-parse', 'main:m/.gitattributes'), git('rev-parse', 'main:m')]
  await storage.delete(owner, ['m', '1'], { client: 'x' })
  const fileOf = (oid: string) => join(space.gitDir, 'objects', oid.slice(0, 2), oid.slice(2))
  const age = (paths: string[], seconds: number) => {
    const then = new Date(Date.now() - seconds * 1000)
    for (const path of paths) utimesSync(path, then, then)
  }
  const pruned = () =>
    prune({ space, user: owner, large, before: Date.now(), write: true, now: Date.now, grace: 60_000 })
  const isThere = (oid: string) => git('cat-file', '-t', oid) !== ''

  // All is old but the tree, which somebody wrote again a moment ago, and whose change was not made.
  age(
    globSync('objects/??/*', { cwd: space.gitDir }).map((name) => join(space.gitDir, name)),
    100,
  )
  age([fileOf(tree)], 1)
  await pruned()
  expect([isThere(tree), isThere(blob)]).toEqual([true, true])
  expect(fsck(space.gitDir, '--no-dangling')).toEqual({ stdout: '', stderr: '', status: 0 })
  // Then the others are in a pack that is old.
  const copy = readFileSync(fileOf(tree))
  git('repack', '-adk', '-q')
  const packs = () => globSync(join(space.gitDir, 'objects/pack/*.pack'))
  const old = packs()
  age(old, 100)
  mkdirSync(dirname(fileOf(tree)), { recursive: true })
  writeFileSync(fileOf(tree), copy)
  expect((await pruned()).complete).toBe(false)
  expect([isThere(tree), isThere(blob)]).toEqual([true, true])

  // Packing drops the loose tree, for it is in that pack: this must not be the time to drop the pack.
  await packIfMany(space.gitDir, 0)
  expect(existsSync(fileOf(tree))).toBe(false)
  expect((await pruned()).complete).toBe(false)
  expect([isThere(tree), isThere(blob)]).toEqual([true, true])

  age(packs(), 100)
  expect((await pruned()).complete).toBe(true)
  expect([isThere(tree), isThere(blob)]).toEqual([false, false])
  expect(fsck(space.gitDir)).toEqual({ stdout: '', stderr: '', status: 0 })
  spaces.close()
})

describe('a large document that pruning is about to take', () => {
  const content = randomBytes(5000)
  const given = { type: 'a/b', length: content.length, client: 'x' }
  const isWhole = async ({ storage }: ReturnType<typeof server>, owner: typeof user) => {
    const body = await (await storage.document(owner, ['l'])).open()
    return Buffer.concat(Buffer.isBuffer(body) ? [body] : await body.toArray()).equals(content)
  }

  test('stays when a commit refers to it again at the last moment', async () => {
    const owner = { ...user, id: 3 }
    const one = server()
    const { storage, spaces, large } = one
    const space = spaces.of(owner.id)
    await storage.put(owner, ['l'], Readable.from([content]), given)
    const { commit } = await space.snapshot()
    await storage.delete(owner, ['l'], { client: 'x' })
    const list = large.list.bind(large)
    const other: Promise<void>[] = []
    large.list = async function* (id) {
      // Pruning has seen that nobody refers to it, and now has to wait for this one.
      await new Promise<void>((held) => {
        other.push(
          moveMain(space.gitDir, async () => {
            held()
            await new Promise((resolve) => setTimeout(resolve, 500))
            return commit
          }),
        )
      })
      yield* list(id)
    }
    const options = { space, user: owner, large, before: Date.now() + 1000, write: true, now: Date.now }
    const { kept, large: removed } = await prune(options)
    await Promise.all(other)
    expect([other.length, kept, removed]).toEqual([1, 1, 0])
    expect(await isWhole(one, owner)).toBe(true)
    spaces.close()
  })

  test('stays when pruning was held up until its lock was taken for that of the dead', async () => {
    const owner = { ...user, id: 5 }
    const one = server()
    const { storage, spaces, large } = one
    const space = spaces.of(owner.id)
    await storage.put(owner, ['l'], Readable.from([content]), given)
    const { commit } = await space.snapshot()
    await storage.delete(owner, ['l'], { client: 'x' })
    const lock = join(space.gitDir, 'refs/heads/main.lock')
    const resolve = space.reader.resolve.bind(space.reader)
    let listed = false
    let stolen = 0
    const list = large.list.bind(large)
    large.list = (id) => {
      listed = true
      return list(id)
    }
    space.reader.resolve = async (name) => {
      const head = await resolve(name)
      if (listed && stolen === 0 && existsSync(lock)) {
        stolen++
        rmSync(lock)
        await moveMain(space.gitDir, async () => commit)
      }
      return head
    }
    await prune({ space, user: owner, large, before: Date.now() + 1000, write: true, now: Date.now })
    expect(stolen).toBe(1)
    expect(await isWhole(one, owner)).toBe(true)
    spaces.close()
  })

  test('is stored again when it went just before a commit referred to it', async () => {
    const owner = { ...user, id: 4 }
    const one = server()
    const { storage, spaces, large } = one
    const space = spaces.of(owner.id)
    const change = space.change.bind(space)
    let taken = 0
    space.change = async (...args) => {
      for await (const { oid } of large.list(owner.id)) {
        await large.remove(owner.id, oid)
        taken++
      }
      return change(...args)
    }
    await storage.put(owner, ['l'], Readable.from([content]), given)
    expect(taken).toBe(1)
    expect(await isWhole(one, owner)).toBe(true)
    spaces.close()
  })
})

test('nobody moves main while it is held, and writers who wait go on after that', async () => {
  const { storage, spaces } = server()
  const put = () =>
    storage.put(user, ['held'], Readable.from([Buffer.from('x')]), { type: 'a/b', length: 1, client: 'x' })
  await put()
  let written = false
  const { gitDir } = spaces.of(user.id)
  const [during] = await Promise.all([
    whileMainStands(gitDir, async () => {
      const writing = put().then(() => {
        written = true
      })
      await new Promise((resolve) => setTimeout(resolve, 300))
      return { written, writing }
    }),
  ])
  expect(during.written).toBe(false)
  await during.writing
  expect(written).toBe(true)
  spaces.close()
})

test('a holder at work never looks like one that was killed, however long it takes', async () => {
  const { storage, spaces } = server()
  await storage.put(user, ['long'], Readable.from([Buffer.from('x')]), {
    type: 'a/b',
    length: 1,
    client: 'x',
  })
  const { gitDir } = spaces.of(user.id)
  const lock = join(gitDir, 'refs/heads/main.lock')
  await whileMainStands(gitDir, async () => {
    utimesSync(lock, 0, 0)
    await vi.waitUntil(() => Date.now() - statSync(lock).mtimeMs < 10_000, { timeout: 10_000, interval: 50 })
  })
  expect(existsSync(lock)).toBe(false)
  spaces.close()
})
