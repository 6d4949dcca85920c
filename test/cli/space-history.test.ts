import { spawnSync } from 'node:child_process'
import { utimesSync } from 'node:fs'
import path from 'node:path'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { type LargeObject, printPointer } from '../../src/remotestorage/large-documents.ts'
import { makeObject } from '../../src/remotestorage/loose-objects.ts'
import type { Space } from '../../src/remotestorage/space.ts'
import { createFileStore } from '../../src/storage/file-store.ts'
import { objectKey, spacePrefix } from '../../src/storage/object-key.ts'
import { filesIn, sample } from '../server/harness.ts'
import type { Sandbox } from './run-cli.ts'
import { makeSpaceSandbox, type SpaceSandbox } from './space-sandbox.ts'

const DAY = 86_400_000
/** Noon, so that days are easily told apart. */
const FIRST = Date.parse('2026-01-01T12:00:00Z')

let sandbox: Sandbox
let space: Space
let bob: number
let timone: SpaceSandbox['timone']
let tidyUp: () => Promise<void>
let clock: number
beforeEach(async () => {
  clock = FIRST
  ;({ sandbox, space, bob, timone, remove: tidyUp } = await makeSpaceSandbox(() => clock))
})
afterEach(() => tidyUp())

const author = { login: 'bob', email: null, client: 'https://app.example' }

/** One change a day. */
async function put(name: string, text: string, large?: LargeObject): Promise<void> {
  const blob = makeObject('blob', large === undefined ? Buffer.from(text) : printPointer(large))
  const length = large?.size ?? text.length
  const facts = { type: 'text/plain', length, modified: clock, large: large !== undefined }
  await space.change({ segments: name.split('/'), content: { blob, facts }, quota: 1e12 }, author)
  clock += DAY
}
async function remove(name: string): Promise<void> {
  await space.change({ segments: name.split('/'), quota: 1e12 }, author)
  clock += DAY
}
async function putLarge(name: string, size: number): Promise<LargeObject> {
  const { bytes, oid } = sample(size)
  const { Readable } = await import('node:stream')
  const key = objectKey(spacePrefix('', bob), oid as LargeObject['oid'])
  const store = createFileStore(path.join(sandbox.cwd, 'data', 'objects'))
  await store.put(key, Readable.from([bytes]), { size, sha256: oid })
  const object = { oid: oid as LargeObject['oid'], size }
  await put(name, '', object)
  return object
}

const git = (...args: string[]) =>
  spawnSync('git', ['--git-dir', space.gitDir, ...args], { encoding: 'utf8' })
const show = (name: string) => git('show', `main:${name}`).stdout
const names = () =>
  git('ls-tree', '-r', '--name-only', 'main')
    .stdout.split('\n')
    .filter((name) => name !== '' && !name.includes('.gitattributes'))
const subjects = () => git('log', '--format=%s', 'main').stdout.trim().split('\n')
const check = () =>
  expect(git('fsck', '--strict', '--full', '--no-progress')).toMatchObject({ stderr: '', status: 0 })
const stored = async () =>
  (await filesIn(path.join(sandbox.cwd, 'data', 'objects'))).map((file) => path.basename(file)).sort()
/** As if everything had been written long ago. */
async function age(): Promise<void> {
  for (const file of await filesIn(path.join(space.gitDir, 'objects'))) utimesSync(file, 0, 0)
}

test('restore brings back a document, a folder, or everything, as one more change', async () => {
  await put('notes/a', 'one')
  await put('notes/b', 'x')
  await put('other/c', 'y')
  await put('notes/a', 'two!')
  await remove('notes/b')
  const log = JSON.parse((await timone('space', 'log', 'bob', '--json')).stdout)
  const third = log[2].commit as string

  expect((await timone('space', 'restore', 'bob', '/notes/b', '--at', '2026-01-05')).code).toBe(0)
  expect(names()).toEqual(['notes/a', 'notes/b', 'other/c'])
  expect(show('notes/a')).toBe('two!')
  const { code, stdout } = await timone('space', 'restore', 'bob', 'notes/', '--at', third, '--json')
  expect(code).toBe(0)
  expect(JSON.parse(stdout)).toEqual({
    user: 'bob',
    from: third,
    commit: git('rev-parse', 'main').stdout.trim(),
  })
  expect([show('notes/a'), show('notes/b')]).toEqual(['one', 'x'])
  expect((await timone('space', 'restore', 'bob', '--at', '2026-01-01T12:00:00Z')).code).toBe(0)
  expect(names()).toEqual(['notes/a'])
  expect((await space.snapshot()).bytes).toBe(3)
  expect(subjects()).toEqual([
    ...['RESTORE /', 'RESTORE /notes/', 'RESTORE /notes/b', 'DELETE /notes/b', 'PUT /notes/a'],
    ...['PUT /other/c', 'PUT /notes/b', 'PUT /notes/a'],
  ])
  check()
  // The next change of an app goes on from there.
  await put('notes/d', 'z')
  expect((await space.snapshot()).bytes).toBe(4)
  expect((await timone('events', '--data', 'data')).stdout).toContain('space.restore')
})

