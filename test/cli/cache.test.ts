import { createHash, randomBytes } from 'node:crypto'
import {
  chmodSync,
  existsSync,
  mkdirSync,
  readdirSync,
  rmSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from 'node:fs'
import { dirname, join } from 'node:path'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { entryPath } from '../../src/agent/cache-folder.ts'
import { type Oid, parseOid } from '../../src/oid.ts'
import { makeSandbox, type Sandbox } from './run-cli.ts'

let sandbox: Sandbox
let folder: string
beforeEach(async () => {
  sandbox = await makeSandbox()
  folder = join(sandbox.cwd, 'the cache')
})
afterEach(() => sandbox.remove())

/** An entry that was used last so many hours ago. */
function add(size: number, hours: number): Oid {
  const content = randomBytes(size)
  const oid = parseOid(createHash('sha256').update(content).digest('hex'))
  const path = entryPath(folder, oid)
  mkdirSync(dirname(path), { recursive: true })
  writeFileSync(path, content, { mode: 0o444 })
  const time = Date.now() / 1000 - hours * 3600
  utimesSync(path, time, time)
  return oid
}

const isThere = (oid: Oid): boolean => existsSync(entryPath(folder, oid))
const configure = (key: string, value: string): Promise<string> =>
  sandbox.git(['config', '--global', key, value])

describe('timone cache', () => {
  test.each(['stat', 'prune', 'verify'])('%s without a cache: says what to do, exit 2', async (command) => {
    const { code, stdout, stderr } = await sandbox.timone(['cache', command])
    expect({ code, stdout }).toEqual({ code: 2, stdout: '' })
    expect(stderr).toMatch(/^timone: no cache is configured: git config --global timone\.cacheDir .*--dir\n$/)
  })

  test.each([
    [['cache', 'stat', '--dir', 'nowhere'], /nowhere is no folder/],
    [['cache', 'prune', '--size', 'much'], /'much' is no number of bytes/],
    [['cache', 'prune', '--older-than', 'ages'], /'ages' is not a length of time/],
    [['cache', 'prune', '--dir', '.'], /no bound/],
    [['cache', 'frobnicate'], /unknown command/],
  ])('%j: exit 2', async (args, message) => {
    await configure('timone.cacheSize', '0')
    const { code, stderr } = await sandbox.timone(args)
    expect(code).toBe(2)
    expect(stderr).toMatch(message)
    expect(stderr.trim().split('\n')).toHaveLength(1)
  })

  test('a setting that is no good: exit 2, naming it', async () => {
    await configure('timone.cacheDir', 'relative/path')
    const { code, stderr } = await sandbox.timone(['cache', 'stat'])
    expect(code).toBe(2)
    expect(stderr).toMatch(/timone\.cacheDir is 'relative\/path'/)
  })

  test.each(['stat', 'prune', 'verify'])('%s --help has examples', async (command) => {
    const { code, stdout } = await sandbox.timone(['cache', command, '--help'])
    expect(code).toBe(0)
    expect(stdout).toContain('Examples:')
    expect(stdout).toContain('--dir')
  })
})

describe('timone cache stat', () => {
  test('counts what is there', async () => {
    add(1000, 5)
    add(2000, 1)
    await configure('timone.cacheDir', folder)
    await configure('timone.cacheSize', '2t')
    const { code, stdout } = await sandbox.timone(['cache', 'stat', '--json'])
    expect(code).toBe(0)
    const found = JSON.parse(stdout)
    expect(found).toMatchObject({ folder, objects: 2, bytes: 3000, bound: 2 * 2 ** 40 })
    const hour = 3600_000
    expect(Date.now() - Date.parse(found.oldest_use)).toBeGreaterThanOrEqual(5 * hour)
    expect(Date.now() - Date.parse(found.newest_use)).toBeLessThan(5 * hour)
    const text = (await sandbox.timone(['cache', 'stat'])).stdout
    expect(text).toMatch(/objects +2\n/)
    expect(text).toMatch(/bytes +2\.9 KiB\n/)
    expect(text).toMatch(/bound +2 TiB\n/)
    expect(text).toMatch(/oldest use .*5 hours/)
  })

  test('an empty one, and one that is not there yet', async () => {
    mkdirSync(folder)
    for (const name of [folder, join(folder, 'not yet')]) {
      await configure('timone.cacheDir', name)
      const { code, stdout } = await sandbox.timone(['cache', 'stat', '--json'])
      expect(code).toBe(0)
      expect(JSON.parse(stdout)).toMatchObject({ objects: 0, bytes: 0, oldest_use: null, newest_use: null })
    }
    expect(readdirSync(folder)).toEqual([])
  })
})

describe('timone cache prune', () => {
  test('to the bound, to a size, by age, and everything', async () => {
    const entries = [5, 4, 3, 2, 1].map((hours) => add(1000, hours))
    const there = (): boolean[] => entries.map(isThere)
    const prune = async (...args: string[]): Promise<unknown> => {
      const { code, stdout, stderr } = await sandbox.timone(['cache', 'prune', '--json', ...args])
      expect({ code, stderr }).toEqual({ code: 0, stderr: '' })
      return JSON.parse(stdout)
    }
    await configure('timone.cacheDir', folder)
    expect(await prune()).toEqual({ folder, removed: 0, freed: 0, objects: 5, bytes: 5000 })
    await configure('timone.cacheSize', '4k')
    expect(await prune()).toEqual({ folder, removed: 1, freed: 1000, objects: 4, bytes: 4000 })
    expect(there()).toEqual([false, true, true, true, true])
    await prune('--size', '3000')
    expect(there()).toEqual([false, false, true, true, true])
    await prune('--older-than', '150m')
    expect(there()).toEqual([false, false, false, true, true])
    expect(await prune('--all')).toEqual({ folder, removed: 2, freed: 2000, objects: 0, bytes: 0 })
    expect(there()).toEqual([false, false, false, false, false])
  })

  test('for people', async () => {
    add(1000, 1)
    const { stdout } = await sandbox.timone(['cache', 'prune', '--all', '--dir', folder])
    expect(stdout).toBe('removed  1 object, 1000 bytes\nleft     0 objects, 0 bytes\n')
  })

  test('leaves alone what is behind a link, and what is no object', async () => {
    const oid = add(1000, 1)
    const elsewhere = join(sandbox.cwd, 'elsewhere')
    const first = oid.startsWith('ab') ? 'cd' : 'ab'
    mkdirSync(join(elsewhere, '00'), { recursive: true })
    const victim = join(elsewhere, '00', `${first}00${'0'.repeat(60)}`)
    writeFileSync(victim, 'precious')
    symlinkSync(elsewhere, join(folder, 'objects', first))
    writeFileSync(join(dirname(entryPath(folder, oid)), 'README'), 'mine')
    const { stdout } = await sandbox.timone(['cache', 'prune', '--all', '--json', '--dir', folder])
    expect(JSON.parse(stdout)).toMatchObject({ removed: 1 })
    expect(existsSync(victim)).toBe(true)
    expect(existsSync(join(dirname(entryPath(folder, oid)), 'README'))).toBe(true)
  })
})

describe('timone cache verify', () => {
  test('everything good: exit 0', async () => {
    const oid = add(3 * 2 ** 20, 1)
    add(1000, 1)
    const { code, stdout } = await sandbox.timone(['cache', 'verify', '--dir', folder])
    expect({ code, stdout }).toEqual({ code: 0, stdout: 'good              2 objects, 3 MiB\n' })
    expect(isThere(oid)).toBe(true)
  })

  test('what is damaged is dropped: exit 1', async () => {
    const good = add(1000, 1)
    const [flipped, large, linked] = [add(1000, 1), add(2 * 2 ** 20, 1), add(10, 1)]
    for (const oid of [flipped, large]) {
      chmodSync(entryPath(folder, oid), 0o644)
      writeFileSync(entryPath(folder, oid), 'x', { flag: 'r+' })
    }
    rmSync(entryPath(folder, linked))
    symlinkSync('/etc/passwd', entryPath(folder, linked))
    const { code, stdout } = await sandbox.timone(['cache', 'verify', '--dir', folder, '--json'])
    expect(code).toBe(1)
    const found = JSON.parse(stdout)
    expect(found).toMatchObject({ folder, objects: 1, bytes: 1000, unreadable: [] })
    expect(found.damaged.sort()).toEqual([flipped, large, linked].sort())
    expect([good, flipped, large, linked].map(isThere)).toEqual([true, false, false, false])
    expect((await sandbox.timone(['cache', 'verify', '--dir', folder])).code).toBe(0)
  })
})
