import { type ChildProcess, execFileSync, spawn } from 'node:child_process'
import { createHash, randomBytes } from 'node:crypto'
import { once } from 'node:events'
import {
  chmodSync,
  chownSync,
  constants,
  copyFileSync,
  existsSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from 'node:fs'
import { hostname, tmpdir } from 'node:os'
import { dirname, join, resolve } from 'node:path'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { entryPath } from '../../src/agent/cache-folder.ts'
import { withPruneLock } from '../../src/agent/cache-prune.ts'
import { ObjectCache } from '../../src/agent/object-cache.ts'
import type { Logger } from '../../src/log.ts'
import { type Oid, parseOid } from '../../src/oid.ts'
import { withTmpfs } from '../helpers/tmpfs.ts'

const MIB = 2 ** 20
const DEAD_PID = 2 ** 22 + 1
const HOST = hostname().replace(/[^A-Za-z0-9-]/g, '_')
/** One that is hashed at once, and one that a thread hashes. */
const SIZES = [100_000, 3 * MIB + 7]

/** Where the file system can share blocks, files are neither linked nor copied. */
const SHARES_BLOCKS = canShareBlocks()

function canShareBlocks(): boolean {
  const there = mkdtempSync(join(tmpdir(), 'timone-clone-'))
  try {
    writeFileSync(join(there, 'one'), 'x')
    copyFileSync(join(there, 'one'), join(there, 'two'), constants.COPYFILE_FICLONE_FORCE)
    return true
  } catch {
    return false
  } finally {
    rmSync(there, { recursive: true })
  }
}

let base: string
let folder: string
let warnings: string[]
const caches: ObjectCache[] = []

beforeEach(() => {
  base = mkdtempSync(join(tmpdir(), 'timone-cache-'))
  folder = join(base, 'cache')
  mkdirSync(join(base, 'out'))
  warnings = []
})
afterEach(async () => {
  for (const cache of caches.splice(0)) await cache.close()
  rmSync(base, { recursive: true, force: true })
})

const log: Logger = {
  debug() {},
  info() {},
  warn: (_fields, message) => void warnings.push(message),
  error: (_fields, message) => void warnings.push(message),
}

function open(options: { folder?: string; bound?: number } = {}): ObjectCache {
  const cache = new ObjectCache({ folder: options.folder ?? folder, bound: options.bound ?? 0, log })
  caches.push(cache)
  return cache
}

interface Made {
  oid: Oid
  size: number
  path: string
  content: Buffer
}

/** A file with an object's content, as a download leaves it. */
function make(size: number, where = base): Made {
  const content = randomBytes(size)
  const oid = parseOid(createHash('sha256').update(content).digest('hex'))
  const path = join(where, `${oid}.part`)
  writeFileSync(path, content, { mode: 0o644 })
  return { oid, size, path, content }
}

let targets = 0
const newTarget = (): string => join(base, 'out', String(targets++))

/** What the cache gives; undefined where it gives nothing, and then nothing may be left at the target. */
async function taken(cache: ObjectCache, { oid, size }: Made, mode?: number): Promise<Buffer | undefined> {
  const target = newTarget()
  const hit = await cache.take(oid, size, target, new AbortController().signal, mode)
  if (!hit) {
    expect(existsSync(target)).toBe(false)
    return undefined
  }
  return readFileSync(target)
}

const entryOf = ({ oid }: Made): string => entryPath(folder, oid)
const temporaries = (): string[] => (existsSync(join(folder, 'tmp')) ? readdirSync(join(folder, 'tmp')) : [])

/** Bytes of all entries. */
function cachedBytes(): number {
  return readdirSync(join(folder, 'objects'), { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .reduce((sum, entry) => sum + statSync(join(entry.parentPath, entry.name)).size, 0)
}

/** Puts what is in the way aside, so that the next write makes a file of its own. */
function replaceEntry(made: Made, make: (path: string) => void): void {
  rmSync(entryOf(made), { recursive: true, force: true })
  mkdirSync(dirname(entryOf(made)), { recursive: true })
  make(entryOf(made))
}

describe.each(SIZES)('an object of %d bytes', (size) => {
  test('is taken as it was put, by link where that can be', async () => {
    const made = make(size)
    const cache = open()
    expect(await taken(cache, made)).toBeUndefined()
    expect(await cache.put(made.oid, size, made.path)).toBe(true)
    expect((await taken(cache, made))?.equals(made.content)).toBe(true)
    expect((await taken(open(), made))?.equals(made.content)).toBe(true)
    // Nobody may write into what is shared.
    expect(lstatSync(entryOf(made)).mode & 0o222).toBe(0)
    expect(warnings).toEqual([])
  })

  test('is copied where its file could be changed by others, or is to have a mode of its own', async () => {
    const made = make(size)
    chmodSync(made.path, 0o664)
    const cache = open()
    expect(await cache.put(made.oid, size, made.path)).toBe(true)
    expect(statSync(made.path)).toMatchObject({ nlink: 1 })
    expect(statSync(made.path).mode & 0o777).toBe(0o664)
    const target = newTarget()
    expect(await cache.take(made.oid, size, target, new AbortController().signal, 0o660)).toBe(true)
    expect(statSync(target).mode & 0o777).toBe(0o660)
    expect(statSync(target).nlink).toBe(1)
    expect(readFileSync(target).equals(made.content)).toBe(true)
    expect(temporaries()).toEqual([])
  })

  test('of another owner is copied, never linked', async () => {
    const made = make(size)
    await open().put(made.oid, size, made.path)
    const target = newTarget()
    chownSync(entryOf(made), 12_345, 12_345)
    expect(await open().take(made.oid, size, target, new AbortController().signal)).toBe(true)
    expect(statSync(target)).toMatchObject({ nlink: 1, uid: process.geteuid?.() })
    expect(readFileSync(target).equals(made.content)).toBe(true)
  })

  test.each<[string, (path: string, content: Buffer) => void]>([
    [
      'with a flipped bit',
      (path, content) => {
        const other = Buffer.from(content)
        other[size - 1] = (other[size - 1] as number) ^ 1
        writeFileSync(path, other, { mode: 0o444 })
      },
    ],
    ['with other content, writable', (path) => writeFileSync(path, randomBytes(size))],
    ['cut short', (path, content) => writeFileSync(path, content.subarray(0, size - 1))],
    ['too long', (path, content) => writeFileSync(path, Buffer.concat([content, content]))],
    ['empty', (path) => writeFileSync(path, '')],
    ['as a link to /etc/passwd', (path) => symlinkSync('/etc/passwd', path)],
    ['as a link to nowhere', (path) => symlinkSync('/nowhere/at/all', path)],
    ['as a pipe', (path) => void execFileSync('mkfifo', [path])],
    [
      'as a folder with something in it',
      (path) => {
        mkdirSync(join(path, 'deep'), { recursive: true })
        symlinkSync('/etc', join(path, 'deep', 'link'))
      },
    ],
  ])('%s: is dropped with one line in the log, and filled again', async (_what, spoil) => {
    const made = make(size)
    const cache = open()
    await cache.put(made.oid, size, made.path)
    replaceEntry(made, (path) => spoil(path, made.content))
    expect(await taken(cache, made)).toBeUndefined()
    expect(lstatSync(entryOf(made), { throwIfNoEntry: false })).toBeUndefined()
    expect(warnings).toEqual([expect.stringContaining(made.oid)])
    expect(await taken(cache, made)).toBeUndefined()
    expect(await cache.put(made.oid, size, make2(made))).toBe(true)
    expect((await taken(cache, made))?.equals(made.content)).toBe(true)
    expect(warnings).toHaveLength(1)
    expect(readFileSync('/etc/passwd').length).toBeGreaterThan(0)
  })

  test('that a clone changes through its link is noticed at the next use', async () => {
    const made = make(size)
    const cache = open()
    await cache.put(made.oid, size, made.path)
    const clone = newTarget()
    await cache.take(made.oid, size, clone, new AbortController().signal)
    const sharing = !SHARES_BLOCKS
    expect(statSync(clone).ino === statSync(entryOf(made)).ino).toBe(sharing)
    // Where blocks are shared instead, the change does not reach the cache.
    chmodSync(clone, 0o644)
    writeFileSync(clone, 'x', { flag: 'r+' })
    const found = await taken(open(), made)
    if (sharing) {
      expect(found).toBeUndefined()
      expect(warnings).toEqual([expect.stringContaining('SHA-256')])
      expect(await cache.put(made.oid, size, make2(made))).toBe(true)
    }
    expect((await taken(open(), made))?.equals(made.content)).toBe(true)
  })

  test('that somebody makes writable again is copied from then on', async () => {
    const made = make(size)
    await open().put(made.oid, size, made.path)
    chmodSync(entryOf(made), 0o644)
    const target = newTarget()
    expect(await open().take(made.oid, size, target, new AbortController().signal)).toBe(true)
    expect(statSync(target).ino).not.toBe(statSync(entryOf(made)).ino)
  })

  test('is not taken once it is cancelled', async () => {
    const made = make(size)
    const cache = open()
    await cache.put(made.oid, size, made.path)
    const target = newTarget()
    await expect(cache.take(made.oid, size, target, AbortSignal.abort())).rejects.toMatchObject({
      code: 'cancelled',
    })
    const stop = new AbortController()
    const taking = cache.take(made.oid, size, target, stop.signal)
    stop.abort()
    await taking.then(
      (hit) => expect(hit && readFileSync(target).equals(made.content)).toBe(true),
      (error) => {
        expect(error).toMatchObject({ code: 'cancelled' })
        expect(existsSync(target)).toBe(false)
      },
    )
    expect(existsSync(entryOf(made))).toBe(true)
  })

  test('put by several at the same moment: all succeed', async () => {
    const made = make(size)
    const others = [make2(made), make2(made), make2(made)]
    chmodSync(others[0] as string, 0o664)
    const put = await Promise.all([made.path, ...others].map((path) => open().put(made.oid, size, path)))
    expect(put).toEqual([true, true, true, true])
    expect((await taken(open(), made))?.equals(made.content)).toBe(true)
    expect(temporaries()).toEqual([])
    expect(warnings).toEqual([])
  })
})

/** Another file with the same content. */
function make2({ content, oid }: Made): string {
  const path = join(base, `${oid}.${targets++}`)
  writeFileSync(path, content, { mode: 0o644 })
  return path
}

test('an empty object', async () => {
  const made = make(0)
  const cache = open()
  expect(await cache.put(made.oid, 0, made.path)).toBe(true)
  expect(await taken(cache, made)).toEqual(Buffer.alloc(0))
})

test('a wrong file is not copied into the cache, and never comes out of it', async () => {
  const [made, other] = [make(1000), make(1000)]
  chmodSync(other.path, 0o666)
  const cache = open()
  expect(await cache.put(made.oid, 999, made.path)).toBe(false)
  expect(existsSync(entryOf(made))).toBe(false)
  expect(await cache.put(made.oid, 1000, other.path)).toBe(SHARES_BLOCKS)
  expect(await taken(cache, made)).toBeUndefined()
  expect(existsSync(entryOf(made))).toBe(false)
  expect(temporaries()).toEqual([])
})

test('a copy that is too large to wait for is left out', async () => {
  const made = make(1000)
  chmodSync(made.path, 0o666)
  expect(await open().put(made.oid, 1000, made.path, { copyUpTo: 999 })).toBe(SHARES_BLOCKS)
  expect(await open().put(made.oid, 1000, made.path, { copyUpTo: 1000 })).toBe(true)
})

describe('whoever else may write in the cache', () => {
  test.each(['objects', 'aa', 'bb'])('cannot lead us elsewhere with a link in place of %s', async (level) => {
    const made = make(1000)
    const { oid } = made
    const elsewhere = join(base, 'elsewhere')
    // Exactly where a write or a removal through the link would land.
    const below = { objects: [oid.slice(0, 2), oid.slice(2, 4)], aa: [oid.slice(2, 4)], bb: [] }[
      level
    ] as string[]
    mkdirSync(join(elsewhere, ...below), { recursive: true })
    const above = ['objects', oid.slice(0, 2), oid.slice(2, 4)].slice(0, 3 - below.length)
    mkdirSync(join(folder, ...above.slice(0, -1)), { recursive: true })
    symlinkSync(elsewhere, join(folder, ...above))
    const cache = open()
    expect(await cache.put(oid, 1000, made.path)).toBe(false)
    expect(
      readdirSync(elsewhere, { recursive: true, withFileTypes: true }).filter((e) => !e.isDirectory()),
    ).toEqual([])
    expect(warnings).toEqual([expect.stringContaining('no folder')])

    // Nor remove what is there: here, something damaged under the object's name.
    const victim = join(elsewhere, ...below, oid)
    writeFileSync(victim, 'precious')
    expect(await taken(cache, made)).toBeUndefined()
    await cache.close()
    expect(readFileSync(victim, 'utf8')).toBe('precious')
  })

  test('nor with a link in place of tmp, the tally or the lock', async () => {
    const elsewhere = join(base, 'elsewhere')
    mkdirSync(elsewhere)
    writeFileSync(join(elsewhere, 'victim'), 'precious')
    mkdirSync(folder)
    symlinkSync(elsewhere, join(folder, 'tmp'))
    symlinkSync(join(elsewhere, 'victim'), join(folder, 'usage'))
    symlinkSync(join(elsewhere, 'lock'), join(folder, 'prune.lock'))
    const cache = open({ bound: 10_000 })
    const made = make(1000)
    chmodSync(made.path, 0o666)
    expect(await cache.put(made.oid, 1000, made.path)).toBe(false)
    const linked = make(1000)
    await cache.put(linked.oid, 1000, linked.path)
    await cache.close()
    expect(readdirSync(elsewhere)).toEqual(['victim'])
    expect(readFileSync(join(elsewhere, 'victim'), 'utf8')).toBe('precious')
    expect(statSync(join(elsewhere, 'victim')).mode & 0o200).toBe(0o200)
  })
})

describe('the bound', () => {
  /** Entries that were used in this order, an hour apart. */
  async function filled(count: number, size = 10_000): Promise<Made[]> {
    const cache = open()
    const all: Made[] = []
    for (let number = 0; number < count; number++) {
      const made = make(size)
      await cache.put(made.oid, size, made.path)
      const time = Date.now() / 1000 - (count - number) * 3600
      utimesSync(entryOf(made), time, time)
      all.push(made)
    }
    return all
  }

  test('is kept, and what was used last stays', async () => {
    const all = await filled(20)
    const cache = open({ bound: 100_000 })
    // The oldest, but used now.
    expect(await taken(cache, all[0] as Made)).toBeDefined()
    const newest = make(10_000)
    await cache.put(newest.oid, 10_000, newest.path)
    await cache.close()
    // To 90 % of the bound.
    expect(cachedBytes()).toBe(90_000)
    const left = [...all, newest].filter((made) => existsSync(entryOf(made)))
    expect(left).toEqual([all[0], ...all.slice(13), newest])
    expect(existsSync(join(folder, 'prune.lock'))).toBe(false)
    // Folders do not pile up.
    const folders = readdirSync(join(folder, 'objects')).flatMap((name) =>
      readdirSync(join(folder, 'objects', name)),
    )
    expect(folders).toHaveLength(9)
    expect(warnings).toEqual([])
  })

  test('is kept while one process fills and fills', async () => {
    const cache = open({ bound: 200_000 })
    for (let number = 0; number < 100; number++) {
      const made = make(10_000)
      await cache.put(made.oid, 10_000, made.path)
    }
    await cache.close()
    expect(cachedBytes()).toBeLessThanOrEqual(200_000)
    expect(cachedBytes()).toBeGreaterThan(100_000)
  })

  test('is kept by many processes that each add little', async () => {
    for (let number = 0; number < 30; number++) {
      const cache = open({ bound: 100_000 })
      const made = make(9_000)
      await cache.put(made.oid, 9_000, made.path)
      await cache.close()
    }
    expect(cachedBytes()).toBeLessThanOrEqual(100_000)
    expect(cachedBytes()).toBeGreaterThan(50_000)
  })

  test('leaves out an object that is larger', async () => {
    const made = make(10_001)
    expect(await open({ bound: 10_000 }).put(made.oid, 10_001, made.path)).toBe(false)
    expect(existsSync(folder)).toBe(false)
  })

  test.each([
    ['nonsense', 'hello\n'],
    ['negative numbers', `total -5 ${Date.now()}\n-100000\n`],
    ['too little, of the day before yesterday', `total 0 ${Date.now() - 48 * 3600_000}\n`],
    ['a tally without end', '1\n'.repeat(100_000)],
  ])('is kept where the tally holds %s', async (_what, text) => {
    await filled(20)
    writeFileSync(join(folder, 'usage'), text)
    const cache = open({ bound: 100_000 })
    const made = make(10_000)
    await cache.put(made.oid, 10_000, made.path)
    await cache.close()
    expect(cachedBytes()).toBe(90_000)
    expect(readFileSync(join(folder, 'usage'), 'utf8')).toMatch(/^total 90000 \d+\n/)
  })

  test('one process at a time: another one’s lock is waited for, a dead one’s is not', async () => {
    mkdirSync(folder)
    const lock = join(folder, 'prune.lock')
    const work = async (): Promise<string> => 'done'
    expect(await withPruneLock(folder, () => withPruneLock(folder, work))).toBeUndefined()
    expect(await withPruneLock(folder, work)).toBe('done')
    writeFileSync(lock, 'another-machine 1\n')
    expect(await withPruneLock(folder, work)).toBeUndefined()
    const old = Date.now() / 1000 - 3600
    utimesSync(lock, old, old)
    expect(await withPruneLock(folder, work)).toBe('done')
    writeFileSync(lock, `${HOST} ${DEAD_PID}\n`)
    expect(await withPruneLock(folder, work)).toBe('done')
    expect(existsSync(lock)).toBe(false)
  })
})

describe('what dead processes leave', () => {
  test('is swept; what may be another’s is not', async () => {
    mkdirSync(join(folder, 'tmp'), { recursive: true })
    const names = {
      dead: `x.${HOST}.${DEAD_PID}.0`,
      alive: `x.${HOST}.${process.pid}.999`,
      elsewhere: `x.another-machine.${DEAD_PID}.0`,
    }
    for (const name of Object.values(names)) writeFileSync(join(folder, 'tmp', name), 'x')
    const made = make(1000)
    // Just now dead: in another container it may be alive.
    await open().put(made.oid, 1000, made.path)
    expect(temporaries()).toHaveLength(3)
    await withClockAhead(3600, async () => {
      const cache = open()
      await cache.put(made.oid, 1000, made.path)
      await cache.close()
    })
    expect(temporaries().sort()).toEqual([names.alive, names.elsewhere].sort())
  })
})

/** The times of a file's change cannot be set: instead, it becomes later. */
async function withClockAhead(seconds: number, work: () => Promise<void>): Promise<void> {
  const { now } = Date
  Date.now = () => now() + seconds * 1000
  try {
    await work()
  } finally {
    Date.now = now
  }
}

describe('disks', () => {
  test('full while it is filled: no error, one warning, no rubbish', async () => {
    await withTmpfs('2m', async (disk) => {
      const cache = open({ folder: disk })
      const small = make(500_000)
      expect(await cache.put(small.oid, small.size, small.path)).toBe(true)
      // Told before the first byte.
      const large = make(3 * MIB)
      expect(await cache.put(large.oid, large.size, large.path)).toBe(false)
      expect(warnings).toEqual([])
      // Two that fit one by one, at the same time.
      const both = [make(1_200_000), make(1_200_000)]
      const put = await Promise.all(both.map(({ oid, size, path }) => cache.put(oid, size, path)))
      expect(put.filter((done) => done).length).toBeLessThan(2)
      expect(readdirSync(join(disk, 'tmp'))).toEqual([])
      expect(warnings.length).toBeLessThanOrEqual(1)
      const target = newTarget()
      expect(await cache.take(small.oid, small.size, target, new AbortController().signal)).toBe(true)
      expect(readFileSync(target).equals(small.content)).toBe(true)
    })
  })

  test('full where the object goes to: a miss, and nothing is left there', async () => {
    const made = make(2 * MIB)
    const cache = open()
    await cache.put(made.oid, made.size, made.path)
    await withTmpfs('1m', async (disk) => {
      const target = join(disk, 'object')
      expect(await cache.take(made.oid, made.size, target, new AbortController().signal)).toBe(false)
      expect(readdirSync(disk)).toEqual([])
    })
    expect(existsSync(entryOf(made))).toBe(true)
  })

  test('for reading only: what is there is used, with one warning for all that is not', async () => {
    await withTmpfs('8m', async (disk, remount) => {
      const made = make(100_000)
      await open({ folder: disk }).put(made.oid, made.size, made.path)
      remount('ro')
      const cache = open({ folder: disk, bound: MIB })
      for (let number = 0; number < 3; number++) {
        const other = make(1000)
        expect(await cache.put(other.oid, 1000, other.path)).toBe(false)
      }
      expect(warnings).toEqual([expect.stringContaining('EROFS')])
      const target = newTarget()
      expect(await cache.take(made.oid, made.size, target, new AbortController().signal)).toBe(true)
      expect(readFileSync(target).equals(made.content)).toBe(true)
    })
  })

  test('a file in place of the cache: nothing fails', async () => {
    writeFileSync(folder, 'not a folder')
    const made = make(1000)
    const cache = open({ bound: MIB })
    expect(await taken(cache, made)).toBeUndefined()
    expect(await cache.put(made.oid, 1000, made.path)).toBe(false)
    await cache.close()
    expect(warnings).toHaveLength(1)
    expect(readFileSync(folder, 'utf8')).toBe('not a folder')
  })
})

describe('several processes at once', () => {
  /** Each puts and takes the same objects in another order, under a bound that holds a third of them. */
  const SCRIPT = `
    import { readdirSync, readFileSync, rmSync, copyFileSync, chmodSync } from 'node:fs'
    import { createHash } from 'node:crypto'
    import { ObjectCache } from ${JSON.stringify(resolve('src/agent/object-cache.ts'))}
    const [base, number] = process.argv.slice(1)
    const log = { debug() {}, info() {}, warn: (_fields, message) => console.log(message), error: (_fields, message) => console.log(message) }
    const cache = new ObjectCache({ folder: base + '/cache', bound: 400_000, log })
    const oids = readdirSync(base + '/objects')
    const { signal } = new AbortController()
    let hits = 0
    for (let turn = 0; turn < 120; turn++) {
      // Each fourth is the one before: of objects that only go round, the bound may keep none until they come again.
      const step = turn % 4 === 3 ? turn - 1 : turn
      const oid = oids[(step * (2 * Number(number) + 1)) % oids.length]
      const mine = base + '/out/' + number + '.' + turn
      if (await cache.take(oid, 20_000, mine, signal)) {
        hits++
        if (createHash('sha256').update(readFileSync(mine)).digest('hex') !== oid) console.log('bad bytes')
      } else {
        copyFileSync(base + '/objects/' + oid, mine)
        chmodSync(mine, turn % 2 === 0 ? 0o644 : 0o664)
        if (!(await cache.put(oid, 20_000, mine))) console.log('not put')
      }
      rmSync(mine)
    }
    await cache.close()
    console.log('hits ' + hits)
  `
  const start = (number: number): ChildProcess =>
    spawn(process.execPath, ['--input-type=module', '-e', SCRIPT, base, String(number)], {
      stdio: ['ignore', 'pipe', 'inherit'],
    })

  test('fill and prune: every object is whole, the bound holds, nothing is left behind', async () => {
    mkdirSync(join(base, 'objects'))
    for (let number = 0; number < 60; number++) {
      const made = make(20_000)
      renameSync(made.path, join(base, 'objects', made.oid))
    }
    const children = [0, 1, 2, 3].map(start)
    const said = await Promise.all(
      children.map(async (child) => {
        let text = ''
        child.stdout?.setEncoding('utf8').on('data', (chunk: string) => {
          text += chunk
        })
        const [code] = await once(child, 'close')
        return `${code} ${text}`
      }),
    )
    for (const text of said) expect(text).toMatch(/^0 hits [1-9]\d*\n$/)
    // The last to end may have found another one pruning; the next process sees to it.
    const cache = open({ bound: 400_000 })
    const made = make(20_000)
    await cache.put(made.oid, 20_000, made.path)
    await cache.close()
    expect(cachedBytes()).toBeLessThanOrEqual(400_000)
    expect(temporaries()).toEqual([])
    expect(readdirSync(join(base, 'out'))).toEqual([])
    for (const name of readdirSync(join(folder, 'objects'), { recursive: true })) {
      const path = join(folder, 'objects', String(name))
      if (!statSync(path).isFile()) continue
      expect(createHash('sha256').update(readFileSync(path)).digest('hex')).toBe(
        String(name).split('/').at(-1),
      )
    }
  })

  test('killed in the middle: the others and the next go on', async () => {
    mkdirSync(join(base, 'objects'))
    for (let number = 0; number < 60; number++) {
      const made = make(20_000)
      renameSync(made.path, join(base, 'objects', made.oid))
    }
    for (let round = 0; round < 5; round++) {
      const child = start(round)
      const ended = once(child, 'close')
      // At another moment each time: as soon as there are so many results.
      const wanted = 1 + round * 3
      while (!existsSync(join(folder, 'objects')) || readdirSync(join(folder, 'objects')).length < wanted) {
        await new Promise((resolve) => setImmediate(resolve))
        if (child.exitCode !== null) break
      }
      child.kill('SIGKILL')
      await ended
    }
    const last = start(9)
    let text = ''
    last.stdout?.setEncoding('utf8').on('data', (chunk: string) => {
      text += chunk
    })
    const [code] = await once(last, 'close')
    expect(`${code} ${text}`).toMatch(/^0 hits [1-9]\d*\n$/)
  })
})