test('restore changes nothing where there is nothing to do, or nothing that could be done', async () => {
  await put('notes/a', 'one')
  await put('a', 'x')
  await remove('notes/a')
  await put('notes', 'a document now')
  await remove('a')
  await put('a/b', 'a folder now')
  const head = git('rev-parse', 'main').stdout
  const restore = (...args: string[]) => timone('space', 'restore', 'bob', ...args)
  expect(await restore('/a/', '--at', '1s')).toMatchObject({
    code: 0,
    stderr: expect.stringContaining('nothing to do'),
  })
  expect(await restore('/notes/a', '--at', '2026-01-02')).toMatchObject({
    code: 1,
    stderr: expect.stringContaining('name'),
  })
  expect(await restore('/notes/', '--at', '2026-01-02')).toMatchObject({ code: 1 })
  expect(await restore('/a', '--at', '2026-01-03')).toMatchObject({ code: 1 })
  expect(await restore('/gone', '--at', '2026-01-03')).toMatchObject({
    code: 1,
    stderr: expect.stringContaining('there was no /gone then'),
  })
  expect(await restore('/a', '--at', '2020-01-01')).toMatchObject({ code: 1 })
  expect(await restore('/a', '--at', 'deadbeef')).toMatchObject({ code: 1 })
  for (const wrong of ['yesterday', '2026-13-01', '--all', 'main', 'HEAD~1'])
    expect(await restore('/a', '--at', wrong)).toMatchObject({ code: 2 })
  expect(await restore('/a')).toMatchObject({ code: 2, stderr: expect.stringContaining('--at') })
  for (const wrong of ['/../x', '//', '/a//b'])
    expect(await restore(wrong, '--at', '1s')).toMatchObject({ code: 2 })
  expect((await timone('space', 'restore', 'eve', '--at', '1s')).code).toBe(1)
  expect(git('rev-parse', 'main').stdout).toBe(head)
})

test('prune forgets what was before, says so first, and leaves what is', async () => {
  await put('notes/a', 'secret of the first day')
  await put('notes/a', 'two')
  const old = await putLarge('films/old', 2000)
  await remove('films/old')
  await put('notes/b', 'three')
  const kept = await putLarge('films/kept', 3000)
  const orphan = sample(1500)
  const { Readable } = await import('node:stream')
  const store = createFileStore(path.join(sandbox.cwd, 'data', 'objects'))
  const key = objectKey(spacePrefix('', bob), orphan.oid as LargeObject['oid'])
  await store.put(key, Readable.from([orphan.bytes]), { size: orphan.size, sha256: orphan.oid })
  git('repack', '-adq')
  await put('notes/b', 'four')
  const secret = makeObject('blob', Buffer.from('secret of the first day')).oid
  const tree = git('rev-parse', 'main^{tree}').stdout
  const before = ['--before', '2026-01-05T00:00:00Z', '--json']
  const numbers = { user: 'bob', commits_kept: 4, commits_removed: 3, large_removed: 2, large_bytes: 3500 }

  const dry = await timone('space', 'prune', 'bob', ...before)
  expect([dry.code, JSON.parse(dry.stdout)]).toEqual([0, { ...numbers, complete: true, dry_run: true }])
  expect(subjects()).toHaveLength(7)
  expect(await stored()).toHaveLength(3)

  // What was written a moment ago might be about to be used.
  expect(JSON.parse((await timone('space', 'prune', 'bob', ...before, '--yes')).stdout)).toEqual({
    ...{ ...numbers, complete: false, dry_run: false },
  })
  expect(await stored()).toEqual([kept.oid])
  expect(subjects()).toEqual([
    ...['PUT /notes/b', 'PUT /films/kept', 'PUT /notes/b', 'PRUNE / before 2026-01-05T00:00:00.000Z'],
  ])
  await age()
  const again = JSON.parse((await timone('space', 'prune', 'bob', ...before, '--yes')).stdout)
  expect(again).toMatchObject({ commits_removed: 0, large_removed: 0, complete: true })
  expect(git('cat-file', '-e', secret).status).not.toBe(0)
  expect(git('rev-parse', 'main^{tree}').stdout).toBe(tree)
  expect([show('notes/a'), show('notes/b')]).toEqual(['two', 'four'])
  check()
  expect(git('count-objects', '-v').stdout).toContain('count: 0\n')
  // Clients, clones and the next change go on.
  await put('notes/c', 'five')
  expect((await timone('space', 'export', 'bob', 'bob.bundle')).code).toBe(0)
  await sandbox.git(['clone', '--quiet', 'bob.bundle', 'copy'])
  expect((await timone('space', 'restore', 'bob', 'notes/b', '--at', '2026-01-06')).code).toBe(0)
  expect(show('notes/b')).toBe('three')
  expect((await timone('events', '--data', 'data')).stdout).toContain('space.prune')
  expect(old.oid).not.toBe(kept.oid)
})

test('prune of everything leaves the state, and restore says what is gone', async () => {
  const film = await putLarge('films/a', 2000)
  await put('notes/a', 'x')
  expect((await timone('space', 'prune', 'bob', '--before', '1s', '--yes')).stdout).toContain(
    'removed 1 commit of 2',
  )
  expect(subjects()).toHaveLength(1)
  expect(await stored()).toEqual([film.oid])
  const store = createFileStore(path.join(sandbox.cwd, 'data', 'objects'))
  await remove('films/a')
  await store.remove(objectKey(spacePrefix('', bob), film.oid))
  expect(await timone('space', 'restore', 'bob', 'films/a', '--at', '2026-01-03')).toMatchObject({
    code: 1,
    stderr: expect.stringContaining('no longer in the object store'),
  })
  for (const wrong of [[], ['--before', 'x'], ['--before', '2999-01-01']])
    expect((await timone('space', 'prune', 'bob', ...wrong)).code).toBe(2)
  expect((await timone('space', 'prune', 'eve', '--before', '1d')).code).toBe(1)
})

test('their help has examples', async () => {
  for (const command of ['restore', 'prune'])
    expect((await sandbox.timone(['space', command, '--help'])).stdout).toContain(`Examples:\n  # `)
})
