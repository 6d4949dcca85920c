import { execFileSync } from 'node:child_process'
import { linkSync, mkdtempSync, readdirSync, rmSync, statSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import fc from 'fast-check'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { mapPath, parseExtentMap, readExtentMap, writeExtentMap } from '../../src/agent/extent-map.ts'
import type { Oid } from '../../src/oid.ts'

const oid = 'a'.repeat(64) as Oid
const wanted = { oid, size: 1000, source: 'https://server/org/repo#s3.example' }
const good = { version: 1, ...wanted, etag: '"one"', extents: [[0, 10], [20, 1000]] } // biome-ignore format: a pair a line is hard to read
const text = (change: object): string => JSON.stringify({ ...good, ...change })

describe('parseExtentMap', () => {
  test('takes what was written', () => {
    expect(parseExtentMap(text({}), wanted)).toEqual({
      etag: '"one"',
      extents: [
        { start: 0, end: 10 },
        { start: 20, end: 1000 },
      ],
    })
    expect(parseExtentMap(text({ etag: undefined, extents: [] }), wanted)).toEqual({
      etag: undefined,
      extents: [],
    })
  })

  test.each<[string, string]>([
    ['nothing', ''],
    ['a cut text', text({}).slice(0, -5)],
    ['null', 'null'],
    ['a list', '[]'],
    ['a text', '"x"'],
    ['deep nesting', '['.repeat(30_000)],
    ['another version', text({ version: 2 })],
    ['another object', text({ oid: 'b'.repeat(64) })],
    ['another size', text({ size: 1001 })],
    ['a size as text', text({ size: '1000' })],
    ['another source', text({ source: 'https://server/org/other#s3.example' })],
    ['a tag that is no text', text({ etag: 7 })],
    ['a tag that would end its header', text({ etag: '"x"\r\nhost: evil' })],
    ['a tag without end', text({ etag: 'x'.repeat(300) })],
    ['no extents', text({ extents: undefined })],
    ['extents that are no list', text({ extents: { 0: [0, 10] } })],
    ['too many extents', text({ size: 1000, extents: Array.from({ length: 1001 }, (_, i) => [i, i + 1]) })],
    ['negative numbers', text({ extents: [[-10, 10]] })],
    ['fractions', text({ extents: [[0, 10.5]] })],
    ['numbers as text', text({ extents: [['0', '10']] })],
    ['null numbers', text({ extents: [[null, 10]] })],
    ['huge numbers', text({ extents: [[0, 2 ** 60]] })],
    ['more bytes than the object has', text({ extents: [[0, 1001]] })],
    ['empty extents', text({ extents: [[10, 10]] })],
    ['extents that go backwards', text({ extents: [[20, 10]] })],
    ['overlapping extents', text({ extents: [[0, 10], [9, 20]] })], // biome-ignore format: as above
    ['extents out of order', text({ extents: [[20, 30], [0, 10]] })], // biome-ignore format: as above
    ['an extent of three', text({ extents: [[0, 10, 20]] })],
    ['an extent that is no pair', text({ extents: [5] })],
  ])('refuses %s', (_what, given) => {
    expect(parseExtentMap(given, wanted)).toBeUndefined()
  })

  test('whatever is in it, what is believed is possible', () => {
    fc.assert(
      fc.property(
        fc.array(fc.tuple(fc.integer({ max: 1100, min: -5 }), fc.integer({ max: 1100, min: -5 }))),
        (pairs) => {
          const found = parseExtentMap(text({ extents: pairs }), wanted)
          let at = 0
          for (const { start, end } of found?.extents ?? []) {
            expect(start).toBeGreaterThanOrEqual(at)
            expect(end).toBeGreaterThan(start)
            at = end
          }
          expect(at).toBeLessThanOrEqual(wanted.size)
        },
      ),
    )
  })
})

describe('the map of a partial download', () => {
  let folder: string
  let path: string
  const map = { ...wanted, etag: '"one"', extents: [{ start: 5, end: 9 }] }
  beforeEach(() => {
    folder = mkdtempSync(join(tmpdir(), 'timone-map-'))
    path = join(folder, 'x.part')
  })
  afterEach(() => rmSync(folder, { recursive: true, force: true }))

  test('comes back as it was written, in a file for its user only', async () => {
    await writeExtentMap(path, map)
    await writeExtentMap(path, map)
    expect(statSync(mapPath(path)).mode & 0o777).toBe(0o600)
    expect(await readExtentMap(path, wanted)).toEqual({ etag: '"one"', extents: map.extents })
    expect(readdirSync(folder)).toEqual(['x.part.json'])
  })

  test('with a tag that cannot be sent back has none', async () => {
    await writeExtentMap(path, { ...map, etag: 'a\nb' })
    expect(await readExtentMap(path, wanted)).toEqual({ etag: undefined, extents: map.extents })
  })

  test('is read neither through a link, nor from a pipe, a folder or a huge file', async () => {
    await writeExtentMap(join(folder, 'other'), map)
    symlinkSync(mapPath(join(folder, 'other')), mapPath(path))
    expect(await readExtentMap(path, wanted)).toBeUndefined()
    rmSync(mapPath(path))
    execFileSync('mkfifo', [mapPath(path)])
    expect(await readExtentMap(path, wanted)).toBeUndefined()
    rmSync(mapPath(path))
    execFileSync('mkdir', [mapPath(path)])
    expect(await readExtentMap(path, wanted)).toBeUndefined()
    rmSync(mapPath(path), { recursive: true })
    writeFileSync(mapPath(path), JSON.stringify(good) + ' '.repeat(64 * 1024))
    expect(await readExtentMap(path, wanted)).toBeUndefined()
  })

  test('is never written through what somebody has planted', async () => {
    const victim = join(folder, 'victim')
    writeFileSync(victim, 'precious')
    linkSync(victim, mapPath(path))
    symlinkSync(victim, `${mapPath(path)}.tmp`)
    await writeExtentMap(path, map)
    expect(await readExtentMap(path, wanted)).toEqual({ etag: '"one"', extents: map.extents })
    expect(execFileSync('cat', [victim]).toString()).toBe('precious')
  })
})
