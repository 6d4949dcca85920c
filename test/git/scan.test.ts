import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { pathFilter } from '../../src/git/path-filter.ts'
import { printPointer } from '../../src/git/pointer.ts'
import { recentPointers, recentSettings } from '../../src/git/recent.ts'
import type { LocalRepository } from '../../src/git/repository.ts'
import {
  type PointerEntry,
  pointersBetween,
  pointersOfAll,
  pointersOfIndex,
  pointersOfTree,
} from '../../src/git/scan.ts'
import { gitLfsVersions } from '../helpers/git-lfs.ts'
import { GitSandbox, oidOf } from '../helpers/git-sandbox.ts'

let sandbox: GitSandbox
beforeEach(() => {
  sandbox = new GitSandbox()
})
afterEach(() => sandbox.remove())

async function all(entries: AsyncIterable<PointerEntry>): Promise<PointerEntry[]> {
  const found: PointerEntry[] = []
  for await (const entry of entries) found.push(entry)
  return found
}
const paths = async (entries: AsyncIterable<PointerEntry>) =>
  (await all(entries)).map(({ path }) => path).sort()
const oids = async (entries: AsyncIterable<PointerEntry>) =>
  [...new Set((await all(entries)).map(({ oid }) => oid))].sort()
const oidsOf = (...contents: string[]) => contents.map(oidOf).sort()

const NAMES = [
  'a.bin',
  'with space.bin',
  `q'uo"te.bin`,
  'tab\tand\nline feed.bin',
  'é/日本 語.bin',
  '-dash.bin',
  '*[x].bin',
  'back\\slash.bin',
]

describe('a tree', () => {
  test('gives each pointer with its path, object, size and mode, whatever the names', async () => {
    const work = sandbox.repository('work', Object.fromEntries(NAMES.map((name) => [name, `in ${name}`])))
    sandbox.write(work, 'run.bin', 'executable', 0o755)
    sandbox.write(work, 'plain.txt', 'no pointer')
    sandbox.write(
      work,
      'about.txt',
      'version https://git-lfs.github.com/spec/v1 is what a pointer begins with',
    )
    sandbox.write(work, 'large.txt', `${printPointer({ oid: oidOf('x'), size: 5 })}${'\n'.repeat(1000)}`)
    sandbox.run('ln', ['-s', 'a.bin', 'link.bin'], { cwd: work })
    sandbox.commit(work, 'more')
    const repository = await sandbox.open(work)
    const entries = await all(pointersOfTree(repository, 'HEAD'))
    expect(entries.map(({ path }) => path).sort()).toEqual([...NAMES, 'run.bin'].sort())
    expect(entries.find(({ path }) => path === 'run.bin')).toEqual({
      path: 'run.bin',
      oid: oidOf('executable'),
      size: 10,
      mode: 0o100755,
      unusual: undefined,
      blob: sandbox.git(work, 'rev-parse', 'HEAD:run.bin').trim(),
    })
    expect(await all(pointersOfIndex(repository))).toEqual(entries)
    const listed = sandbox.git(work, '-c', 'core.quotePath=false', 'lfs', 'ls-files', '-l')
    for (const { oid, path } of entries) expect(listed).toContain(`${oid} * ${path}`)
  })

  test('is that of the root, from any folder, bare repositories and other work trees included', async () => {
    const work = sandbox.repository('work', { 'a.bin': 'a', 'sub/b.bin': 'b' })
    expect(await paths(pointersOfTree(await sandbox.open(join(work, 'sub')), 'HEAD'))).toEqual([
      'a.bin',
      'sub/b.bin',
    ])
    expect(await paths(pointersOfIndex(await sandbox.open(join(work, 'sub'))))).toEqual([
      'a.bin',
      'sub/b.bin',
    ])
    sandbox.git(sandbox.folder, 'clone', '-q', '--bare', work, 'bare')
    const bare = await sandbox.open(sandbox.path('bare'))
    expect(bare).toMatchObject({ bare: true, workTree: undefined, gitDir: sandbox.path('bare') })
    expect(await paths(pointersOfTree(bare, 'main'))).toEqual(['a.bin', 'sub/b.bin'])
    expect(
      await paths(pointersOfTree(await sandbox.open('/', { GIT_DIR: join(work, '.git') }), 'HEAD')),
    ).toEqual(['a.bin', 'sub/b.bin'])
  })

  test('takes the filter, and says which name is none', async () => {
    const work = sandbox.repository('work', { 'a.bin': 'a', 'sub/b.bin': 'b' })
    const repository = await sandbox.open(work)
    expect(await paths(pointersOfTree(repository, 'main', pathFilter({ include: 'sub' })))).toEqual([
      'sub/b.bin',
    ])
    for (const name of ['nope', '--help', 'HEAD\nHEAD', '', 'a..b', '^HEAD']) {
      await expect(paths(pointersOfTree(repository, name))).rejects.toThrow(/is no branch, tag or commit/)
    }
  })

  test('says which pointers are unusual', async () => {
    const work = sandbox.repository(
      'work',
      {},
      { attributes: '* filter=lfs -text\n*.txt text\n*.id ident\n.gitattributes !filter\n' },
    )
    const pointer = printPointer({ oid: oidOf('b'), size: 1 })
    sandbox.stage(work, 'ordinary', pointer)
    sandbox.stage(work, 'crlf', pointer.replaceAll('\n', '\r\n'))
    sandbox.stage(work, 'zero', pointer.replace('size 1', 'size 0'))
    sandbox.stage(work, 'extended', pointer.replace('\n', `\next-0-foo sha256:${oidOf('c')}\n`))
    sandbox.stage(work, 'text.txt', pointer)
    sandbox.stage(work, 'ident.id', pointer)
    sandbox.stage(work, 'link', pointer, '120000')
    const repository = await sandbox.open(work)
    const entries = await all(pointersOfIndex(repository))
    expect(Object.fromEntries(entries.map(({ path, unusual }) => [path, unusual]))).toEqual({
      ordinary: undefined,
      crlf: 'its pointer is not written as git-lfs writes pointers',
      zero: 'its pointer is not written as git-lfs writes pointers',
      extended: 'its pointer was made with git-lfs extensions',
      'text.txt': 'git converts it besides (text)',
      'ident.id': 'git converts it besides (ident)',
    })
  })
})

