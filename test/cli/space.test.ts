import { spawnSync } from 'node:child_process'
import { readdirSync } from 'node:fs'
import path from 'node:path'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { connect } from '../../src/database/connect.ts'
import { Users } from '../../src/identity/users.ts'
import { makeObject } from '../../src/remotestorage/loose-objects.ts'
import { packIfMany } from '../../src/remotestorage/packing.ts'
import type { Space } from '../../src/remotestorage/space.ts'
import { Spaces } from '../../src/remotestorage/spaces.ts'
import { makeSandbox, type Sandbox } from './run-cli.ts'

let sandbox: Sandbox
let spaces: Spaces
let space: Space
beforeEach(async () => {
  sandbox = await makeSandbox()
  const root = path.join(sandbox.cwd, 'spaces')
  sandbox.env.TIMONE_REMOTESTORAGE_ROOT = root
  await timone('user', 'add', 'bob')
  await timone('user', 'add', 'eve')
  const database = await connect(`sqlite:${path.join(sandbox.cwd, 'data', 'timone.db')}`)
  const bob = await new Users(database.db).byLogin('bob')
  await database.close()
  spaces = new Spaces({ root })
  space = spaces.of(bob?.id ?? 0)
})
afterEach(async () => {
  spaces.close()
  await sandbox.remove()
})

const timone = (...args: string[]) => sandbox.timone([...args, '--data', 'data'])
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
