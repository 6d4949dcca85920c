import { join } from 'node:path'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { openRepository } from '../../src/git/repository.ts'
import { GitSandbox } from '../helpers/git-sandbox.ts'

let sandbox: GitSandbox
beforeEach(() => {
  sandbox = new GitSandbox()
})
afterEach(() => sandbox.remove())

test('knows its folders, in names with spaces and line feeds too', async () => {
  for (const name of ['plain', 'with space', 'line\nfeed', 'q\'uo"te é']) {
    const work = sandbox.repository(name, { 'sub/a.bin': 'a' })
    expect(await sandbox.open(join(work, 'sub'))).toMatchObject({
      gitDir: join(work, '.git'),
      commonDir: join(work, '.git'),
      indexFile: join(work, '.git/index'),
      workTree: work,
      bare: false,
      objectFormat: 'sha1',
    })
  }
  const work = sandbox.path('plain')
  sandbox.git(work, 'worktree', 'add', '-q', '-b', 'side', '../linked')
  expect(await sandbox.open(sandbox.path('linked'))).toMatchObject({
    gitDir: join(work, '.git/worktrees/linked'),
    commonDir: join(work, '.git'),
    indexFile: join(work, '.git/worktrees/linked/index'),
    workTree: sandbox.path('linked'),
  })
  expect(await sandbox.open(join(work, '.git'))).toMatchObject({ workTree: undefined, bare: false })
})

test('reads the configuration as git has it in force', async () => {
  const work = sandbox.repository('work', {})
  sandbox.git(work, 'config', 'lfs.FetchInclude', 'a,b')
  const env = { GIT_CONFIG_COUNT: '1', GIT_CONFIG_KEY_0: 'lfs.fetchinclude', GIT_CONFIG_VALUE_0: 'c' }
  expect((await (await sandbox.open(work)).config()).get('lfs.fetchinclude')).toBe('a,b')
  expect((await (await sandbox.open(work, env)).config()).get('lfs.fetchinclude')).toBe('c')
})

test('says what is wrong', async () => {
  await expect(sandbox.open(sandbox.folder)).rejects.toMatchObject({
    code: 'config',
    message: `${sandbox.folder} is not in a git repository: go into one, or make one with git init`,
  })
  await expect(openRepository({ cwd: sandbox.folder, env: { PATH: '/nowhere' } })).rejects.toMatchObject({
    code: 'config',
    message: expect.stringMatching(/^git was not found: install it/),
  })
  const repository = await sandbox.open(sandbox.repository('work', {}))
  await expect(repository.git(['show', 'nope'])).rejects.toMatchObject({
    code: 'config',
    message: expect.stringMatching(/^git show: .*nope/),
  })
})

test('an interruption ends git', async () => {
  const work = sandbox.repository('work', {})
  const stop = new AbortController()
  const repository = await openRepository({ cwd: work, env: sandbox.env, signal: stop.signal })
  // Without input it would wait for ever.
  const git = repository.stream(['cat-file', '--batch'])
  stop.abort()
  await expect(git.done).rejects.toMatchObject({ code: 'cancelled' })
  await expect(repository.git(['version'])).rejects.toMatchObject({ code: 'cancelled' })
})