describe('the index', () => {
  test('gives only what has filter=lfs, is in the sparse checkout, and is not being merged', async () => {
    const work = sandbox.repository('work', { 'in/a.bin': 'a', 'out/b.bin': 'b', 'both.bin': 'c' })
    sandbox.stage(work, 'in/pointer.txt', printPointer({ oid: oidOf('t'), size: 1 }))
    sandbox.git(work, 'commit', '-qm', 'a pointer that is none')
    sandbox.git(work, 'checkout', '-qb', 'side')
    sandbox.write(work, 'both.bin', 'theirs')
    sandbox.commit(work, 'theirs')
    sandbox.git(work, 'checkout', '-q', 'main')
    sandbox.write(work, 'both.bin', 'ours')
    sandbox.commit(work, 'ours')
    sandbox.git(work, 'checkout', '-q', '--', '.')
    expect(() => sandbox.git(work, 'merge', 'side')).toThrow()
    const repository = await sandbox.open(work)
    expect(await paths(pointersOfIndex(repository))).toEqual(['in/a.bin', 'out/b.bin'])
    sandbox.git(work, 'merge', '--abort')
    sandbox.git(work, 'sparse-checkout', 'set', 'in')
    expect(await paths(pointersOfIndex(repository))).toEqual(['both.bin', 'in/a.bin'])
    sandbox.git(work, 'sparse-checkout', 'set', '--sparse-index', 'in')
    expect(await paths(pointersOfIndex(repository))).toEqual(['both.bin', 'in/a.bin'])
    // As git-lfs: a fetch of the tree takes all of it.
    expect(await paths(pointersOfTree(repository, 'HEAD'))).toEqual([
      'both.bin',
      'in/a.bin',
      'in/pointer.txt',
      'out/b.bin',
    ])
  })

  test('does not read large files that were committed past the filter', async () => {
    const work = sandbox.repository('work', { 'a.bin': 'a' })
    sandbox.stage(work, 'raw.bin', Buffer.alloc(2 ** 20))
    expect(await paths(pointersOfIndex(await sandbox.open(work)))).toEqual(['a.bin'])
  })

  test('is empty where there is none', async () => {
    sandbox.git(sandbox.folder, 'init', '-q', 'work')
    expect(await paths(pointersOfIndex(await sandbox.open(sandbox.path('work'))))).toEqual([])
  })
})

