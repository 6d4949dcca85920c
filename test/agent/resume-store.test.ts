import { spawn, spawnSync } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { hostname, tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { ResumeStore } from '../../src/agent/resume-store.ts'
import type { Oid } from '../../src/oid.ts'

const oid = 'a'.repeat(64) as Oid
const file = { target: 'https://server/org/repo#s3.example', size: 12, mtimeMs: 1_700_000_000_000.5 }
const state = { version: 1 as const, ...file, partSize: 5_242_880, uploadId: 'an-id' }
const host = hostname().replace(/[^A-Za-z0-9-]/g, '_')

let storage: string
let store: ResumeStore
let path: string
beforeEach(() => {
  storage = mkdtempSync(join(tmpdir(), 'timone-resume-'))
  store = new ResumeStore(storage)
  path = join(store.folder, `${oid}.upload.json`)
})
afterEach(() => rmSync(storage, { recursive: true, force: true }))

/** A process of its own, alive until the test ends it. */
function livingProcess() {
  const child = spawn('sleep', ['60'])
  return { pid: child.pid as number, end: () => child.kill('SIGKILL') }
}
const deadPid = (): number => spawnSync('true').pid
const write = (content: string): void => {
  mkdirSync(store.folder, { recursive: true })
  writeFileSync(path, content)
}
const owned = (pid: number, at = host): string => JSON.stringify({ ...state, owner: { host: at, pid } })

describe('upload state', () => {
  test('comes back as it was written, in a file for its user only', async () => {
    await store.writeUpload(oid, state)
    expect(statSync(path).mode & 0o777).toBe(0o600)
    expect(await store.claimUpload(oid, file)).toMatchObject(state)
    await store.dropUpload(oid)
    expect(readdirSync(store.folder)).toEqual([])
    expect(await store.claimUpload(oid, file)).toBeUndefined()
  })

  test('without a folder there is none', async () => {
    expect(await store.claimUpload(oid, file)).toBeUndefined()
    await store.dropUpload(oid)
  })

  test('of a dead process is taken over, and is then ours', async () => {
    write(owned(deadPid()))
    expect(await store.claimUpload(oid, file)).toMatchObject(state)
    expect(JSON.parse(readFileSync(path, 'utf8')).owner).toEqual({ host, pid: process.pid })
  })

  test('of a living process is left alone, whatever is done here', async () => {
    const other = livingProcess()
    try {
      write(owned(other.pid))
      expect(await store.claimUpload(oid, file)).toBeUndefined()
      await store.writeUpload(oid, { ...state, uploadId: 'mine' })
      await store.dropUpload(oid)
      expect(readFileSync(path, 'utf8')).toBe(owned(other.pid))
    } finally {
      other.end()
    }
  })

  test('of another machine is left alone: whether its process lives cannot be told', async () => {
    write(owned(deadPid(), 'another-machine'))
    expect(await store.claimUpload(oid, file)).toBeUndefined()
    expect(readFileSync(path, 'utf8')).toBe(
      owned(JSON.parse(readFileSync(path, 'utf8')).owner.pid, 'another-machine'),
    )
  })

  test('of a dead process goes to one of those who ask at once', async () => {
    for (let round = 0; round < 20; round++) {
      write(owned(deadPid()))
      const others = Array.from({ length: 8 }, () => new ResumeStore(storage))
      // In one process all have the same id, so what is claimed may be claimed again: only the rename is at stake.
      const claimed = await Promise.all(others.map((one) => one.claimUpload(oid, file)))
      expect(claimed.some((one) => one !== undefined)).toBe(true)
      for (const one of claimed) if (one !== undefined) expect(one).toMatchObject(state)
      expect(readdirSync(store.folder)).toEqual([`${oid}.upload.json`])
    }
  })

  const bad: [string, string][] = [
    ['empty', ''],
    ['cut', JSON.stringify(state).slice(0, -9)],
    ['null', 'null'],
    ['a list', '[]'],
    ['a text', '"x"'],
    ['deeply nested', '['.repeat(100_000)],
    ['binary', randomBytes(300).toString('latin1')],
    ['another version', JSON.stringify({ ...state, version: 2 })],
    ['another target', JSON.stringify({ ...state, target: 'https://evil.example' })],
    ['another size', JSON.stringify({ ...state, size: 13 })],
    ['another time', JSON.stringify({ ...state, mtimeMs: file.mtimeMs + 1 })],
    ...[0, -5, 1.5, 2 ** 60, '5242880', null, [5]].map((partSize): [string, string] => [
      `part size ${JSON.stringify(partSize)}`,
      JSON.stringify({ ...state, partSize }),
    ]),
    ...['', 7, null, {}, ['x']].map((uploadId): [string, string] => [
      `upload id ${JSON.stringify(uploadId)}`,
      JSON.stringify({ ...state, uploadId }),
    ]),
  ]
  test.each(bad)('that is no good (%s) is dropped', async (_what, content) => {
    write(content)
    expect(await store.claimUpload(oid, file)).toBeUndefined()
    expect(readdirSync(store.folder)).toEqual([])
  })

  test.each([
    null,
    'me',
    {},
    { host: 7, pid: 7 },
    { host, pid: -1 },
    { host, pid: 0 },
    { host, pid: 1.5 },
    { host },
  ])('whose owner is %j has none', async (owner) => {
    write(JSON.stringify({ ...state, owner }))
    expect(await store.claimUpload(oid, file)).toMatchObject({ uploadId: 'an-id' })
  })

  test('that cannot be written is told with the folder', async () => {
    writeFileSync(store.folder, 'a file where the folder should be')
    await expect(store.writeUpload(oid, state)).rejects.toMatchObject({
      code: 'read_only',
      message: expect.stringContaining(store.folder),
    })
  })
})

describe('partial downloads', () => {
  const mine = (): string => join(store.folder, `${oid}.${host}.${process.pid}.part`)

  test('of a dead process are taken over under our own name', async () => {
    mkdirSync(store.folder)
    writeFileSync(join(store.folder, `${oid}.${host}.${deadPid()}.part`), 'begun')
    expect(await store.claimPartial(oid)).toEqual({ path: mine(), found: true })
    expect(readFileSync(mine(), 'utf8')).toBe('begun')
    expect(readdirSync(store.folder)).toHaveLength(1)
  })

  test('of a dead process come with their map, and without a map of another time', async () => {
    mkdirSync(store.folder)
    const left = join(store.folder, `${oid}.${host}.${deadPid()}.part`)
    writeFileSync(left, 'begun')
    writeFileSync(`${left}.json`, 'its map')
    writeFileSync(`${mine()}.json`, 'the map of a process that had our id')
    await store.claimPartial(oid)
    expect(readFileSync(`${mine()}.json`, 'utf8')).toBe('its map')
    expect(readdirSync(store.folder)).toHaveLength(2)
  })

  test('without their map take none over', async () => {
    mkdirSync(store.folder)
    writeFileSync(join(store.folder, `${oid}.${host}.${deadPid()}.part`), 'begun')
    writeFileSync(`${mine()}.json`, 'the map of a process that had our id')
    await store.claimPartial(oid)
    expect(readdirSync(store.folder)).toHaveLength(1)
  })

  test.each([
    ['another object', () => `${'b'.repeat(64)}.${host}.${deadPid()}.part`],
    ['another machine', () => `${oid}.elsewhere.${deadPid()}.part`],
    ['a living process', () => `${oid}.${host}.${process.ppid}.part`],
    ['nobody we know', () => `${oid}.part`],
  ])('of %s are left alone', async (_whose, name) => {
    mkdirSync(store.folder)
    const other = name()
    writeFileSync(join(store.folder, other), 'begun')
    expect(await store.claimPartial(oid)).toEqual({ path: mine(), found: false })
    expect(readdirSync(store.folder)).toEqual([other])
  })
})

describe('what a killed process was just writing', () => {
  test('goes at the next start, and nothing of the living or of other machines does', async () => {
    const living = livingProcess()
    const dead = deadPid()
    const other = 'b'.repeat(64)
    mkdirSync(store.folder, { recursive: true })
    const gone = [
      `${oid}.${host}.${dead}.part.json.tmp`,
      `${oid}.upload.json.${host}.${dead}.tmp`,
      `${oid}.${host}.${dead}.part.json`,
    ]
    const kept = [
      `${other}.${host}.${dead}.part`,
      `${other}.${host}.${dead}.part.json`,
      `${oid}.${host}.${living.pid}.part.json.tmp`,
      `${oid}.upload.json.${host}.${living.pid}.tmp`,
      `${oid}.elsewhere.${dead}.part.json.tmp`,
    ]
    for (const name of [...gone, ...kept]) writeFileSync(join(store.folder, name), '{}')
    await store.prepare()
    living.end()
    expect(readdirSync(store.folder).sort()).toEqual([...kept].sort())
  })
})
