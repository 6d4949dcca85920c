import { createHash } from 'node:crypto'
import {
  chmodSync,
  existsSync,
  lstatSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from 'node:fs'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { type FreshFile, recordStats } from '../../src/git/index-file.ts'
import { parseIndex } from '../../src/git/index-format.ts'
import type { LocalRepository } from '../../src/git/repository.ts'
import { GitSandbox } from '../helpers/git-sandbox.ts'

let sandbox: GitSandbox
beforeEach(() => {
  sandbox = new GitSandbox()
})
afterEach(() => sandbox.remove())

/** Names that sort around each other, so that version 4 has prefixes to share; one longer than the flags can say. */
const NAMES = [
  'a',
  'a.txt',
  'a/b',
  'a/bc',
  'a/bcd/e',
  'a/é',
  'b c',
  'q\'"',
  'x\ny',
  `long/${'n'.repeat(200)}/${'m'.repeat(200)}/${'z'.repeat(200)}`,
  `long/${'n'.repeat(250)}/${'o'.repeat(250)}/${'p'.repeat(250)}/${'q'.repeat(250)}/${'r'.repeat(250)}/${'s'.repeat(250)}/${'t'.repeat(250)}/${'u'.repeat(250)}/${'v'.repeat(250)}/${'w'.repeat(250)}/${'x'.repeat(250)}/${'y'.repeat(250)}/${'z'.repeat(250)}/${'a'.repeat(250)}/${'b'.repeat(250)}/${'c'.repeat(250)}/${'d'.repeat(250)}`.slice(
    0,
    3900,
  ),
]
const FILES = Object.fromEntries(NAMES.filter((name) => name !== 'a').map((name) => [name, `in ${name}`]))

function plain(...init: string[]): string {
  const work = sandbox.repository('work', FILES, { init, attributes: '' })
  // Older than the index: nothing is racy but what a test makes so.
  sandbox.run(
    'sh',
    [
      '-c',
      "find . -path ./.git -prune -o -type f -exec touch -d '1 minute ago' {} + && git update-index -q --refresh",
    ],
    { cwd: work },
  )
  return work
}

/** Rewrites files with the same content, so that the index no longer knows them, dated well before now. */
function rewritten(work: string, paths: string[]): FreshFile[] {
  return paths.map((path) => {
    const file = join(work, path)
    const content = readFileSync(file)
    rmSync(file)
    writeFileSync(file, content)
    const past = Math.floor(Date.now() / 1000) - 10
    utimesSync(file, past, past)
    return {
      path,
      blob: sandbox.git(work, 'rev-parse', `:${path}`).trim(),
      stat: lstatSync(file, { bigint: true }),
    }
  })
}

/** Paths whose stat data git does not believe. */
const doubted = (work: string) =>
  sandbox
    .git(work, 'diff-files', '--name-only', '-z')
    .split('\0')
    .filter((name) => name !== '')
const index = (repository: LocalRepository) => readFileSync(repository.indexFile)

describe.each([
  ['version 2', [], ['update-index', '--index-version', '2']],
  ['version 3', [], ['update-index', '--index-version', '3']],
  ['version 4', [], ['update-index', '--index-version', '4']],
  ['sha256', ['--object-format=sha256'], ['update-index', '--index-version', '2']],
  ['sha256, version 4', ['--object-format=sha256'], ['update-index', '--index-version', '4']],
] as const)('%s', (name, init, command) => {
  let work: string
  let repository: LocalRepository
  beforeEach(async () => {
    work = plain(...init)
    sandbox.git(work, ...command)
    // Version 3 is version 2 with some extended entry in it.
    if (name === 'version 3') {
      sandbox.write(work, 'later', '')
      sandbox.git(work, 'add', '-N', 'later')
    }
    repository = await sandbox.open(work)
  })

  test('stat data is what git itself would record, and nothing else changes', async () => {
    const files = rewritten(work, Object.keys(FILES))
    expect(doubted(work)).toHaveLength(files.length + (name === 'version 3' ? 1 : 0))
    const before = index(repository)
    expect(before.readUInt32BE(4)).toBe(name === 'version 3' ? 3 : name.includes('4') ? 4 : 2)
    expect(await recordStats(repository, files)).toEqual({
      recorded: files.length,
      refused: undefined,
      skipped: [],
    })
    const after = index(repository)
    expect(doubted(work)).toEqual(name === 'version 3' ? ['later'] : [])
    expect(after.length).toBe(before.length)
    const hashSize = repository.objectFormat === 'sha256' ? 32 : 20
    expect(createHash(repository.objectFormat).update(after.subarray(0, -hashSize)).digest()).toEqual(
      after.subarray(-hashSize),
    )
    sandbox.git(work, 'fsck', '--strict')
    // git's own refresh of the same files writes the same bytes.
    sandbox.run('sh', ['-c', 'git update-index --really-refresh -q || test $? = 1'], { cwd: work })
    sandbox.git(work, 'update-index', '--force-write-index')
    const view = (bytes: Buffer) => {
      const parsed = parseIndex(bytes, hashSize)
      if (typeof parsed === 'string') throw new Error(parsed)
      return [...parsed.entries()].map(({ at, path }) => [
        path,
        bytes.toString('hex', at, at + 40 + hashSize),
      ])
    }
    expect(view(index(repository))).toEqual(view(after))
    expect(view(after).map(([path]) => Buffer.from(path as string, 'latin1').toString())).toEqual(
      sandbox.git(work, 'ls-files', '-z').split('\0').slice(0, -1),
    )
  })

  test('an entry that names another blob by now is left alone', async () => {
    const [first, second] = rewritten(work, ['a.txt', 'a/b']) as [FreshFile, FreshFile]
    const other = { ...second, blob: first.blob }
    const stranger = { ...first, path: 'not/there' }
    expect(await recordStats(repository, [first, other, stranger])).toEqual({
      recorded: 1,
      refused: undefined,
      skipped: ['a/b', 'not/there'],
    })
    expect(doubted(work)).toEqual(name === 'version 3' ? ['a/b', 'later'] : ['a/b'])
  })
})

test('extensions stay byte for byte', async () => {
  const work = plain()
  sandbox.git(work, 'config', 'index.threads', '2')
  sandbox.git(work, 'update-index', '--untracked-cache')
  sandbox.git(work, 'status')
  const repository = await sandbox.open(work)
  const files = rewritten(work, ['a.txt'])
  const before = index(repository)
  const names = before.toString('latin1')
  expect(names).toContain('TREE')
  expect(names).toContain('UNTR')
  await recordStats(repository, files)
  const after = index(repository)
  const at = before.lastIndexOf('TREE')
  expect(after.subarray(at, -20)).toEqual(before.subarray(at, -20))
  expect(doubted(work)).toEqual([])
})

test('an index without a checksum stays without one', async () => {
  const work = plain()
  const repository = await sandbox.open(work)
  const files = rewritten(work, ['a.txt'])
  const bytes = index(repository)
  bytes.fill(0, bytes.length - 20)
  writeFileSync(repository.indexFile, bytes)
  expect((await recordStats(repository, files)).recorded).toBe(1)
  expect(index(repository).subarray(-20)).toEqual(Buffer.alloc(20))
})

describe('racy git', () => {
  test('a file as new as the index is recorded, and doubted: git looks into it', async () => {
    const work = plain()
    const repository = await sandbox.open(work)
    const [file] = rewritten(work, ['a.txt']) as [FreshFile]
    const late = Date.now() / 1000 + 60
    utimesSync(join(work, 'a.txt'), late, late)
    const fresh = { ...file, stat: lstatSync(join(work, 'a.txt'), { bigint: true }) }
    expect((await recordStats(repository, [fresh])).recorded).toBe(1)
    expect(doubted(work)).toEqual([])
    writeFileSync(join(work, 'a.txt'), 'IN A.TXT')
    utimesSync(join(work, 'a.txt'), late, late)
    expect(doubted(work)).toEqual(['a.txt'])
  })

  test("another file's edit of the same size in the index's own second is still seen", async () => {
    const work = plain()
    const repository = await sandbox.open(work)
    const files = rewritten(work, ['a.txt'])
    // As when `git add` and the edit fall into one second: same size, same second, same everything that git compares.
    const other = join(work, 'a/b')
    const second = Math.floor(Date.now() / 1000) - 5
    sandbox.git(work, 'config', 'core.trustctime', 'false')
    sandbox.git(work, 'config', 'core.checkStat', 'minimal')
    utimesSync(other, second, second)
    sandbox.git(work, 'update-index', '-q', '--refresh')
    writeFileSync(other, 'IN A/B')
    utimesSync(other, second, second)
    utimesSync(repository.indexFile, second, second)
    expect(doubted(work)).toContain('a/b')
    utimesSync(repository.indexFile, second, second)
    expect((await recordStats(repository, files)).recorded).toBe(1)
    expect(sandbox.git(work, 'status', '--short')).toBe(' M a/b\n')
  })
})

describe('is left to git, with the reason:', () => {
  let work: string
  let repository: LocalRepository
  let files: FreshFile[]
  beforeEach(async () => {
    work = plain()
    repository = await sandbox.open(work)
    files = rewritten(work, ['a.txt'])
  })
  const refusal = async () => {
    const before = existsSync(repository.indexFile) ? index(repository) : undefined
    const update = await recordStats(repository, files, { lockPatience: 50 })
    expect(update).toMatchObject({ recorded: 0, skipped: ['a.txt'] })
    expect(existsSync(repository.indexFile) ? index(repository) : undefined).toEqual(before)
    return update.refused
  }

  test('a split index', async () => {
    sandbox.git(work, 'update-index', '--split-index')
    expect(await refusal()).toBe('the index is split (core.splitIndex)')
  })

  test('a sparse index', async () => {
    sandbox.git(work, 'sparse-checkout', 'set', '--sparse-index', 'a')
    expect(index(repository).toString('latin1')).toContain('sdir')
    expect(await refusal()).toBe('the index is sparse (index.sparse)')
  })

  test('an index that another git holds', async () => {
    writeFileSync(`${repository.indexFile}.lock`, 'held')
    expect(await refusal()).toBe(`another git is at work here (${repository.indexFile}.lock exists)`)
    expect(readFileSync(`${repository.indexFile}.lock`, 'utf8')).toBe('held')
  })

  test('no index', async () => {
    rmSync(repository.indexFile)
    expect(await refusal()).toBe('there is no index')
  })

  test.each([
    ['cut short', (bytes: Buffer) => bytes.subarray(0, 60)],
    ['empty', () => Buffer.alloc(0)],
    [
      'a flipped bit',
      (bytes: Buffer) => {
        bytes[70] = (bytes[70] as number) ^ 1
        return bytes
      },
    ],
    [
      'too many entries',
      (bytes: Buffer) => {
        bytes.writeUInt32BE(2 ** 32 - 1, 8)
        return bytes
      },
    ],
    [
      'an extension longer than the file',
      (bytes: Buffer) => {
        bytes.writeUInt32BE(2 ** 32 - 1, bytes.lastIndexOf('TREE') + 4)
        return bytes
      },
    ],
  ])('a damaged index: %s', async (_, damage) => {
    writeFileSync(repository.indexFile, damage(index(repository)))
    expect(await refusal()).toMatch(/^the index is damaged/)
    expect(existsSync(`${repository.indexFile}.lock`)).toBe(false)
  })

  test('an extension or a version of the future', async () => {
    const bytes = index(repository)
    bytes.write('QXYZ', bytes.lastIndexOf('TREE'), 'latin1')
    writeFileSync(repository.indexFile, bytes)
    expect(await refusal()).toBe('the index has an extension that is unknown here (QXYZ)')
    bytes.writeUInt32BE(5, 4)
    writeFileSync(repository.indexFile, bytes)
    expect(await refusal()).toBe('the index has version 5, unknown here')
  })
})

test('waits for another git, and then sees what it did', async () => {
  const work = plain()
  const repository = await sandbox.open(work)
  const files = rewritten(work, ['a.txt', 'a/b'])
  const lock = `${repository.indexFile}.lock`
  writeFileSync(lock, '')
  const update = recordStats(repository, files)
  // The other git finishes with an index in which one of the files is another.
  rmSync(lock)
  sandbox.stage(work, 'a/b', 'other')
  expect(await update).toEqual({ recorded: 1, refused: undefined, skipped: ['a/b'] })
})

test('keeps the permissions of a shared index, and writes through a linked one', async () => {
  const work = plain()
  const repository = await sandbox.open(work)
  chmodSync(repository.indexFile, 0o664)
  const elsewhere = sandbox.path('elsewhere')
  renameSync(repository.indexFile, elsewhere)
  symlinkSync(elsewhere, repository.indexFile)
  expect((await recordStats(repository, rewritten(work, ['a.txt']))).recorded).toBe(1)
  expect(lstatSync(repository.indexFile).isSymbolicLink()).toBe(true)
  expect(statSync(elsewhere).mode & 0o777).toBe(0o664)
  expect(doubted(work)).toEqual([])
})

test('sizes beyond 32 bits are cut as git cuts them', async () => {
  const work = plain()
  sandbox.run('truncate', ['-s', '4294967299', 'large'], { cwd: work })
  const blob = sandbox.git(work, 'hash-object', '-w', 'a.txt').trim()
  sandbox.git(work, 'update-index', '--add', '--cacheinfo', `100644,${blob},large`)
  const past = Math.floor(Date.now() / 1000) - 10
  utimesSync(join(work, 'large'), past, past)
  const repository = await sandbox.open(work)
  const stat = lstatSync(join(work, 'large'), { bigint: true })
  expect((await recordStats(repository, [{ path: 'large', blob, stat }])).recorded).toBe(1)
  expect(doubted(work)).toEqual([])
})
