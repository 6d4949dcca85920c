import { spawnSync } from 'node:child_process'
import { mkdtempSync, readdirSync, rmSync, utimesSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import fc from 'fast-check'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { etagOf } from '../../src/remotestorage/change.ts'
import { type Entry, nameOf } from '../../src/remotestorage/folder.ts'
import { FolderCache } from '../../src/remotestorage/folder-cache.ts'
import { makeObject } from '../../src/remotestorage/loose-objects.ts'
import { EMPTY_TREE, Space } from '../../src/remotestorage/space.ts'

const author = { login: 'bob', email: null, client: 'https://app.example' }

let folder: string
let spaces: Space[]
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'timone-space-'))
  spaces = []
})
afterEach(() => {
  for (const space of spaces) space.close()
  rmSync(folder, { recursive: true, force: true })
})

/** Each stands for a process of its own: nothing is shared but the files. */
function open(): Space {
  const space = new Space({ gitDir: join(folder, '1.git'), cache: new FolderCache(), now: Date.now })
  spaces.push(space)
  return space
}

function git(...args: string[]): string {
  const done = spawnSync('git', ['--git-dir', join(folder, '1.git'), ...args], { encoding: 'utf8' })
  if (done.status !== 0) throw new Error(`git ${args.join(' ')}: ${done.stderr}`)
  return done.stdout
}

function fsck(): void {
  const gitDir = join(folder, '1.git')
  const done = spawnSync('git', ['--git-dir', gitDir, 'fsck', '--strict', '--full', '--no-progress'], {
    encoding: 'utf8',
  })
  expect(done).toMatchObject({ stderr: '', status: 0 })
}

function put(space: Space, path: string, text: string, more: object = {}, type = 'text/plain') {
  const content = Buffer.from(text)
  return space.change(
    {
      segments: path.split('/'),
      content: {
        blob: makeObject('blob', content),
        facts: { type, length: content.length, modified: 1_700_000_000_000, large: false },
      },
      quota: 1e9,
      ...more,
    },
    author,
  )
}

const remove = (space: Space, path: string, more: object = {}) =>
  space.change({ segments: path.split('/'), quota: 1e9, ...more }, author)

async function read(space: Space, path: string): Promise<string | undefined> {
  const found = await space.document(await space.snapshot(), path.split('/'))
  if (found === undefined) return undefined
  const [oid = ''] = etagOf(found.entry, found.facts).slice(1).split('.')
  return (await space.reader.read(oid))?.content.toString()
}

test('keeps documents as commits that git finds in order', async () => {
  const space = open()
  expect(await space.snapshot()).toEqual({ commit: undefined, tree: EMPTY_TREE, bytes: 0 })
  const first = await put(space, 'photos/2026/a.txt', 'one')
  expect(first).toEqual({ etag: expect.stringMatching(/^"[0-9a-f]{40}\.[0-9a-f]{8}"$/), created: true })
  expect(await put(space, 'photos/2026/a.txt', 'two')).toMatchObject({ created: false })
  const other = await put(space, 'photos/2026/a.txt', 'one', {}, 'text/html')
  expect(other.etag).not.toBe(first.etag)
  expect(await read(space, 'photos/2026/a.txt')).toBe('one')
  expect(await space.snapshot()).toMatchObject({ bytes: 3 })
  expect(git('log', '--format=%an %s%n%(trailers:key=Client)', 'main')).toContain(
    'bob PUT /photos/2026/a.txt\nClient: https://app.example',
  )
  expect(git('rev-list', '--count', 'main').trim()).toBe('3')
  fsck()
  expect(await remove(space, 'photos/2026/a.txt')).toEqual({ etag: other.etag, created: false })
  expect((await space.folder(await space.snapshot(), [])).folder.isEmpty).toBe(true)
  expect(await space.snapshot()).toMatchObject({ bytes: 0, tree: EMPTY_TREE })
  fsck()
})

test('changes the tag of every folder above, and of no other', async () => {
  const space = open()
  await put(space, 'a/b/one', '1')
  await put(space, 'c/two', '2')
  const tags = async () => {
    const now = await space.snapshot()
    const trees = [[], ['a'], ['a', 'b'], ['c']].map(async (path) => (await space.folder(now, path)).tree)
    return Promise.all(trees)
  }
  const before = await tags()
  await put(space, 'a/b/three', '3')
  const after = await tags()
  expect(after.map((tag, index) => tag === before[index])).toEqual([false, false, false, true])
})

test('holds names that git and shells stumble over', async () => {
  const space = open()
  const names = [
    '.git',
    'git~1',
    '.gitattributes',
    'a*[b]?',
    'q"uote',
    'back\\slash',
    '#hash',
    '!bang',
    ' x ',
  ]
  names.push(
    'tab\there',
    'line\nfeed',
    '%41',
    'é',
    'e\u0301',
    'A',
    'a',
    '😀',
    'ﬀ',
    '.lfsconfig',
    '-x',
    ':(top)',
  )
  for (const name of names) {
    await space.change(
      {
        segments: ['odd', name, name],
        content: {
          blob: makeObject('blob', Buffer.from(name)),
          facts: { type: `x/${name.length}; a="b c"`, length: 1, modified: 0, large: false },
        },
        quota: 1e9,
      },
      author,
    )
  }
  fsck()
  const fresh = open()
  const now = await fresh.snapshot()
  const index = { env: { ...process.env, GIT_INDEX_FILE: join(folder, 'index') }, encoding: 'utf8' } as const
  const gitDir = join(folder, '1.git')
  spawnSync('git', ['--git-dir', gitDir, 'read-tree', 'main'], index)
  for (const name of names) {
    const found = await fresh.document(now, ['odd', name, name])
    expect(found?.facts.type, name).toBe(`x/${name.length}; a="b c"`)
    const gitName = nameOf(found?.entry as Entry)
    const path = `odd/${gitName}/${gitName}`
    const args = ['--git-dir', gitDir, 'check-attr', '-z', '--cached', 'rs-type', '--', path]
    expect(spawnSync('git', args, index).stdout.split('\0')[2], name).toContain(`x/${name.length};`)
  }
  expect((await fresh.folder(now, ['odd'])).folder.entries).toHaveLength(names.length)
})

