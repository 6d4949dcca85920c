import { spawnSync } from 'node:child_process'
import { readdirSync } from 'node:fs'
import path from 'node:path'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { makeObject } from '../../src/remotestorage/loose-objects.ts'
import { packIfMany } from '../../src/remotestorage/packing.ts'
import type { Space } from '../../src/remotestorage/space.ts'
import type { Sandbox } from './run-cli.ts'
import { makeSpaceSandbox, type SpaceSandbox } from './space-sandbox.ts'

let sandbox: Sandbox
let space: Space
let timone: SpaceSandbox['timone']
let tidyUp: () => Promise<void>
beforeEach(async () => {
  ;({ sandbox, space, timone, remove: tidyUp } = await makeSpaceSandbox())
})
afterEach(() => tidyUp())

const put = (name: string, text: string) =>
  space.change(
    {
      segments: ['notes', name],
      content: {
        blob: makeObject('blob', Buffer.from(text)),
        facts: { type: 'text/plain', length: text.length, modified: 1_700_000_000_000, large: false },
      },
      quota: 1e9,
    },
    { login: 'bob', email: null, client: 'https://app.example' },
  )
const git = (...args: string[]) =>
  spawnSync('git', ['--git-dir', space.gitDir, ...args], { encoding: 'utf8' })

test('log shows what changed, newest first', async () => {
  await put('a\u001b[2J.txt', 'one')
  await put('b.txt', 'two')
  const { code, stdout } = await timone('space', 'log', 'bob')
  expect(code).toBe(0)
  expect(stdout).not.toContain('\u001b')
  const lines = stdout.trim().split('\n')
  expect(lines).toHaveLength(2)
  expect(lines[0]).toMatch(/^20\S+Z {2}[0-9a-f]{10} {2}PUT \/notes\/b\.txt {2}https:\/\/app\.example$/)
  const changes = JSON.parse((await timone('space', 'log', 'bob', '--json', '--limit', '1')).stdout)
  expect(changes).toEqual([
    {
      at: expect.stringMatching(/Z$/) as string,
      commit: git('rev-parse', 'main').stdout.trim(),
      change: 'PUT /notes/b.txt',
      client: 'https://app.example',
    },
  ])
  expect((await timone('space', 'log', 'bob', '--limit', '0')).code).toBe(2)
  expect((await timone('space', 'log', 'eve')).stderr).toContain('nothing was ever stored for eve')
  expect((await timone('space', 'log', 'nobody')).code).toBe(1)
  delete sandbox.env.TIMONE_REMOTESTORAGE_ROOT
  expect(await timone('space', 'log', 'bob')).toMatchObject({ code: 2 })
})

test('export writes what git clones, and overwrites nothing', async () => {
  await put('a.txt', 'one')
  await put('a.txt', 'two')
  expect((await timone('space', 'export', 'bob', '-bob.bundle')).code).not.toBe(0)
  expect((await timone('space', 'export', 'bob', 'bob.bundle')).code).toBe(0)
  expect((await timone('space', 'export', 'bob', 'bob.bundle')).stderr).toContain('there already')
  await sandbox.git(['clone', '--quiet', 'bob.bundle', 'copy'])
  expect(await sandbox.git(['log', '--format=%s'], path.join(sandbox.cwd, 'copy'))).toBe(
    'PUT /notes/a.txt\nPUT /notes/a.txt\n',
  )
  expect(await sandbox.git(['show', 'HEAD:notes/a.txt'], path.join(sandbox.cwd, 'copy'))).toBe('two')
})

test('packing loses nothing, also of what is just being written', async () => {
  for (let at = 0; at < 30; at++) await put(`${at}.txt`, `text ${at}`)
  expect(await packIfMany(space.gitDir)).toBe(false)
  const writing = Promise.all(Array.from({ length: 30 }, (_, at) => put(`during-${at}.txt`, `text ${at}`)))
  expect(await packIfMany(space.gitDir, 0)).toBe(true)
  await writing
  expect(await packIfMany(space.gitDir, 0)).toBe(true)
  expect(git('count-objects').stdout).toMatch(/^0 objects/)
  expect(readdirSync(path.join(space.gitDir, 'objects', 'pack')).some((name) => name.endsWith('.pack'))).toBe(
    true,
  )
  await put('after.txt', 'x')
  const now = await space.snapshot()
  for (const name of ['0.txt', '29.txt', 'during-0.txt', 'during-29.txt', 'after.txt'])
    expect(await space.document(now, ['notes', name])).toBeDefined()
  expect(git('rev-list', '--count', 'main').stdout).toBe('61\n')
  expect(git('fsck', '--strict', '--full', '--no-progress')).toMatchObject({ stderr: '', status: 0 })
})
