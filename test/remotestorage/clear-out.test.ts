import { execFileSync } from 'node:child_process'
import { existsSync, mkdirSync, mkdtempSync, rmSync, statSync, utimesSync } from 'node:fs'
import type * as files from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, test, vi } from 'vitest'
import { clearOut } from '../../src/remotestorage/clear-out.ts'
import { createRepository } from '../../src/remotestorage/create-repository.ts'
import { FolderCache } from '../../src/remotestorage/folder-cache.ts'
import { LooseObjects, makeObject } from '../../src/remotestorage/loose-objects.ts'
import { Space } from '../../src/remotestorage/space.ts'

/** A file that another process finds, and makes new, in the very moment in which it is about to go. */
const found = vi.hoisted(() => ({ path: '', times: 0, packed: false }))
vi.mock('node:fs/promises', async (original) => {
  const real = await original<typeof files>()
  const find = async (path: unknown): Promise<void> => {
    if (path !== found.path) return
    found.times++
    // As packing does with what is in a pack now.
    if (found.packed) await real.rm(found.path)
    else await real.utimes(found.path, new Date(), new Date())
  }
  return {
    ...real,
    rename: async (from: string, to: string) => {
      await find(from)
      await real.rename(from, to)
    },
    rm: async (path: string, options: object) => {
      await find(path)
      await real.rm(path, options)
    },
  }
})

let gitDir: string
let space: Space
beforeEach(async () => {
  gitDir = join(mkdtempSync(join(tmpdir(), 'timone-clear-out-')), '1.git')
  await createRepository(gitDir)
  mkdirSync(join(gitDir, 'objects', 'pack'), { recursive: true })
  space = new Space({ gitDir, cache: new FolderCache(), now: Date.now })
  await space.change(
    {
      segments: ['d'],
      content: {
        blob: makeObject('blob', Buffer.from('kept')),
        facts: { type: 'a/b', length: 4, modified: 0, large: false },
      },
      quota: 1e9,
    },
    { login: 'bob', email: null, client: 'x' },
  )
})
afterEach(() => {
  found.path = ''
  found.packed = false
  space.close()
  rmSync(join(gitDir, '..'), { recursive: true, force: true })
})

const content = makeObject('blob', Buffer.from('nobody refers to it yet'))
const fileOf = (oid: string): string => join(gitDir, 'objects', oid.slice(0, 2), oid.slice(2))
const clear = () => clearOut({ gitDir, reader: space.reader, grace: 60_000, now: Date.now() })
async function writeOld(): Promise<string> {
  await new LooseObjects(gitDir).write([content])
  const path = fileOf(content.oid)
  utimesSync(path, 0, 0)
  return path
}

test('removes what is old and referred to by nobody, and nothing else', async () => {
  const path = await writeOld()
  await clear()
  expect(existsSync(path)).toBe(false)
  expect((await space.document(await space.snapshot(), ['d']))?.facts.length).toBe(4)
})

test('an object that somebody finds while it is about to go stays', async () => {
  found.path = await writeOld()
  found.times = 0
  await clear()
  expect(found.times).toBe(1)
  expect(existsSync(found.path)).toBe(true)
})

test('an object that is packed while it is about to go is none of ours', async () => {
  found.path = await writeOld()
  found.times = 0
  found.packed = true
  await clear()
  expect(found.times).toBe(1)
})

test('a young pack may hold more objects than a function takes arguments', async () => {
  const blobs = Array.from({ length: 150_000 }, (_, n) => `blob\ndata ${`${n}`.length}\n${n}\n`).join('')
  execFileSync('git', ['--git-dir', gitDir, 'fast-import', '--quiet'], { input: blobs })
  expect(await clear()).toBe(false)
}, 60_000)

test('who writes what is there already makes it new', async () => {
  const path = await writeOld()
  await new LooseObjects(gitDir).write([content])
  expect(Date.now() - statSync(path).mtimeMs).toBeLessThan(60_000)
  await clear()
  expect(existsSync(path)).toBe(true)
})
