import { execFileSync } from 'node:child_process'
import { createHash, randomBytes } from 'node:crypto'
import {
  existsSync,
  linkSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from 'node:fs'
import { hostname, tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest'
import type { HttpTimeouts } from '../../src/access/http-client.ts'
import { Retrier } from '../../src/access/retry.ts'
import { type DownloadContext, downloadObject } from '../../src/agent/download.ts'
import { mapPath, readExtentMap, writeExtentMap } from '../../src/agent/extent-map.ts'
import { Progress } from '../../src/agent/progress.ts'
import type { Extent } from '../../src/agent/range-plan.ts'
import { ResumeStore } from '../../src/agent/resume-store.ts'
import { TimoneError } from '../../src/errors.ts'
import { nullLogger } from '../../src/log.ts'
import { type Oid, parseOid } from '../../src/oid.ts'
import { EagerGovernor, RangeStore } from '../helpers/range-store.ts'

const MIB = 2 ** 20
const oidOf = (bytes: Buffer): Oid => parseOid(createHash('sha256').update(bytes).digest('hex'))
const small = randomBytes(100_000)
const large = randomBytes(48 * MIB + 12_345)
const [smallOid, largeOid] = [oidOf(small), oidOf(large)]
const SOURCE = 'https://server/org/repo#store'
const DEAD_PID = 2 ** 22 + 1

let storage: string
let store: RangeStore
let governor: EagerGovernor
/** Every `bytesSoFar` that was reported. */
let reported: number[]
beforeEach(async () => {
  storage = mkdtempSync(join(tmpdir(), 'timone-download-'))
  store = await RangeStore.start(small)
  governor = new EagerGovernor()
  reported = []
})
afterEach(async () => {
  await store.close()
  rmSync(storage, { recursive: true, force: true })
})

interface Wanted {
  content?: Buffer
  streams?: number
  signal?: AbortSignal
  timeouts?: Partial<HttpTimeouts>
  leaveNothing?: () => boolean
  resume?: ResumeStore
}

/** Downloads what the store has, which is what is wanted unless `content` says otherwise. */
async function download(wanted: Wanted = {}): Promise<string> {
  const { content = store.content, streams = 1, signal = new AbortController().signal } = wanted
  const context: DownloadContext = {
    access: store.access(wanted.timeouts),
    resume: wanted.resume ?? new ResumeStore(storage),
    retrier: new Retrier({ retries: 3, maxDelay: 0.01 }),
    log: nullLogger,
    mode: undefined,
    source: SOURCE,
    parallelParts: streams,
    governors: { for: () => governor },
    ...(wanted.leaveNothing === undefined ? {} : { leaveNothing: wanted.leaveNothing }),
  }
  let time = 0
  const progress = new Progress(
    content.length,
    ({ bytesSoFar }) => {
      reported.push(bytesSoFar)
      return true
    },
    // Every line may go out.
    () => (time += 1000),
  )
  const path = await downloadObject(oidOf(content), content.length, context, progress, signal)
  progress.finish()
  return path
}

const left = (): string[] => (existsSync(join(storage, 'timone')) ? readdirSync(join(storage, 'timone')) : [])
const partialOf = (oid: Oid, pid: number): string =>
  join(storage, 'timone', `${oid}.${hostname().replace(/[^A-Za-z0-9-]/g, '_')}.${pid}.part`)

/** Fails unless the file has the bytes, is all that is there, and progress was honest. */
function expectWhole(path: string, content: Buffer = store.content): void {
  expect(readFileSync(path).equals(content)).toBe(true)
  expect(left()).toEqual([path.split('/').pop()])
  expect([...reported].sort((a, b) => a - b)).toEqual(reported)
  if (content.length > 0) expect(reported.at(-1)).toBe(content.length)
}

/** Bytes that were asked for more than once. */
function askedTwice(): number {
  const sorted = [...store.requests].sort((a, b) => a.start - b.start)
  let at = 0
  let twice = 0
  for (const { start, end } of sorted) {
    twice += Math.max(0, Math.min(at, end) - start)
    at = Math.max(at, end)
  }
  return twice
}

/** Leaves a partial download of a dead process: `extents` of the content, and their map. */
async function leave(extents: Extent[], change: { size?: number; etag?: string; source?: string } = {}) {
  await new ResumeStore(storage).prepare()
  const path = partialOf(largeOid, DEAD_PID)
  const bytes = Buffer.alloc(extents.at(-1)?.end ?? 0)
  for (const { start, end } of extents) large.copy(bytes, start, start, end)
  writeFileSync(path, bytes)
  const { size = large.length, etag = '"one"', source = SOURCE } = change
  await writeExtentMap(path, { oid: largeOid, size, source, etag, extents })
  return path
}

describe('a small object', () => {
  test('comes in one request beside the LFS objects, without a map', async () => {
    const path = await download()
    expect(path.startsWith(join(storage, 'timone'))).toBe(true)
    expectWhole(path)
    expect(store.requests).toMatchObject([{ ranged: false, start: 0, end: small.length }])
  })

  test('of no bytes is asked for, too', async () => {
    store.content = Buffer.alloc(0)
    expectWhole(await download())
    expect(store.requests).toHaveLength(1)
  })

  test('gets the rights that the umask gives', async () => {
    const path = await download()
    expect(statSync(path).mode & 0o777).toBe(0o666 & ~process.umask())
  })

  test('an answer without an end is cut off at the size, and nothing stays', async () => {
    let given = 0
    store.spoil = (_fetched, response) => {
      response.writeHead(200)
      const more = (): void => {
        given += 65_536
        if (!response.destroyed) response.write(Buffer.alloc(65_536), more)
      }
      more()
      return 'taken'
    }
    await expect(download()).rejects.toMatchObject({ code: 'size_mismatch' })
    expect(given).toBeLessThan(40 * MIB)
    expect(left()).toEqual([])
  })

  test('that is cut and fits into one block is fetched anew', async () => {
    store.spoil = ({ index }, _response, bytes) => (index === 0 ? bytes.subarray(0, 60_000) : undefined)
    expectWhole(await download())
    expect(store.requests).toMatchObject([{ ranged: false }, { ranged: false }])
  })

  test('that is slow is put together', async () => {
    store.pace = () => new Promise((resolve) => setTimeout(resolve, 130))
    expectWhole(await download())
    expect(store.requests).toHaveLength(1)
  })

  test('that is cut goes on behind what has arrived', async () => {
    store.content = randomBytes(300_000)
    store.spoil = ({ index }, _response, bytes) => (index === 0 ? bytes.subarray(0, 60_000) : undefined)
    expectWhole(await download())
    expect(store.requests[1]).toMatchObject({ ranged: true, end: 300_000, ifMatch: '"one"' })
    expect(store.requests[1]?.start).toBeGreaterThan(0)
    expect(store.requests).toHaveLength(2)
  })

  test('that is given up leaves nothing', async () => {
    store.spoil = (_fetched, response) => {
      response.destroy()
      return 'taken'
    }
    await expect(download()).rejects.toMatchObject({ code: 'connection' })
    expect(store.requests).toHaveLength(4)
    expect(left()).toEqual([])
  })

  test.each([
    ['a finished file', () => small, 0],
    ['a finished file of other bytes', () => randomBytes(small.length), 1],
    ['the beginning', () => small.subarray(0, 40_000), 1],
    ['more than all', () => Buffer.concat([small, small]), 1],
    ['nothing', () => Buffer.alloc(0), 1],
  ])('of which a dead process left %s', async (_what, bytes, requests) => {
    await new ResumeStore(storage).prepare()
    for (const pid of [DEAD_PID, process.pid]) {
      store.requests.length = 0
      reported = []
      writeFileSync(partialOf(smallOid, pid), bytes())
      const path = await download()
      expectWhole(path)
      // What a process of our own number left is not looked at.
      expect(store.requests).toHaveLength(pid === DEAD_PID ? requests : 1)
      rmSync(path)
    }
  })

  test('never writes through what somebody has planted', async () => {
    await new ResumeStore(storage).prepare()
    const victim = join(storage, 'victim')
    writeFileSync(victim, 'precious')
    for (const plant of [symlinkSync, linkSync]) {
      for (const pid of [DEAD_PID, process.pid]) {
        plant(victim, partialOf(smallOid, pid))
        const path = await download()
        expect(readFileSync(path).equals(small)).toBe(true)
        expect(readFileSync(victim, 'utf8')).toBe('precious')
        rmSync(path)
      }
    }
    execFileSync('mkfifo', [partialOf(smallOid, process.pid)])
    expect(readFileSync(await download()).equals(small)).toBe(true)
  })
})

describe.each([
  ['directly', true],
  ['through node:http', false],
] as const)('a large object, its bytes %s', (_, direct) => {
  beforeEach(() => {
    store.content = large
    store.direct = direct
  })

  test('comes on one stream where that is the limit', async () => {
    expectWhole(await download())
    expect(store.mostOpen).toBe(1)
    expect(askedTwice()).toBe(0)
    expect(store.directly > 0).toBe(direct)
  })

  test('comes on several streams, no byte twice, all of one version', async () => {
    // The first answer is slow enough for the others to begin.
    store.pace = () => new Promise((resolve) => setImmediate(resolve))
    expectWhole(await download({ streams: 6 }))
    expect(governor.most).toBeGreaterThan(2)
    expect(governor.most).toBeLessThanOrEqual(6)
    expect(store.mostOpen).toBeGreaterThan(2)
    const [first, ...others] = store.requests
    expect(first?.ifMatch).toBeUndefined()
    for (const { ifMatch } of others) expect(ifMatch).toBe('"one"')
    // What is behind the end of a piece that was pulled back is dropped with its connection.
    expect(store.sent).toBeLessThan(large.length * 1.5)
  })

  test.each(['W/"weak"', undefined])(
    'comes on several streams with the tag %s, without a condition',
    async (etag) => {
      store.etag = etag
      store.pace = () => new Promise((resolve) => setImmediate(resolve))
      expectWhole(await download({ streams: 4 }))
      expect(store.requests.length).toBeGreaterThan(1)
      for (const { ifMatch } of store.requests) expect(ifMatch).toBeUndefined()
    },
  )

  test.each<[string, (number: number) => boolean]>([
    ['the first stream', (index) => index === 0],
    ['every third request', (index) => index % 3 === 2],
    ['all the first ones', (index) => index < 5],
  ])('is whole when %s is cut', async (_which, cut) => {
    store.pace = () => new Promise((resolve) => setImmediate(resolve))
    store.spoil = ({ index }, _response, bytes) =>
      cut(index) ? bytes.subarray(0, Math.floor(bytes.length / 2)) : undefined
    expectWhole(await download({ streams: 4 }))
  })

  test('a stream that stalls is replaced, and keeps what it has', async () => {
    store.spoil = ({ index }, response, bytes) => {
      if (index > 0) return undefined
      response.writeHead(200, { 'content-length': bytes.length, etag: '"one"' })
      response.write(bytes.subarray(0, 20 * MIB))
      return 'taken'
    }
    expectWhole(await download({ timeouts: { idle: 300 } }))
    expect(store.requests.map(({ start }) => start)).toEqual([0, 20 * MIB])
  })

  test('streams that the host turns away are given up, the others go on', async () => {
    store.pace = () => new Promise((resolve) => setImmediate(resolve))
    store.spoil = (_fetched, response) => {
      if (store.open <= 2) return undefined
      response.writeHead(503).end()
      return 'taken'
    }
    expectWhole(await download({ streams: 8 }))
    expect(governor.told).toContain('throttled')
  })

  test('a host that answers ranges with the whole object gets one stream', async () => {
    store.pace = () => new Promise((resolve) => setImmediate(resolve))
    store.spoil = ({ ranged }, response) => {
      if (!ranged) return undefined
      response.writeHead(200, { 'content-length': large.length, etag: '"one"' }).end(large)
      return 'taken'
    }
    expectWhole(await download({ streams: 4 }))
  })

  test.each<[string, Record<string, string>, string]>([
    ['of another place', { 'content-range': `bytes 5-${large.length - 1}/${large.length}` }, 'unavailable'],
    [
      'of more than was asked for',
      { 'content-range': `bytes 0-${large.length}/${large.length}` },
      'unavailable',
    ],
    ['of nothing readable', { 'content-range': 'bytes some' }, 'unavailable'],
    [
      'of another object',
      { 'content-range': `bytes 0-${large.length - 1}/${large.length + 1}` },
      'size_mismatch',
    ],
  ])('a range %s is refused', async (_what, headers, code) => {
    store.spoil = (_fetched, response, bytes) => {
      response.writeHead(206, headers).end(bytes)
      return 'taken'
    }
    await expect(download()).rejects.toMatchObject({ code })
  })

  test('a shorter range than asked for is taken, and the rest asked for', async () => {
    store.spoil = ({ index, start }, response) => {
      if (index > 2) return undefined
      const end = start + MIB
      const headers = { 'content-range': `bytes ${start}-${end - 1}/${large.length}`, etag: '"one"' }
      response.writeHead(206, headers).end(large.subarray(start, end))
      return 'taken'
    }
    expectWhole(await download())
    expect(store.requests.map(({ start }) => start)).toEqual([0, MIB, 2 * MIB, 3 * MIB])
  })

  test.each([
    ['412', true],
    ['another tag', false],
  ])('that is replaced between ranges (%s) is fetched anew, of one version', async (_how, conditional) => {
    const old = randomBytes(large.length)
    store.content = old
    store.spoil = ({ index, ifMatch }, response, bytes) => {
      if (index === 0) return bytes.subarray(0, 10 * MIB)
      store.content = large
      store.etag = '"two"'
      if (conditional || ifMatch !== '"one"') return undefined
      // A store that does not know conditions.
      const headers = {
        etag: '"two"',
        'content-range': `bytes ${large.length - bytes.length}-${large.length - 1}/${large.length}`,
      }
      response.writeHead(206, headers).end(bytes)
      return 'taken'
    }
    expectWhole(await download({ content: large }))
    expect(store.requests.map(({ start }) => start)).toEqual([0, store.requests[1]?.start, 0])
  })

  test('that is replaced again and again is an error, and nothing stays', async () => {
    let version = 0
    store.spoil = (_fetched, _response, bytes) => {
      store.etag = `"${version++}"`
      return bytes.subarray(0, 10 * MIB)
    }
    await expect(download()).rejects.toMatchObject({
      code: 'hash_mismatch',
      message: expect.stringMatching(/replaced/),
    })
    expect(left()).toEqual([])
  })

  test('with a turned bit is fetched once more; with one each time it is an error and nothing stays', async () => {
    const turn = (bytes: Buffer): Buffer => {
      const copy = Buffer.from(bytes)
      copy[1000] = (copy[1000] as number) ^ 1
      return copy
    }
    store.spoil = ({ index }, _response, bytes) => (index === 0 ? turn(bytes) : undefined)
    const path = await download({ streams: 4 })
    expectWhole(path)
    rmSync(path)
    store.spoil = ({ start }, _response, bytes) => (start === 0 ? turn(bytes) : undefined)
    await expect(download({ streams: 4 })).rejects.toMatchObject({ code: 'hash_mismatch' })
    expect(left()).toEqual([])
  })

  test('that is not there leaves nothing', async () => {
    store.spoil = (_fetched, response) => {
      response.writeHead(404).end()
      return 'taken'
    }
    await expect(download({ streams: 4 })).rejects.toMatchObject({ code: 'not_found' })
    expect(left()).toEqual([])
  })

  test('a folder that cannot be written to is told', async () => {
    writeFileSync(join(storage, 'timone'), 'a file where the folder should be')
    await expect(download()).rejects.toMatchObject({
      code: 'read_only',
      message: expect.stringContaining(storage),
    })
  })

  test('the time of day may jump', async () => {
    const now = Date.now()
    let jumps = 0
    const clock = vi.spyOn(Date, 'now').mockImplementation(() => now + (jumps++ % 2) * 3600_000)
    try {
      store.spoil = ({ index }, _response, bytes) => (index < 3 ? bytes.subarray(0, 9 * MIB) : undefined)
      expectWhole(await download({ streams: 4 }))
    } finally {
      clock.mockRestore()
    }
  })
})

describe('a large object that was begun', () => {
  beforeEach(() => {
    store.content = large
  })

  /** Aborts a download when so many bytes have been written. */
  async function interrupt(bytes: number, wanted: Wanted = {}): Promise<void> {
    const abort = new AbortController()
    store.pace = () => new Promise((resolve) => setImmediate(resolve))
    const ended = download({ ...wanted, signal: abort.signal })
    ended.catch(() => {})
    await vi.waitUntil(() => store.sent >= bytes, { timeout: 20_000, interval: 1 })
    abort.abort(new TimoneError('cancelled', 'interrupted'))
    await expect(ended).rejects.toMatchObject({ code: 'cancelled' })
    await vi.waitUntil(() => store.open === 0, { timeout: 20_000, interval: 1 })
    store.pace = undefined
    reported = []
  }

  test.each([1, 5])('and stopped on %i streams goes on where it was', async (streams) => {
    await interrupt(20 * MIB, { streams })
    const path = partialOf(largeOid, process.pid)
    const map = await readExtentMap(path, { oid: largeOid, size: large.length, source: SOURCE })
    const written = map?.extents.reduce((sum, { start, end }) => sum + end - start, 0) ?? 0
    expect(written).toBeGreaterThan(10 * MIB)
    const file = readFileSync(path)
    for (const { start, end } of map?.extents ?? []) {
      expect(file.subarray(start, end).equals(large.subarray(start, end))).toBe(true)
    }
    store.sent = 0
    expectWhole(await download())
    expect(store.sent).toBe(large.length - written)
  })

  test('that is to leave nothing leaves nothing', async () => {
    await interrupt(20 * MIB, { streams: 3, leaveNothing: () => true })
    expect(left()).toEqual([])
    await interrupt(40 * MIB, { streams: 3, leaveNothing: () => false })
    expect(left()).toHaveLength(2)
  })

  test('by a dead process: only what is missing is fetched, under the same version', async () => {
    await leave([
      { start: 0, end: 10 * MIB },
      { start: 20 * MIB, end: 30 * MIB },
    ])
    expectWhole(await download())
    expect(store.requests.map(({ start, end, ifMatch }) => [start, end, ifMatch])).toEqual([
      [10 * MIB, 20 * MIB, '"one"'],
      [30 * MIB, large.length, '"one"'],
    ])
    expect(reported[0]).toBe(20 * MIB)
  })

  test('of a version that is gone is fetched anew', async () => {
    await leave([{ start: 0, end: 10 * MIB }], { etag: '"gone"' })
    expectWhole(await download())
    expect(store.requests.map(({ start, ifMatch }) => [start, ifMatch])).toEqual([
      [10 * MIB, '"gone"'],
      [0, undefined],
    ])
  })

  test('whose host answers with the whole object: that is taken', async () => {
    await leave([
      { start: 0, end: 10 * MIB },
      { start: 20 * MIB, end: 30 * MIB },
    ])
    store.spoil = (_fetched, response) => {
      response.writeHead(200, { etag: '"one"' }).end(large)
      return 'taken'
    }
    expectWhole(await download({ streams: 4 }))
    expect(store.requests).toHaveLength(1)
  })

  test('with wrong bytes in the file is noticed, and fetched anew', async () => {
    const path = await leave([{ start: 0, end: 10 * MIB }])
    writeFileSync(path, randomBytes(10 * MIB))
    expectWhole(await download({ streams: 4 }))
    expect(store.sent).toBeGreaterThan(large.length)
  })

  test.each<[string, (path: string) => void]>([
    ['that is cut', (path) => truncateSync(mapPath(path), 50)],
    ['that is gone', (path) => rmSync(mapPath(path))],
    ['that is a link', (path) => plant(path, (at, real) => symlinkSync(real, at))],
    ['that is a pipe', (path) => plant(path, (at) => execFileSync('mkfifo', [at]))],
    [
      'that is huge',
      (path) => writeFileSync(mapPath(path), readFileSync(mapPath(path)) + ' '.repeat(70_000)),
    ],
    ['that claims more than is in the file', (path) => truncateSync(path, 5 * MIB)],
    ['of a file that is longer than the object', (path) => truncateSync(path, large.length + 1)],
  ])('with a map %s is fetched anew', async (_what, change) => {
    change(await leave([{ start: 0, end: 10 * MIB }]))
    expectWhole(await download())
    expect(store.requests).toMatchObject([{ start: 0, end: large.length }])
  })

  function plant(path: string, make: (at: string, real: string) => void): void {
    const real = join(storage, 'real.json')
    writeFileSync(real, readFileSync(mapPath(path)))
    rmSync(mapPath(path))
    make(mapPath(path), real)
  }

  test('from another source, or of another size, is fetched anew', async () => {
    for (const change of [{ source: 'https://elsewhere/org/repo#store' }, { size: large.length + 1 }]) {
      store.requests.length = 0
      reported = []
      await leave([{ start: 0, end: 10 * MIB }], change)
      const path = await download()
      expectWhole(path)
      expect(store.requests).toMatchObject([{ start: 0 }])
      rmSync(path)
    }
  })

  test('and finished, but not taken, is hashed and given', async () => {
    const path = await leave([{ start: 0, end: large.length }])
    rmSync(mapPath(path))
    expectWhole(await download())
    expect(store.requests).toEqual([])
  })

  test('in a folder that takes no map goes on without', async () => {
    const abort = new AbortController()
    await new ResumeStore(storage).prepare()
    execFileSync('mkdir', ['-p', join(`${mapPath(partialOf(largeOid, process.pid))}.tmp`, 'x')])
    const ended = download({ signal: abort.signal })
    const path = await ended
    expect(readFileSync(path).equals(large)).toBe(true)
  })
})

describe('a disk that does not take it', () => {
  const mount = (...options: string[]) =>
    execFileSync('mount', ['-t', 'tmpfs', ...options, 'timone-test', storage], { stdio: 'pipe' })
  const unmount = () => execFileSync('umount', [storage], { stdio: 'pipe' })

  test.each([
    ['small', () => small, '-o', 'size=64k'],
    ['large, before its first byte', () => large, '-o', 'size=20m'],
  ])('full: an object (%s) is disk_full and leaves nothing', async (_what, content, ...options) => {
    store.content = content()
    mount(...options)
    try {
      await expect(download({ streams: 4 })).rejects.toMatchObject({
        code: 'disk_full',
        message: expect.stringContaining(storage),
      })
      expect(left()).toEqual([])
    } finally {
      unmount()
    }
  })

  test('full in the middle of a large object: disk_full, and the disk has its room back', async () => {
    store.content = large
    mount('-o', 'size=60m')
    try {
      const hog = join(storage, 'hog')
      store.spoil = ({ index }) => {
        // There is room for it when it begins.
        if (index === 0) writeFileSync(hog, Buffer.alloc(30 * MIB))
        return undefined
      }
      await expect(download({ streams: 4 })).rejects.toMatchObject({ code: 'disk_full' })
      expect(left()).toEqual([])
    } finally {
      unmount()
    }
  })

  test('read-only: read_only, with the folder', async () => {
    await new ResumeStore(storage).prepare()
    mount()
    try {
      execFileSync('mount', ['-o', 'remount,ro', storage])
      for (const content of [small, large]) {
        store.content = content
        await expect(download()).rejects.toMatchObject({
          code: 'read_only',
          message: expect.stringContaining(storage),
        })
      }
    } finally {
      unmount()
    }
  })
})

describe('the upload half of the same store', () => {
  test('does not wait for a pipe in place of its notes', async () => {
    const resume = new ResumeStore(storage)
    await resume.prepare()
    const notes = join(storage, 'timone', `${smallOid}.upload.json`)
    execFileSync('mkfifo', [notes])
    expect(await resume.claimUpload(smallOid, { target: 't', size: 1, mtimeMs: 1 })).toBeUndefined()
    expect(existsSync(notes)).toBe(false)
  })
})
