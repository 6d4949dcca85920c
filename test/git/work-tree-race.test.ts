import type * as files from 'node:fs'
import { readFileSync, renameSync } from 'node:fs'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, test, vi } from 'vitest'
import { type PointerEntry, pointersOfIndex } from '../../src/git/scan.ts'
import { fillWorkTree } from '../../src/git/work-tree.ts'
import { GitSandbox, objectPathIn } from '../helpers/git-sandbox.ts'

/** Done between the last look at a file and its move. */
const between = vi.hoisted(() => ({ path: '', act: (): void => {} }))
vi.mock('node:fs', async (original) => {
  const real = await original<typeof files>()
  return {
    ...real,
    renameSync: (from: string, to: string) => {
      if (from === between.path) {
        between.path = ''
        between.act()
      }
      real.renameSync(from, to)
    },
  }
})

let sandbox: GitSandbox
beforeEach(() => {
  sandbox = new GitSandbox()
})
afterEach(() => sandbox.remove())

test('a pointer that another pull moves aside at that moment is left to it', async () => {
  const work = sandbox.clone(sandbox.repository('origin', { 'a.bin': 'one', 'b.bin': 'two' }), 'work')
  const repository = await sandbox.open(work)
  const entries: PointerEntry[] = []
  for await (const entry of pointersOfIndex(repository)) entries.push(entry)
  between.path = join(work, 'a.bin')
  between.act = () => renameSync(join(work, 'a.bin'), sandbox.path('aside'))
  const { unfilled, filled } = await fillWorkTree(repository, entries, {
    objectPath: objectPathIn(repository),
  })
  expect(between.path).toBe('')
  expect(unfilled.map(({ entry, reason }) => [entry.path, reason])).toEqual([['a.bin', 'changed']])
  expect(filled).toBe(1)
  expect(readFileSync(join(work, 'b.bin'), 'utf8')).toBe('two')
})