describe('history', () => {
  test('between gives what a push brings, as git lfs push finds it', async () => {
    const origin = sandbox.path('origin.git')
    sandbox.git(sandbox.folder, 'init', '-q', '--bare', origin)
    const work = sandbox.repository('work', { 'a.bin': 'one' })
    sandbox.git(work, 'remote', 'add', 'origin', origin)
    sandbox.git(work, '-c', 'core.hooksPath=/dev/null', 'push', '-q', 'origin', 'main')
    for (const content of ['two', 'three']) {
      sandbox.write(work, 'a.bin', content)
      sandbox.commit(work, content)
    }
    sandbox.git(work, 'rm', '-q', 'a.bin')
    sandbox.write(work, 'b.bin', 'four')
    sandbox.commit(work, 'four')
    const repository = await sandbox.open(work)
    const range = { include: ['HEAD'], notOnRemote: 'origin' }
    expect(await oids(pointersBetween(repository, range))).toEqual(oidsOf('two', 'three', 'four'))
    const dry = sandbox.git(work, 'lfs', 'push', '--dry-run', 'origin', 'main')
    for (const oid of await oids(pointersBetween(repository, range))) expect(dry).toContain(oid)
    expect(dry.trim().split('\n')).toHaveLength(3)
    expect(await oids(pointersBetween(repository, { include: ['HEAD'] }))).toEqual(
      oidsOf('one', 'two', 'three', 'four'),
    )
    expect(await oids(pointersBetween(repository, { include: ['main'], exclude: ['main~1'] }))).toEqual(
      oidsOf('four'),
    )
    const unknown = 'f'.repeat(40)
    expect(
      await oids(
        pointersBetween(repository, { include: ['main~2'], exclude: [unknown], notOnRemote: 'origin' }),
      ),
    ).toEqual(oidsOf('two'))
    await expect(oids(pointersBetween(repository, { include: ['nope'] }))).rejects.toThrow(
      /"nope" is no branch/,
    )
  })

  test('all gives what any ref reaches', async () => {
    const work = sandbox.repository('work', { 'a.bin': 'one' })
    sandbox.write(work, 'a.bin', 'two')
    sandbox.commit(work, 'two')
    sandbox.git(work, 'checkout', '-q', '--detach')
    sandbox.write(work, 'a.bin', 'three')
    sandbox.commit(work, 'three')
    sandbox.git(work, 'tag', 'three')
    sandbox.git(work, 'checkout', '-q', 'main')
    const repository = await sandbox.open(work)
    expect(await oids(pointersOfAll(repository))).toEqual(oidsOf('one', 'two', 'three'))
    expect(await oids(pointersOfAll(repository, ['main']))).toEqual(oidsOf('one', 'two'))
    expect(await oids(pointersOfAll(repository, []))).toHaveLength(3)
  })
})

