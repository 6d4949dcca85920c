import { execFileSync } from 'node:child_process'
import { createHash, randomBytes } from 'node:crypto'
import {
  chmod,
  link,
  mkdir,
  mkdtemp,
  readdir,
  readFile,
  rm,
  stat,
  symlink,
  truncate,
  utimes,
  writeFile,
} from 'node:fs/promises'
import { IncomingMessage } from 'node:http'
import { Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { Readable } from 'node:stream'
import { buffer } from 'node:stream/consumers'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { createFileStore, type FileStore, STALE_AFTER_MS } from '../../src/storage/file-store.ts'
import { objectStoreConformance } from '../conformance/object-store.ts'

const list = (folder: string): Promise<string[]> => readdir(folder).catch(() => [])
const filesBelow = async (folder: string): Promise<string[]> =>
  (await readdir(folder, { recursive: true, withFileTypes: true }).catch(() => []))
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath, entry.name))
const leftovers = async (root: string): Promise<string[]> => [
  ...(await list(join(root, '.timone', 'tmp'))),
  ...(await list(join(root, '.timone', 'uploads'))),
]
/** Descriptors of files below `root` that this process holds. */
const openBelow = async (root: string): Promise<string[]> => {
  const { readlink } = await import('node:fs/promises')
  const names = await readdir('/proc/self/fd')
  const targets = await Promise.all(names.map((fd) => readlink(`/proc/self/fd/${fd}`).catch(() => '')))
  return targets.filter((target) => target.startsWith(root))
}

objectStoreConformance('file', async () => {
  const root = await mkdtemp(join(tmpdir(), 'timone-files-'))
  const known = new Set<string>()
  return {
    store: createFileStore(root),
    prefix: 'some/prefix/',
    hashesUploads: true,
    async plant(key, bytes) {
      await mkdir(dirname(join(root, key)), { recursive: true })
      await writeFile(join(root, key), bytes)
    },
    async leftovers() {
      // Uploads that a test left open on purpose are reported once only.
      const all = await leftovers(root)
      const news = all.filter((name) => !known.has(name))
      for (const name of all) known.add(name)
      return news
    },
    close: async () => {
      expect(await openBelow(root)).toEqual([])
      await rm(root, { recursive: true })
    },
  }
})