test('obeys preconditions and refuses what cannot be', async () => {
  const space = open()
  const { etag } = await put(space, 'a/b', 'one', { ifNoneMatch: '*' })
  const fails = async (doing: Promise<unknown>, code: string): Promise<void> => {
    await expect(doing).rejects.toMatchObject({ code })
  }
  await fails(put(space, 'a/b', 'two', { ifNoneMatch: '*' }), 'precondition_failed')
  await fails(put(space, 'a/b', 'two', { ifMatch: '"x"' }), 'precondition_failed')
  await fails(put(space, 'a/new', 'two', { ifMatch: etag }), 'precondition_failed')
  await fails(remove(space, 'a/b', { ifMatch: '"x"' }), 'precondition_failed')
  await fails(remove(space, 'a/new'), 'not_found')
  await fails(put(space, 'a/b/c', 'two'), 'conflict')
  await fails(put(space, 'a', 'two'), 'conflict')
  await fails(put(space, 'a/c', 'two', { quota: 5 }), 'quota_exceeded')
  await put(space, 'a/b', 'two', { ifMatch: `"y", ${etag}`, quota: 5 })
  // Who is over a quota that was made smaller may still write less than before.
  await put(space, 'a/b', 't', { quota: 0 })
  expect(git('rev-list', '--count', 'main').trim()).toBe('3')
  fsck()
})

test('loses nothing when several processes write at once', async () => {
  const processes = [open(), open(), open()]
  const count = 20
  const done = await Promise.all(
    processes.flatMap((space, index) =>
      Array.from({ length: count }, (_, n) => put(space, `p${index}/d${n % 7}/n${n}`, `${n}`)),
    ),
  )
  expect(done).toHaveLength(3 * count)
  expect(git('rev-list', '--count', 'main').trim()).toBe(String(3 * count))
  const late = open()
  for (const index of processes.keys())
    for (let n = 0; n < count; n++) expect(await read(late, `p${index}/d${n % 7}/n${n}`)).toBe(`${n}`)
  // Of several that all expect to be first, one is.
  const first = await Promise.allSettled(
    processes.map((space, index) => put(space, 'first', `${index}`, { ifNoneMatch: '*' })),
  )
  expect(first.filter(({ status }) => status === 'fulfilled')).toHaveLength(1)
  fsck()
}, 120_000)

test('goes on after a lock that a killed server left, and after its git was ended', async () => {
  const space = open()
  await put(space, 'a', '1')
  for (const name of ['refs/heads/main.lock', 'HEAD.lock']) {
    const lock = join(folder, '1.git', name)
    writeFileSync(lock, '')
    utimesSync(lock, 1, 1)
  }
  await put(space, 'b', '2')
  space.close()
  await put(space, 'c', '3')
  expect(await read(space, 'b')).toBe('2')
  git('gc', '--quiet')
  expect(await read(space, 'a')).toBe('1')
  await put(space, 'd', '4')
  expect(readdirSync(join(folder, '1.git/refs/heads'))).toEqual(['main'])
  fsck()
})

test('is a map from paths to documents, whatever is done in whichever order', async () => {
  const names = fc.constantFrom('a', 'b', '.git', 'c*', 'a.b')
  const step = fc.record({
    path: fc.array(names, { minLength: 1, maxLength: 3 }),
    text: fc.option(fc.string({ maxLength: 5 })),
  })
  await fc.assert(
    fc.asyncProperty(fc.array(step, { maxLength: 25 }), async (steps) => {
      rmSync(join(folder, '1.git'), { recursive: true, force: true })
      const space = open()
      const model = new Map<string, string>()
      let commits = 0
      for (const { path, text } of steps) {
        const key = path.join('/')
        const above = path.slice(1).map((_, index) => path.slice(0, index + 1).join('/'))
        const below = [...model.keys()].some((name) => name.startsWith(`${key}/`))
        const clash = below || above.some((name) => model.has(name))
        const doing = text === null ? remove(space, key) : put(space, key, text)
        const worked = await doing.then(
          () => true,
          () => false,
        )
        expect(worked).toBe(text === null ? model.has(key) : !clash)
        if (!worked) continue
        commits++
        if (text === null) model.delete(key)
        else model.set(key, text)
      }
      const now = await space.snapshot()
      for (const [key, text] of model) expect(await read(space, key)).toBe(text)
      expect(now.bytes).toBe([...model.values()].reduce((sum, text) => sum + Buffer.byteLength(text), 0))
      if (commits > 0) {
        expect(git('rev-list', '--count', 'main').trim()).toBe(String(commits))
        fsck()
      }
      space.close()
    }),
    { numRuns: 15 },
  )
}, 120_000)