describe.each(gitLfsVersions())('recent, as $name finds it', (gitLfs) => {
  const day = (ago: number) => {
    const date = new Date(Date.now() - ago * 24 * 3600 * 1000).toISOString()
    return { GIT_COMMITTER_DATE: date, GIT_AUTHOR_DATE: date }
  }

  test.skipIf(gitLfs.missing !== undefined)('by refs and by commits', async () => {
    const sandbox = new GitSandbox(gitLfs)
    try {
      const work = sandbox.repository('work', {})
      const put = (ago: number, files: Record<string, string | undefined>) => {
        for (const [path, content] of Object.entries(files)) {
          if (content === undefined) sandbox.git(work, 'rm', '-q', '-f', path)
          else sandbox.write(work, path, content)
        }
        sandbox.git(work, 'add', '-A')
        sandbox.run('git', ['commit', '-q', '-m', 'x'], { cwd: work, env: day(ago) })
      }
      put(30, { 'a.bin': 'a30', 'b.bin': 'b30' })
      put(20, { 'a.bin': 'a20', 'c.bin': 'c20' })
      sandbox.git(work, 'branch', 'old')
      put(12, { 'a.bin': 'a12' })
      put(6, { 'a.bin': 'a6', 'b.bin': 'b6', 'c.bin': undefined })
      sandbox.git(work, 'checkout', '-q', '-b', 'side', 'HEAD~1')
      put(5, { 'a.bin': 'side5', 'd.bin': 'd5' })
      put(3, { 'a.bin': 'side3' })
      sandbox.git(work, 'tag', 'light')
      sandbox.git(work, 'checkout', '-q', '-b', 'far', 'old')
      put(4, { 'a.bin': 'far4' })
      sandbox.git(work, 'update-ref', 'refs/remotes/origin/far', 'far')
      sandbox.git(work, 'update-ref', 'refs/remotes/other/far', 'far~1')
      sandbox.git(work, 'checkout', '-q', 'main')
      sandbox.git(work, 'branch', '-qD', 'far')
      put(1, { 'a.bin': 'a1' })
      sandbox.git(work, 'remote', 'add', 'origin', 'http://127.0.0.1:9/nowhere')
      // Everything that git-lfs would fetch is listed by its dry run only when it is not here.
      sandbox.run('rm', ['-rf', join(work, '.git/lfs/objects')], { cwd: work })

      for (const settings of [
        { refsdays: 7, commitsdays: 0, remoterefs: true },
        { refsdays: 7, commitsdays: 0, remoterefs: false },
        { refsdays: 0, commitsdays: 7, remoterefs: true },
        { refsdays: 7, commitsdays: 7, remoterefs: true },
        { refsdays: 2, commitsdays: 3, remoterefs: true },
        { refsdays: 60, commitsdays: 60, remoterefs: true },
      ]) {
        sandbox.git(work, 'config', 'lfs.fetchrecentrefsdays', `${settings.refsdays}`)
        sandbox.git(work, 'config', 'lfs.fetchrecentcommitsdays', `${settings.commitsdays}`)
        sandbox.git(work, 'config', 'lfs.fetchrecentremoterefs', `${settings.remoterefs}`)
        const repository = await sandbox.open(work)
        const inForce = await recentSettings(repository)
        expect(inForce).toEqual({
          refsDays: settings.refsdays,
          commitsDays: settings.commitsdays,
          remoteRefs: settings.remoterefs,
          always: false,
        })
        const ours = new Set([
          ...(await oids(pointersOfTree(repository, 'main'))),
          ...(await oids(
            recentPointers(repository, { refs: ['main'], remote: 'origin', settings: inForce }),
          )),
        ])
        const theirs = fetchedByGitLfs(sandbox, work)
        expect({ settings, oids: [...ours].sort() }).toEqual({ settings, oids: theirs })
      }
    } finally {
      sandbox.remove()
    }
  })
})

/** The objects that `git lfs fetch --recent` asks its server for, from the trace of its try to reach one. */
function fetchedByGitLfs(sandbox: GitSandbox, work: string): string[] {
  const log = sandbox.path('fetch.trace')
  sandbox.run(
    'sh',
    [
      '-c',
      `rm -f ${log}; GIT_TRACE=${log} git -c lfs.transfer.maxretries=0 lfs fetch --recent origin main 2>/dev/null; true`,
    ],
    { cwd: work },
  )
  const trace = sandbox.run('cat', [log], { cwd: work })
  return [
    ...new Set([...trace.matchAll(/fetch \S+ \[([0-9a-f]{64})\]/g)].map(([, oid]) => oid as string)),
  ].sort()
}