describe('file store', () => {
  let root: string
  let store: FileStore
  beforeEach(async () => {
    root = await mkdtemp(join(tmpdir(), 'timone-files-'))
    store = createFileStore(root)
  })
  afterEach(async () => {
    expect(await openBelow(root), 'no descriptor is left open').toEqual([])
    await rm(root, { recursive: true, force: true })
  })

  const make = (size: number) => {
    const bytes = randomBytes(size)
    const oid = createHash('sha256').update(bytes).digest('hex')
    return { bytes, oid, size, key: `org/repo/${oid.slice(0, 2)}/${oid.slice(2, 4)}/${oid}` }
  }
  const put = (object: ReturnType<typeof make>, at = store) =>
    at.put(object.key, Readable.from([object.bytes]), { size: object.size, sha256: object.oid })

  test('keeps the layout that timone always had', async () => {
    const object = make(1_000)
    await put(object)
    const { oid } = object
    const path = join(root, 'org', 'repo', oid.slice(0, 2), oid.slice(2, 4), oid)
    expect((await readFile(path)).equals(object.bytes)).toBe(true)
    expect((await filesBelow(root)).length).toBe(1)
  })

  test.each([
    '../escape',
    'org/../../escape',
    'org/./x',
    '/etc/passwd',
    'org//x',
    '.timone/tmp/x',
    'org\\..\\x',
    'org/x\0y',
    '',
    'org/',
  ])('refuses the key %j before it touches the disk', async (key) => {
    await expect(store.head(key)).rejects.toThrow(TypeError)
    await expect(store.get(key)).rejects.toThrow(TypeError)
    await expect(store.put(key, Readable.from([]), { size: 0, sha256: '' })).rejects.toThrow(TypeError)
    await expect(store.createUpload(key, { size: 1, partSize: 1 })).rejects.toThrow(TypeError)
    expect(await list(root)).toEqual([])
  })

  test.each([
    '../../org',
    '..',
    '',
    'A'.repeat(32),
    'a'.repeat(31),
    'a'.repeat(33),
    `${'a'.repeat(32)}/..`,
    `${'a'.repeat(32)}\n`,
  ])('takes %j for the id of no upload', async (id) => {
    const object = make(10)
    // Where the id would lead if it were believed.
    await mkdir(join(root, '.timone', 'uploads'), { recursive: true })
    await mkdir(join(root, 'org', 'parts'), { recursive: true })
    await writeFile(
      join(root, 'org', 'meta.json'),
      JSON.stringify({ key: object.key, size: 10, partSize: 10 }),
    )
    await writeFile(join(root, 'org', 'data'), '')
    const expected = { name: 'TimoneError', code: 'no_such_upload' }
    await expect(store.listParts(object.key, id)).rejects.toMatchObject(expected)
    await expect(
      store.putPart(object.key, id, 1, Readable.from([object.bytes]), { size: 10 }),
    ).rejects.toMatchObject(expected)
    await expect(
      store.completeUpload(object.key, id, { size: 10, sha256: object.oid }),
    ).rejects.toMatchObject(expected)
    await store.abortUpload(object.key, id)
    expect(await list(join(root, 'org'))).toEqual(['data', 'meta.json', 'parts'])
  })

  test('an upload belongs to the key that it was started for', async () => {
    const [mine, theirs] = [make(10), make(10)]
    const id = await store.createUpload(mine.key, { size: 10, partSize: 10 })
    await expect(store.listParts(theirs.key, id)).rejects.toMatchObject({ code: 'no_such_upload' })
    await store.abortUpload(theirs.key, id)
    expect(await store.listParts(mine.key, id)).toEqual([])
  })

  test.each([0, -1, 4, 1.5, Number.NaN])('part number %d of 3 is invalid', async (number) => {
    const id = await store.createUpload('org/repo/x', { size: 25, partSize: 10 })
    const sending = store.putPart('org/repo/x', id, number, Readable.from([]), { size: 10 })
    await expect(sending).rejects.toMatchObject({ name: 'TimoneError', code: 'invalid' })
  })

  test('a part of another size than planned is refused before it is read', async () => {
    const id = await store.createUpload('org/repo/x', { size: 25, partSize: 10 })
    const body = new Readable({ read: () => expect.unreachable('the body is not read') })
    await expect(store.putPart('org/repo/x', id, 3, body, { size: 10 })).rejects.toMatchObject({
      code: 'size_mismatch',
    })
  })

  test('more than 10 000 parts are refused', async () => {
    const starting = store.createUpload('org/repo/x', { size: 10_001, partSize: 1 })
    await expect(starting).rejects.toMatchObject({ name: 'TimoneError', code: 'invalid' })
    expect(await leftovers(root)).toEqual([])
  })

  test('an empty object by an upload of one empty part', async () => {
    const empty = make(0)
    const id = await store.createUpload(empty.key, { size: 0, partSize: 10 })
    await expect(store.completeUpload(empty.key, id, { size: 0, sha256: empty.oid })).rejects.toMatchObject({
      code: 'size_mismatch',
    })
    await store.putPart(empty.key, id, 1, Readable.from([]), { size: 0 })
    expect(await store.completeUpload(empty.key, id, { size: 0, sha256: empty.oid })).toBe('created')
    expect((await store.head(empty.key))?.size).toBe(0)
  })

  test('completing with another size than the upload was started for is size_mismatch', async () => {
    const object = make(20)
    const id = await store.createUpload(object.key, { size: 20, partSize: 20 })
    await store.putPart(object.key, id, 1, Readable.from([object.bytes]), { size: 20 })
    await expect(
      store.completeUpload(object.key, id, { size: 19, sha256: object.oid }),
    ).rejects.toMatchObject({
      code: 'size_mismatch',
    })
  })

  test('parts survive a restart', async () => {
    const object = make(25)
    const id = await store.createUpload(object.key, { size: 25, partSize: 10 })
    await store.putPart(object.key, id, 3, Readable.from([object.bytes.subarray(20)]), { size: 5 })
    await store.putPart(object.key, id, 1, Readable.from([object.bytes.subarray(0, 10)]), { size: 10 })
    const restarted = createFileStore(root)
    expect((await restarted.listParts(object.key, id)).map((part) => part.number)).toEqual([1, 3])
    await restarted.putPart(object.key, id, 2, Readable.from([object.bytes.subarray(10, 20)]), { size: 10 })
    expect(await restarted.completeUpload(object.key, id, { size: 25, sha256: object.oid })).toBe('created')
    expect((await readFile(join(root, object.key))).equals(object.bytes)).toBe(true)
  })

  test('a crash between placing the object and dropping the upload: nothing writes into the object any more', async () => {
    const object = make(20)
    const id = await store.createUpload(object.key, { size: 20, partSize: 20 })
    await store.putPart(object.key, id, 1, Readable.from([object.bytes]), { size: 20 })
    await mkdir(dirname(join(root, object.key)), { recursive: true })
    await link(join(root, '.timone', 'uploads', id, 'data'), join(root, object.key))
    const sending = store.putPart(object.key, id, 1, Readable.from([randomBytes(20)]), { size: 20 })
    await expect(sending).rejects.toMatchObject({ code: 'no_such_upload' })
    expect((await readFile(join(root, object.key))).equals(object.bytes)).toBe(true)
    expect(await store.completeUpload(object.key, id, { size: 20, sha256: object.oid })).toBe('exists')
    expect(await leftovers(root)).toEqual([])
  })

  test('a part that waits takes over from a writer that has fallen silent', async () => {
    store = createFileStore(root, { partStallMs: 30 })
    const object = make(20)
    const id = await store.createUpload(object.key, { size: 20, partSize: 20 })
    const dead = new Readable({ read() {} })
    dead.push(randomBytes(7))
    const first = store.putPart(object.key, id, 1, dead, { size: 20 })
    const lost = expect(first).rejects.toMatchObject({ name: 'TimoneError', code: 'conflict' })
    // It has the part once it reads.
    await expect.poll(() => dead.readableLength).toBe(0)
    await store.putPart(object.key, id, 1, Readable.from([object.bytes]), { size: 20 })
    await lost
    // What the dead connection still delivers goes nowhere.
    dead.push(randomBytes(13))
    dead.push(null)
    expect(await store.completeUpload(object.key, id, { size: 20, sha256: object.oid })).toBe('created')
  })

  test('a writer that is still sending when the upload is completed cannot reach the object', async () => {
    const object = make(20)
    const id = await store.createUpload(object.key, { size: 20, partSize: 10 })
    await store.putPart(object.key, id, 1, Readable.from([object.bytes.subarray(0, 10)]), { size: 10 })
    await store.putPart(object.key, id, 2, Readable.from([object.bytes.subarray(10)]), { size: 10 })
    const late = new Readable({ read() {} })
    const rewriting = store.putPart(object.key, id, 2, late, { size: 10 })
    const stopped = expect(rewriting).rejects.toMatchObject({ code: 'no_such_upload' })
    const parts = join(root, '.timone', 'uploads', id, 'parts')
    // The part does not count while it is written anew.
    await expect.poll(() => list(parts)).toEqual(['1'])
    late.push(randomBytes(5))
    await expect(
      store.completeUpload(object.key, id, { size: 20, sha256: object.oid }),
    ).rejects.toMatchObject({
      code: 'size_mismatch',
    })
    await store.abortUpload(object.key, id)
    await stopped
    expect(await leftovers(root)).toEqual([])
  })

  test('an object that gets shorter while it is read is an error, never a short body', async () => {
    const object = make(3_000_000)
    await put(object)
    const { body } = await store.get(object.key)
    await truncate(join(root, object.key), 1_000_000)
    await expect(buffer(body)).rejects.toMatchObject({ name: 'TimoneError', code: 'size_mismatch' })
  })

  test('the entity tag changes when the file does, also at the same size', async () => {
    const object = make(1_000)
    await put(object)
    const before = await store.head(object.key)
    await store.put(object.key, Readable.from([object.bytes]), {
      size: 1_000,
      sha256: object.oid,
      replace: true,
    })
    expect(await store.head(object.key)).toMatchObject({
      size: 1_000,
      etag: expect.not.stringMatching(before?.etag ?? ''),
    })
  })

  test('a folder in the place of an object is no object', async () => {
    const object = make(10)
    await mkdir(join(root, object.key), { recursive: true })
    expect(await store.head(object.key)).toBeUndefined()
    await expect(store.get(object.key)).rejects.toMatchObject({ code: 'not_found' })
  })

  test('a file in the place of a folder is told apart from a missing object', async () => {
    const object = make(10)
    await writeFile(join(root, 'org'), 'in the way')
    expect(await store.head(object.key)).toBeUndefined()
    await expect(put(object)).rejects.toMatchObject({ name: 'TimoneError', code: 'config' })
    expect(await leftovers(root)).toEqual([])
  })

  test('goes on when someone removes its folders while it runs', async () => {
    const object = make(10)
    await put(object)
    await rm(join(root, 'org'), { recursive: true })
    expect(await put(object)).toBe('created')
  })

  test('the folders that it makes for itself are for its owner only; those that are there stay as they are', async () => {
    const modeOf = async (path: string) => (await stat(path)).mode & 0o777
    const object = make(10)
    const made = join(root, 'data', 'objects')
    await put(object, createFileStore(made))
    expect([await modeOf(dirname(made)), await modeOf(made)]).toEqual([0o700, 0o700])
    const given = join(root, 'given')
    await mkdir(given)
    await chmod(given, 0o755)
    await put(object, createFileStore(given))
    expect(await modeOf(given)).toBe(0o755)
  })

  test('gives the memory of a request’s chunks back at once, and leaves that of others alone', async () => {
    const object = make(3 * 2 ** 16)
    const chunks = [0, 1, 2].map((at) => Buffer.alloc(2 ** 16, object.bytes.subarray(at * 2 ** 16)))
    await put(object)
    const body = Object.assign(new IncomingMessage(new Socket()), { _read() {} })
    // The first shares its memory with others.
    const pool = Buffer.alloc(2 ** 17)
    const shared = pool.subarray(0, 2 ** 16)
    ;(chunks[0] as Buffer).copy(shared)
    for (const chunk of [shared, chunks[1], chunks[2], null]) body.push(chunk)
    await rm(join(root, object.key))
    await store.put(object.key, body, { size: object.size, sha256: object.oid })
    expect([shared, ...chunks].map(({ length }) => length)).toEqual([2 ** 16, 2 ** 16, 0, 0])
    expect((await readFile(join(root, object.key))).equals(object.bytes)).toBe(true)
    expect(object.bytes.length).toBe(object.size)
  })

  test('a body of thousands of tiny chunks', async () => {
    const object = make(10_000)
    const body = new Readable({ read() {} })
    for (const byte of object.bytes) body.push(Buffer.from([byte]))
    body.push(null)
    await store.put(object.key, body, { size: object.size, sha256: object.oid })
    expect((await readFile(join(root, object.key))).equals(object.bytes)).toBe(true)
  })

  test('memory stays flat while a large object goes in and comes out', async () => {
    const size = 192 * 2 ** 20
    const chunk = randomBytes(2 ** 20)
    const hash = createHash('sha256')
    for (let i = 0; i < 192; i++) hash.update(chunk)
    const sha256 = hash.digest('hex')
    let most = 0
    const before = process.memoryUsage().arrayBuffers
    const body = Readable.from(
      (function* () {
        for (let i = 0; i < 192; i++) {
          most = Math.max(most, process.memoryUsage().arrayBuffers - before)
          // A copy, as the network would bring it: the same chunk again and again would hide a pile.
          yield Buffer.from(chunk)
        }
      })(),
      { objectMode: false },
    )
    const key = 'org/repo/large'
    await store.put(key, body, { size, sha256 })
    const found = createHash('sha256')
    for await (const piece of (await store.get(key)).body) {
      found.update(piece)
      most = Math.max(most, process.memoryUsage().arrayBuffers - before)
    }
    expect(found.digest('hex')).toBe(sha256)
    expect(most).toBeLessThan(96 * 2 ** 20)
  })

  describe('sweep', () => {
    test('takes what is older than a week, and nothing else', async () => {
      const now = Date.now()
      const [old, fresh] = [make(20), make(20)]
      const oldId = await store.createUpload(old.key, { size: 20, partSize: 20 })
      const freshId = await store.createUpload(fresh.key, { size: 20, partSize: 20 })
      await put(make(10))
      const temporary = join(root, '.timone', 'tmp')
      await writeFile(join(temporary, 'left-by-a-crash'), 'x')
      await writeFile(join(temporary, 'in-use'), 'x')
      const week = new Date(now - STALE_AFTER_MS - 60_000)
      const upload = join(root, '.timone', 'uploads', oldId)
      for (const path of [
        join(temporary, 'left-by-a-crash'),
        upload,
        join(upload, 'data'),
        join(upload, 'parts'),
      ]) {
        await utimes(path, week, week)
      }
      expect(await store.sweep()).toBe(2)
      expect(await list(temporary)).toEqual(['in-use'])
      expect(await list(join(root, '.timone', 'uploads'))).toEqual([freshId])
      await expect(store.listParts(old.key, oldId)).rejects.toMatchObject({ code: 'no_such_upload' })
    })

    test('an old upload that a part came for lately stays', async () => {
      const object = make(20)
      const id = await store.createUpload(object.key, { size: 20, partSize: 10 })
      const upload = join(root, '.timone', 'uploads', id)
      const week = new Date(Date.now() - STALE_AFTER_MS - 60_000)
      for (const path of [upload, join(upload, 'data'), join(upload, 'parts')]) await utimes(path, week, week)
      await store.putPart(object.key, id, 1, Readable.from([object.bytes.subarray(0, 10)]), { size: 10 })
      expect(await store.sweep()).toBe(0)
      expect((await store.listParts(object.key, id)).length).toBe(1)
    })

    test('an empty storage folder, or none at all, is no error', async () => {
      expect(await createFileStore(join(root, 'absent')).sweep()).toBe(0)
    })

    test('with another clock and age', async () => {
      const later = createFileStore(root, { now: () => Date.now() + 2_000 })
      await store.createUpload('org/repo/x', { size: 1, partSize: 1 })
      expect(await later.sweep(60_000)).toBe(0)
      expect(await later.sweep(1_000)).toBe(1)
    })
  })

  describe('a storage that does not work', () => {
    const mount = (...options: string[]) =>
      execFileSync('mount', ['-t', 'tmpfs', ...options, 'timone-test', root], { stdio: 'pipe' })
    const unmount = () => execFileSync('umount', [root], { stdio: 'pipe' })

    test('a full disk is disk_full, leaves nothing, and is forgotten when there is room again', async () => {
      mount('-o', 'size=4m')
      try {
        const small = make(100_000)
        const large = make(5_000_000)
        await expect(put(large)).rejects.toMatchObject({ name: 'TimoneError', code: 'disk_full' })
        expect(await leftovers(root)).toEqual([])
        expect(await put(small)).toBe('created')
        const id = await store.createUpload(large.key, { size: large.size, partSize: large.size })
        const sending = store.putPart(large.key, id, 1, Readable.from([large.bytes]), { size: large.size })
        await expect(sending).rejects.toMatchObject({ name: 'TimoneError', code: 'disk_full' })
        expect(await store.listParts(large.key, id)).toEqual([])
        await store.abortUpload(large.key, id)
        expect(await put(make(100_000))).toBe('created')
        expect(await openBelow(root)).toEqual([])
      } finally {
        unmount()
      }
    })

    test('a read-only disk is read_only, and what is there can be read', async () => {
      mount()
      try {
        const object = make(1_000)
        await put(object)
        execFileSync('mount', ['-o', 'remount,ro', root], { stdio: 'pipe' })
        await expect(put(make(10))).rejects.toMatchObject({ name: 'TimoneError', code: 'read_only' })
        await expect(store.createUpload('org/repo/x', { size: 1, partSize: 1 })).rejects.toMatchObject({
          code: 'read_only',
        })
        await expect(store.check()).rejects.toMatchObject({ name: 'TimoneError', code: 'read_only' })
        expect((await buffer((await store.get(object.key)).body)).equals(object.bytes)).toBe(true)
      } finally {
        unmount()
      }
    })

    test('check leaves nothing behind, makes the folder, and fails when the root is a file', async () => {
      const inside = createFileStore(join(root, 'not', 'yet', 'there'))
      await inside.check()
      expect(await filesBelow(root)).toEqual([])
      await writeFile(join(root, 'file'), '')
      await expect(createFileStore(join(root, 'file')).check()).rejects.toMatchObject({ code: 'config' })
    })

    test('messages name the object, never the path on the server', async () => {
      await writeFile(join(root, 'org'), 'in the way')
      const failure = await put(make(10)).catch((error: Error) => error)
      expect((failure as Error).message).not.toContain(root)
      expect((failure as Error).message).toContain('org/repo/')
    })
  })

  test('a root that is a symbolic link works', async () => {
    const real = join(root, 'real')
    await mkdir(real)
    await symlink(real, join(root, 'linked'))
    const object = make(10)
    expect(await put(object, createFileStore(join(root, 'linked')))).toBe('created')
    expect((await stat(join(real, object.key))).size).toBe(10)
  })
})
