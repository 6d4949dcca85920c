import { spawn } from 'node:child_process'
import { once } from 'node:events'
import {
  chmodSync,
  copyFileSync,
  existsSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  realpathSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from 'node:fs'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { printPointer } from '../../src/git/pointer.ts'
import type { LocalRepository } from '../../src/git/repository.ts'
import { type PointerEntry, pointersOfIndex } from '../../src/git/scan.ts'
import { type FillOptions, fillWorkTree, openFill } from '../../src/git/work-tree.ts'
import { gitLfsVersions } from '../helpers/git-lfs.ts'
import { GitSandbox, objectPathIn, oidOf } from '../helpers/git-sandbox.ts'

let sandbox: GitSandbox
beforeEach(() => {
  sandbox = new GitSandbox()
})
afterEach(() => sandbox.remove())

const FILES = {
  'a.bin': 'content of a',
  'folder/b.bin': 'content of b',
  'folder/deep/c.bin': 'c'.repeat(3_000_000),
  'same.bin': 'content of a',
  'odd/q\'uo"te\né.bin': 'odd',
}

async function entriesOf(repository: LocalRepository): Promise<PointerEntry[]> {
  const found: PointerEntry[] = []
  for await (const entry of pointersOfIndex(repository)) found.push(entry)
  return found
}

async function fill(work: string, options: Partial<FillOptions> = {}, env: Record<string, string> = {}) {
  const repository = await sandbox.open(work, env)
  return fillWorkTree(repository, await entriesOf(repository), {
    objectPath: objectPathIn(repository),
    ...options,
  })
}

const ALL = { filled: 5, present: 0, unfilled: [], index: { recorded: 5, refused: undefined, skipped: [] } }
const content = (work: string, path: string) => readFileSync(join(work, path), 'utf8')
/** True when git had to ask git-lfs what the files are. */
const filtered = (work: string, ...args: string[]) =>
  /git-lfs|lfs filter-process/.test(sandbox.trace(work, ...args))

/** Everything that people and programs ask about a work tree says that nothing was changed, from the index alone. */
function expectClean(work: string): void {
  expect(sandbox.git(work, 'diff-index', '--name-only', 'HEAD')).toBe('')
  expect(sandbox.git(work, 'diff-files', '--name-only')).toBe('')
  expect(filtered(work, 'status')).toBe(false)
  expect(sandbox.git(work, 'status', '--porcelain', '--ignored')).toBe('')
  expect(sandbox.git(work, 'diff')).toBe('')
  expect(sandbox.git(work, 'lfs', 'status', '--porcelain')).toBe('')
  expect(sandbox.git(work, 'lfs', 'fsck')).toMatch(/Git LFS fsck OK/)
  expect(sandbox.git(work, 'lfs', 'ls-files')).not.toMatch(/^\S+ - /m)
  sandbox.git(work, 'fsck', '--strict')
}

describe.each(gitLfsVersions())('with $name', (gitLfs) => {
  test.skipIf(gitLfs.missing !== undefined)(
    'the work tree is as git lfs pull leaves it, and git has nothing to filter',
    async () => {
      sandbox.remove()
      sandbox = new GitSandbox(gitLfs)
      const origin = sandbox.repository('origin', FILES)
      sandbox.write(origin, 'run.bin', 'executable', 0o755)
      sandbox.write(origin, 'plain.txt', 'plain')
      sandbox.commit(origin, 'more')
      const work = sandbox.clone(origin, 'work')
      const other = sandbox.clone(origin, 'other')
      expect(await fill(work)).toMatchObject({
        filled: 6,
        bytes: 3_000_000 + 12 * 3 + 3 + 10,
        index: { recorded: 6 },
      })
      expectClean(work)
      sandbox.git(other, 'lfs', 'pull')
      expect(sandbox.run('diff', ['-r', '--exclude=.git', other, work], { cwd: work })).toBe('')
      const modes = (folder: string) =>
        sandbox
          .run('find', ['.', '-path', './.git', '-prune', '-o', '-printf', '%M %p\\n'], { cwd: folder })
          .split('\n')
          .sort()
      expect(modes(work)).toEqual(modes(other))
      // A second fill finds nothing to do and changes nothing.
      const before = readFileSync(join(work, '.git/index'))
      expect(await fill(work)).toMatchObject({ filled: 0, present: 6, unfilled: [] })
      expect(readFileSync(join(work, '.git/index'))).toEqual(before)
      // And git still works with it.
      sandbox.git(work, 'checkout', '-q', 'HEAD~1')
      expect(existsSync(join(work, 'run.bin'))).toBe(false)
    },
  )
})

test('an edit right after the fill, of the same size, is seen', async () => {
  const work = sandbox.clone(sandbox.repository('origin', FILES), 'work')
  await fill(work)
  writeFileSync(join(work, 'a.bin'), 'CONTENT OF A')
  expect(sandbox.git(work, 'status', '--porcelain')).toBe(' M a.bin\n')
})

test('files are dated into the past by a second or two, never into the future, and never as new as the index', async () => {
  const work = sandbox.clone(sandbox.repository('origin', FILES), 'work')
  const before = Date.now()
  await fill(work)
  const index = Math.floor(statSync(join(work, '.git/index')).mtimeMs / 1000)
  for (const path of Object.keys(FILES)) {
    const { mtimeMs } = statSync(join(work, path))
    expect(mtimeMs).toBeGreaterThan(before - 3000)
    expect(Math.floor(mtimeMs / 1000)).toBeLessThan(index)
  }
})

test.each([['2'], ['4']])(
  'index version %s, linked work trees, submodules, a git folder elsewhere',
  async (version) => {
    sandbox.git(sandbox.folder, 'config', '--global', 'index.version', version)
    const origin = sandbox.repository('origin', FILES)
    const work = sandbox.clone(origin, 'work')
    sandbox.run('git', ['worktree', 'add', '-q', '-b', 'side', '../linked'], {
      cwd: work,
      env: { GIT_LFS_SKIP_SMUDGE: '1' },
    })
    expect(await fill(sandbox.path('linked'))).toMatchObject(ALL)
    expectClean(sandbox.path('linked'))
    expect(content(work, 'a.bin')).toMatch(/^version/)
    expect(await fill(join(work, 'folder'))).toMatchObject(ALL)
    expectClean(work)

    const parent = sandbox.repository('parent', {})
    sandbox.run('git', ['submodule', '-q', 'add', origin, 'sub'], {
      cwd: parent,
      env: { GIT_LFS_SKIP_SMUDGE: '1' },
    })
    sandbox.shareObjects(origin, join(parent, 'sub'))
    expect(await fill(join(parent, 'sub'))).toMatchObject(ALL)
    expectClean(join(parent, 'sub'))

    const apart = sandbox.clone(origin, 'apart', `--separate-git-dir=${sandbox.path('apart.git')}`)
    const env = {
      GIT_DIR: sandbox.path('apart.git'),
      GIT_WORK_TREE: apart,
      GIT_INDEX_FILE: sandbox.path('an index'),
    }
    renameSync(sandbox.path('apart.git', 'index'), env.GIT_INDEX_FILE)
    const repository = await sandbox.open(sandbox.folder, env)
    expect(
      await fillWorkTree(repository, await entriesOf(repository), { objectPath: objectPathIn(repository) }),
    ).toMatchObject(ALL)
    renameSync(env.GIT_INDEX_FILE, sandbox.path('apart.git', 'index'))
    expectClean(apart)
  },
)

describe('what the user did stays:', () => {
  let work: string
  beforeEach(() => {
    work = sandbox.clone(sandbox.repository('origin', FILES), 'work')
  })
  const unfilled = async (options?: Partial<FillOptions>) =>
    Object.fromEntries((await fill(work, options)).unfilled.map(({ entry, reason }) => [entry.path, reason]))

  test('other content, another pointer, a pointer with another size, a link, a folder', async () => {
    writeFileSync(join(work, 'a.bin'), 'mine')
    writeFileSync(join(work, 'folder/b.bin'), printPointer({ oid: oidOf('other'), size: 12 }))
    writeFileSync(join(work, 'same.bin'), printPointer({ oid: oidOf(FILES['same.bin']), size: 13 }))
    rmSync(join(work, 'folder/deep/c.bin'))
    writeFileSync(sandbox.path('victim'), 'not yours')
    symlinkSync(sandbox.path('victim'), join(work, 'folder/deep/c.bin'))
    const odd = join(work, 'odd/q\'uo"te\né.bin')
    rmSync(odd)
    mkdirSync(odd)
    expect(await unfilled()).toEqual(Object.fromEntries(Object.keys(FILES).map((path) => [path, 'changed'])))
    expect(content(work, 'a.bin')).toBe('mine')
    expect(lstatSync(join(work, 'folder/deep/c.bin')).isSymbolicLink()).toBe(true)
    expect(readFileSync(sandbox.path('victim'), 'utf8')).toBe('not yours')
    expect(lstatSync(odd).isDirectory()).toBe(true)
    expect(readdirSync(join(work, '.git'))).not.toContain('timone-fill')
  })

  test('a link to the pointer itself, and one whose target would pass for it', async () => {
    const pointer = content(work, 'a.bin')
    writeFileSync(sandbox.path('pointer'), pointer)
    rmSync(join(work, 'a.bin'))
    symlinkSync(sandbox.path('pointer'), join(work, 'a.bin'))
    expect(await unfilled()).toEqual({ 'a.bin': 'changed' })
    expect(readFileSync(sandbox.path('pointer'), 'utf8')).toBe(pointer)
  })

  test('an edit while its object is being copied', async () => {
    const copy = async (object: string, target: string) => {
      copyFileSync(object, target)
      if (object.endsWith(oidOf(FILES['folder/b.bin'])))
        writeFileSync(join(work, 'folder/b.bin'), 'edited meanwhile')
      if (object.endsWith(oidOf('odd'))) rmSync(join(work, 'odd/q\'uo"te\né.bin'))
    }
    expect(await unfilled({ copy })).toEqual({ 'folder/b.bin': 'changed', 'odd/q\'uo"te\né.bin': 'changed' })
    expect(content(work, 'folder/b.bin')).toBe('edited meanwhile')
    expect(sandbox.git(work, 'status', '--porcelain', '-z').split('\0').sort()).toEqual([
      '',
      ' D odd/q\'uo"te\né.bin',
      ' M folder/b.bin',
    ])
  })

  test('a folder turned into a link leads nowhere', async () => {
    mkdirSync(sandbox.path('outside/deep'), { recursive: true })
    for (const path of ['b.bin', 'deep/c.bin'])
      copyFileSync(join(work, 'folder', path), sandbox.path('outside', path))
    rmSync(join(work, 'folder'), { recursive: true })
    symlinkSync(sandbox.path('outside'), join(work, 'folder'))
    expect(await unfilled()).toEqual({ 'folder/b.bin': 'changed', 'folder/deep/c.bin': 'changed' })
    expect(readFileSync(sandbox.path('outside/b.bin'), 'utf8')).toMatch(/^version/)
    expect(readdirSync(sandbox.path('outside')).sort()).toEqual(['b.bin', 'deep'])
  })

  test('also a folder that becomes one in the middle', async () => {
    mkdirSync(sandbox.path('outside'))
    const copy = async (object: string, target: string) => {
      copyFileSync(object, target)
      if (!object.endsWith(oidOf(FILES['folder/b.bin']))) return
      copyFileSync(join(work, 'folder/b.bin'), sandbox.path('outside/b.bin'))
      renameSync(join(work, 'folder'), sandbox.path('away'))
      symlinkSync(sandbox.path('outside'), join(work, 'folder'))
    }
    const result = await unfilled({ copy })
    expect(result['folder/b.bin']).toBe('changed')
    expect(readFileSync(sandbox.path('outside/b.bin'), 'utf8')).toMatch(/^version/)
  })

  test('a deleted file comes back, as with git lfs pull; a deletion that was staged stays', async () => {
    rmSync(join(work, 'a.bin'))
    rmSync(join(work, 'folder'), { recursive: true })
    sandbox.git(work, 'rm', '-q', 'same.bin')
    expect(await fill(work)).toMatchObject({ filled: 4, unfilled: [] })
    expect(content(work, 'folder/b.bin')).toBe('content of b')
    expect(sandbox.git(work, 'status', '--porcelain')).toBe('D  same.bin\n')
  })

  test('permissions: read-only files stay so, an executable that comes back is one', async () => {
    chmodSync(join(work, 'a.bin'), 0o444)
    chmodSync(join(work, 'same.bin'), 0o600)
    sandbox.git(work, 'update-index', '--chmod=+x', 'folder/b.bin')
    rmSync(join(work, 'folder/b.bin'))
    await fill(work)
    const mode = (path: string) => statSync(join(work, path)).mode & 0o777
    expect([mode('a.bin'), mode('same.bin')]).toEqual([0o444, 0o600])
    expect(mode('folder/b.bin')).toBe(0o777 & ~process.umask())
    expect(sandbox.git(work, 'diff-files', '--name-only')).toBe('')
  })
})

describe('paths that no file may have:', () => {
  test.each([
    '../up.bin',
    '/etc/passwd.bin',
    '.git/hooks/post-checkout',
    'a/../../b',
    'a//b',
    './a',
    '.GIT/config',
    'sub/.git/config',
    'git~1/config',
    '.g\u200cit/config',
    '.git . /config',
    '.git::$INDEX_ALLOCATION/config',
    'nul\0.bin',
    '',
  ])('%j', async (path) => {
    const origin = sandbox.repository('origin', FILES)
    const work = sandbox.clone(origin, 'work')
    const repository = await sandbox.open(work)
    const [entry] = (await entriesOf(repository)) as [PointerEntry]
    const before = sandbox.run('find', ['.', '-printf', '%p %T@ %s\\n'], { cwd: sandbox.folder })
    const { unfilled } = await fillWorkTree(repository, [{ ...entry, path }], {
      objectPath: objectPathIn(repository),
    })
    expect(unfilled).toMatchObject([{ reason: 'failed', detail: 'its path is not one that may be written' }])
    const after = sandbox.run('find', ['.', '-printf', '%p %T@ %s\\n'], { cwd: sandbox.folder })
    const other = (text: string) => text.split('\n').filter((line) => !/^\.\/work\/\.git /.test(line))
    expect(other(after)).toEqual(other(before))
  })
})

describe('objects', () => {
  test('that are not here, or not whole, or a link, fill nothing', async () => {
    const work = sandbox.clone(sandbox.repository('origin', FILES), 'work')
    const repository = await sandbox.open(work)
    const at = objectPathIn(repository)
    rmSync(at(oidOf(FILES['a.bin'])))
    chmodSync(at(oidOf(FILES['folder/b.bin'])), 0o644)
    truncateSync(at(oidOf(FILES['folder/b.bin'])), 3)
    rmSync(at(oidOf('odd')))
    writeFileSync(sandbox.path('three'), 'odd')
    symlinkSync(sandbox.path('three'), at(oidOf('odd')))
    const { unfilled, filled } = await fill(work)
    expect(filled).toBe(1)
    expect(new Set(unfilled.map(({ reason }) => reason))).toEqual(new Set(['missing_object']))
    expect(content(work, 'a.bin')).toMatch(/^version/)
  })

  test('are copied, never linked: an edit in the work tree does not reach the store', async () => {
    const work = sandbox.clone(sandbox.repository('origin', FILES), 'work')
    await fill(work)
    const object = objectPathIn(await sandbox.open(work))(oidOf(FILES['a.bin']))
    writeFileSync(join(work, 'a.bin'), 'x', { flag: 'r+' })
    expect(readFileSync(object, 'utf8')).toBe('content of a')
    expect(statSync(object).nlink).toBe(1)
  })
})

describe('falls back, with the reason:', () => {
  test('what is unusual is left to git lfs checkout, which then finishes the work', async () => {
    const origin = sandbox.repository('origin', FILES, {
      attributes: '*.bin filter=lfs diff=lfs merge=lfs -text\nfolder/*.bin text\n',
    })
    const work = sandbox.clone(origin, 'work')
    const { filled, unfilled } = await fill(work)
    expect(filled).toBe(4)
    expect(unfilled).toMatchObject([
      { reason: 'unusual', detail: 'git converts it besides (text)', entry: { path: 'folder/b.bin' } },
    ])
    sandbox.git(work, 'lfs', 'checkout', '--', ...unfilled.map(({ entry }) => entry.path))
    expect(sandbox.git(work, 'status', '--porcelain')).toBe('')
  })

  test.each([
    ['split', ['update-index', '--split-index'], 'the index is split (core.splitIndex)'],
    ['sparse', ['sparse-checkout', 'set', '--sparse-index', 'folder'], 'the index is sparse (index.sparse)'],
  ])('a %s index: nothing is filled, as git would call it changed', async (_, command, reason) => {
    // Without line feeds in names: `git lfs checkout` hands those to git one a line, and records nothing then.
    const files = Object.fromEntries(Object.entries(FILES).filter(([path]) => !path.includes('\n')))
    const origin = sandbox.repository('origin', files)
    const work = sandbox.clone(origin, 'work')
    sandbox.git(work, ...command)
    const { filled, unfilled } = await fill(work)
    expect(filled).toBe(0)
    expect(unfilled.length).toBeGreaterThanOrEqual(4)
    for (const each of unfilled) expect(each).toMatchObject({ reason: 'unusual', detail: reason })
    sandbox.git(work, 'lfs', 'checkout')
    expect(sandbox.git(work, 'status', '--porcelain')).toBe('')
  })

  test('an index that another git holds to the end: the next fill makes good for it', async () => {
    const work = sandbox.clone(sandbox.repository('origin', FILES), 'work')
    const lock = join(work, '.git/index.lock')
    writeFileSync(lock, '')
    const { filled, index } = await fill(work)
    expect(filled).toBe(5)
    expect(index.refused).toBe(`another git is at work here (${lock} exists)`)
    rmSync(lock)
    expect(sandbox.git(work, 'status', '--porcelain').trim().split('\n')).toHaveLength(5)
    // Same size, other content: that one is the user's.
    writeFileSync(join(work, 'a.bin'), 'CONTENT OF A')
    expect(await fill(work)).toMatchObject({ filled: 0, present: 5, index: { recorded: 4 } })
    expect(sandbox.git(work, 'status', '--porcelain')).toBe(' M a.bin\n')
  })

  test('without a work tree there is nothing to fill', async () => {
    sandbox.git(sandbox.folder, 'init', '-q', '--bare', 'bare')
    await expect(fill(sandbox.path('bare'))).rejects.toThrow('there is no work tree here')
  })
})

test('a sparse checkout is filled where it is checked out', async () => {
  const work = sandbox.clone(sandbox.repository('origin', FILES), 'work', '--sparse')
  sandbox.run('git', ['sparse-checkout', 'set', 'odd'], { cwd: work, env: { GIT_LFS_SKIP_SMUDGE: '1' } })
  expect(await fill(work)).toMatchObject({ filled: 3 })
  expect(existsSync(join(work, 'folder'))).toBe(false)
  expect(sandbox.git(work, 'status', '--porcelain')).toBe('')
})

test('an fsmonitor that knows of the files does not hide them', async () => {
  const work = sandbox.clone(sandbox.repository('origin', FILES), 'work')
  // Version 2 of the hook's protocol: a token, then what may have changed since: everything.
  writeFileSync(join(work, '.git/monitor'), '#!/bin/sh\nprintf "token\\0/\\0"\n', { mode: 0o755 })
  sandbox.git(work, 'config', 'core.fsmonitor', '.git/monitor')
  sandbox.git(work, 'update-index', '--fsmonitor')
  sandbox.git(work, 'status')
  expect(readFileSync(join(work, '.git/index'), 'latin1')).toContain('FSMN')
  expect(await fill(work)).toMatchObject(ALL)
  expect(filtered(work, 'status')).toBe(false)
  expect(sandbox.git(work, 'status', '--porcelain')).toBe('')
})

test('two fills at once do the work once and leave a clean index', async () => {
  const work = sandbox.clone(sandbox.repository('origin', FILES), 'work')
  const results = await Promise.all([fill(work), fill(work)])
  expect(results.map(({ unfilled }) => unfilled.filter(({ reason }) => reason !== 'changed'))).toEqual([
    [],
    [],
  ])
  for (const [path, text] of Object.entries(FILES)) expect(content(work, path)).toBe(text)
  expect(sandbox.git(work, 'status', '--porcelain')).toBe('')
})

test('a fill that ends leaves another what it needs', async () => {
  const work = sandbox.clone(sandbox.repository('origin', FILES), 'work')
  const repository = await sandbox.open(work)
  const [first, second] = [0, 1].map(() => openFill(repository, { objectPath: objectPathIn(repository) }))
  await (await first)?.finish()
  const fill = await second
  await fill?.add(await entriesOf(repository))
  expect(await fill?.finish()).toMatchObject(ALL)
  expectClean(work)
  expect(readdirSync(join(work, '.git'))).not.toContain('timone-fill')
})

test('several goes of one fill are recorded together; an interruption records what was done', async () => {
  const work = sandbox.clone(sandbox.repository('origin', FILES), 'work')
  const repository = await sandbox.open(work)
  const entries = await entriesOf(repository)
  const names: string[] = []
  const steps = await openFill(repository, {
    objectPath: objectPathIn(repository),
    onFile: ({ path }) => names.push(path),
  })
  await Promise.all(entries.map((entry) => steps.add([entry])))
  expect(await steps.finish()).toMatchObject(ALL)
  expect(names.sort()).toEqual(Object.keys(FILES).sort())
  expectClean(work)

  const other = sandbox.clone(sandbox.path('origin'), 'other')
  const stop = new AbortController()
  await expect(fill(other, { signal: stop.signal, onFile: () => stop.abort() })).rejects.toMatchObject({
    code: 'cancelled',
  })
  const done = Object.keys(FILES).filter((path) => !content(other, path).startsWith('version'))
  expect(done).toHaveLength(1)
  expect(sandbox.git(other, 'status', '--porcelain')).toBe('')
  expect(readdirSync(join(other, '.git'))).not.toContain('timone-fill')
})

test('killed in the middle: whole files, a valid index, and no rubbish after the next fill', async () => {
  const files = Object.fromEntries(
    Array.from({ length: 300 }, (_, index) => [`${index}.bin`, `${index}`.repeat(20_000)]),
  )
  const work = sandbox.clone(sandbox.repository('origin', files), 'work')
  const program = sandbox.path('fill.ts')
  const source = realpathSync('src/git')
  writeFileSync(
    program,
    `
    import { openRepository } from '${source}/repository.ts'
    import { pointersOfIndex } from '${source}/scan.ts'
    import { fillWorkTree } from '${source}/work-tree.ts'
    const repository = await openRepository({ cwd: process.argv[2], env: process.env })
    const entries = []
    for await (const entry of pointersOfIndex(repository)) entries.push(entry)
    let count = 0
    const onFile = () => { if (++count === Number(process.argv[3])) process.stdout.write('now') }
    await fillWorkTree(repository, entries, { onFile, objectPath: (oid) => [repository.commonDir, 'lfs/objects', oid.slice(0, 2), oid.slice(2, 4), oid].join('/') })
  `,
  )
  for (const after of [1, 60, 120, 180, 240]) {
    const child = spawn(process.execPath, [program, work, `${after}`], {
      env: sandbox.env,
      stdio: ['ignore', 'pipe', 'inherit'],
    })
    const ended = once(child, 'close')
    await Promise.race([once(child.stdout, 'data'), ended])
    child.kill('SIGKILL')
    await ended
    for (const [path, text] of Object.entries(files)) {
      // At most the one in the middle of its exchange is missing.
      if (!existsSync(join(work, path))) continue
      const now = content(work, path)
      expect(now === text || now.startsWith('version https://git-lfs')).toBe(true)
    }
    rmSync(join(work, '.git/index.lock'), { force: true })
    sandbox.git(work, 'status')
    sandbox.git(work, 'fsck', '--strict')
  }
  expect(await fill(work)).toMatchObject({ unfilled: [] })
  expect(readdirSync(join(work, '.git'))).not.toContain('timone-fill')
  expectClean(work)
})

test('files dated by another clock than the index are looked into by git, and found clean', async () => {
  const work = sandbox.clone(sandbox.repository('origin', FILES), 'work')
  const repository = await sandbox.open(work)
  const copy = async (object: string, target: string) => copyFileSync(object, target)
  const steps = await openFill(repository, { objectPath: objectPathIn(repository), copy })
  const now = Date.now
  try {
    Date.now = () => now() + 100_000
    await steps.add(await entriesOf(repository))
  } finally {
    Date.now = now
  }
  expect(await steps.finish()).toMatchObject(ALL)
  expect(sandbox.git(work, 'status', '--porcelain')).toBe('')
})