describe('a partial clone', () => {
  let origin: string
  let work: string
  beforeEach(() => {
    origin = sandbox.repository('origin', {
      'a.bin': 'one',
      'sub/b.bin': 'b',
      'plain.txt': 'plain',
      'other.dat': 'd',
    })
    sandbox.git(origin, 'config', 'uploadpack.allowFilter', 'true')
    sandbox.git(origin, 'config', 'uploadpack.allowAnySHA1InWant', 'true')
    sandbox.write(origin, 'a.bin', 'two')
    sandbox.write(origin, 'plain.txt', 'plain text')
    sandbox.commit(origin, 'two')
    work = sandbox.clone(`file://${origin}`, 'work', '--filter=blob:none')
  })

  /** How often git connected to the origin while `action` ran. */
  async function connections(action: (repository: LocalRepository) => Promise<unknown>): Promise<number> {
    const log = sandbox.path('connections')
    writeFileSync(log, '')
    await action(await sandbox.open(work, { GIT_TRACE: log }))
    return sandbox
      .run('cat', [log], { cwd: work })
      .split('\n')
      .filter(
        (line) =>
          /upload-pack/.test(line) &&
          /run_command: unset|run_command: .*upload-pack|exec: .*upload-pack|built-in: git upload-pack/.test(
            line,
          ),
      ).length
  }

  test('reads what is checked out without asking anybody', async () => {
    expect(
      await connections(async (repository) => {
        expect(await oids(pointersOfIndex(repository))).toEqual(oidsOf('two', 'b'))
        expect(await oids(pointersOfTree(repository, 'HEAD'))).toEqual(oidsOf('two', 'b'))
      }),
    ).toBe(0)
  })

  test('fetches the pointers of another tree at once, and nothing but pointers', async () => {
    const repository = await sandbox.open(work)
    const plain = sandbox.git(work, 'rev-parse', 'HEAD~1:plain.txt').trim()
    expect(
      await connections(async (repository) => {
        expect(await oids(pointersOfTree(repository, 'HEAD~1'))).toEqual(oidsOf('one', 'b'))
      }),
    ).toBeGreaterThan(0)
    const missing = (await repository.git(['rev-list', '--objects', '--missing=print', '--all'])).toString()
    expect(missing).toContain(`?${plain}`)
    expect(
      await connections(async (repository) => {
        expect(await oids(pointersOfTree(repository, 'HEAD~1'))).toEqual(oidsOf('one', 'b'))
      }),
    ).toBe(0)
  })

  test('fetches history at once', async () => {
    const once = await connections(async (repository) => {
      expect(await oids(pointersOfAll(repository))).toEqual(oidsOf('one', 'two', 'b'))
    })
    expect(once).toBeGreaterThan(0)
    expect(await connections((repository) => oids(pointersOfAll(repository)))).toBe(0)
  })

  test('sees what is new here without asking anybody', async () => {
    sandbox.write(work, 'a.bin', 'three')
    sandbox.commit(work, 'three')
    expect(
      await connections(async (repository) => {
        expect(await oids(pointersBetween(repository, { include: ['HEAD'], notOnRemote: 'origin' }))).toEqual(
          oidsOf('three'),
        )
      }),
    ).toBe(0)
  })
})

test('memory stays flat over 50 000 pointers in 60 000 files', async () => {
  const work = sandbox.repository('work', {})
  const lines: string[] = []
  for (let index = 0; index < 60_000; index++) {
    const text =
      index % 6 === 5 ? `plain ${index}` : printPointer({ oid: oidOf(`${index}`), size: index + 1 })
    lines.push(`blob\nmark :${index + 1}\ndata ${Buffer.byteLength(text)}\n${text}\n`)
  }
  lines.push('commit refs/heads/many\ncommitter Ann <ann@example.org> 1 +0000\ndata 4\nmany\n')
  lines.push('M 644 inline .gitattributes\ndata 22\n*.bin filter=lfs -text\n')
  for (let index = 0; index < 60_000; index++)
    lines.push(`M 644 :${index + 1} folder${index % 100}/${index}.bin\n`)
  sandbox.run('git', ['fast-import', '--quiet'], { cwd: work, input: lines.join('') })
  sandbox.git(work, 'read-tree', 'many')
  const repository = await sandbox.open(work)
  for (const scan of [
    () => pointersOfTree(repository, 'many'),
    () => pointersOfIndex(repository),
    () => pointersOfAll(repository),
  ]) {
    const seen = new Set<string>()
    let peak = 0
    for await (const { oid } of scan()) {
      seen.add(oid)
      if (seen.size % 1000 === 0) peak = Math.max(peak, process.memoryUsage().arrayBuffers)
    }
    expect(seen.size).toBe(50_000)
    expect(peak).toBeLessThan(32 * 2 ** 20)
  }
})
