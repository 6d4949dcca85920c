import { spawnSync } from 'node:child_process'
import { createHash, randomBytes } from 'node:crypto'
import { mkdirSync, symlinkSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { connect } from '../../src/database/connect.ts'
import { OpaqueTokens } from '../../src/identity/opaque-tokens.ts'
import { Users } from '../../src/identity/users.ts'
import { etagOf } from '../../src/remotestorage/change.ts'
import { Spaces } from '../../src/remotestorage/spaces.ts'
import { filesIn } from '../server/harness.ts'
import { makeSandbox, type Sandbox } from './run-cli.ts'

let sandbox: Sandbox
let old: string
beforeEach(async () => {
  sandbox = await makeSandbox()
  sandbox.env.TIMONE_REMOTESTORAGE_ROOT = path.join(sandbox.cwd, 'spaces')
  old = path.join(sandbox.cwd, 'old rs')
  mkdirSync(old)
})
afterEach(() => sandbox.remove())

type Files = Record<string, string | Buffer>

/** A repository as Dulwich made it: commits without an address and without a line feed, and a work tree beside. */
class OldRepository {
  readonly folder: string
  #parent: string | undefined
  #time: number

  constructor(module: string, time: number) {
    this.folder = path.join(old, module)
    this.#time = time
    spawnSync('git', ['init', '--quiet', '--initial-branch=master', this.folder])
  }

  git(args: string[], input: string | Buffer = ''): string {
    const { stdout, stderr, status } = spawnSync('git', ['-C', this.folder, ...args], { input })
    expect([stderr.toString(), status]).toEqual(['', 0])
    return stdout.toString().trim()
  }

  object(type: string, content: Buffer): string {
    return this.git(['hash-object', '-t', type, '-w', '--literally', '--stdin'], content)
  }

  /** Written entry by entry: git itself would refuse some of the names. */
  tree(files: Files, modes: Record<string, string> = {}): string {
    const below = new Map<string, Files>()
    const entries: { name: string; mode: string; oid: string }[] = []
    for (const [name, content] of Object.entries(files)) {
      const [first = '', ...rest] = name.split('/')
      if (rest.length > 0) below.set(first, { ...below.get(first), [rest.join('/')]: content })
      else {
        const oid = this.object('blob', Buffer.from(content as string))
        entries.push({ name: first, mode: modes[first] ?? '100644', oid })
      }
    }
    for (const [name, inside] of below) entries.push({ name, mode: '40000', oid: this.tree(inside, modes) })
    entries.sort((one, two) => (one.name < two.name ? -1 : 1))
    const bytes = entries.map(({ name, mode, oid }) =>
      Buffer.concat([
        Buffer.from(`${mode} `),
        Buffer.from(name, 'latin1'),
        Buffer.from([0]),
        Buffer.from(oid, 'hex'),
      ]),
    )
    return this.object('tree', Buffer.concat(bytes))
  }

  commit(files: Files, message: string, modes?: Record<string, string>): string {
    const who = `python-remotestorage ${this.#time} +0100`
    const parent = this.#parent === undefined ? '' : `parent ${this.#parent}\n`
    const text = `tree ${this.tree(files, modes)}\n${parent}author ${who}\ncommitter ${who}\n\n${message}`
    this.#time += 100
    this.#parent = this.object('commit', Buffer.from(text, 'latin1'))
    this.git(['update-ref', 'refs/heads/master', this.#parent])
    return this.#parent
  }
}

const run = (...args: string[]) =>
  sandbox.timone(['import', 'python-remotestorage', 'old rs', '--user', 'bob', '--data', 'data', ...args])

async function opened<T>(work: (of: { spaces: Spaces; id: number; tokens: OpaqueTokens }) => Promise<T>) {
  const database = await connect(`sqlite:${path.join(sandbox.cwd, 'data', 'timone.db')}`)
  const spaces = new Spaces({ root: path.join(sandbox.cwd, 'spaces') })
  try {
    const bob = await new Users(database.db).byLogin('bob')
    return await work({ spaces, id: bob?.id ?? 0, tokens: new OpaqueTokens(database.db) })
  } finally {
    spaces.close()
    await database.close()
  }
}

const bare = (id: number, ...args: string[]) => {
  const gitDir = path.join(sandbox.cwd, 'spaces', `${id}.git`)
  return spawnSync('git', ['--git-dir', gitDir, ...args], { encoding: 'utf8' })
}

test('takes over modules with their history, in the order of time, with their types', async () => {
  const photos = new OldRepository('photos', 1_350_000_000)
  photos.commit({ a: 'one' }, '+a image/png')
  photos.commit({ a: 'one', 'b/c': 'two' }, '+b/c text/plain; charset=utf-8')
  photos.commit({ a: 'one', 'b/c': 'two' }, '+a image/x-other')
  photos.commit({ a: 'three', 'b/c': 'two' }, 'edited by hand')
  const last = photos.commit({ a: 'three' }, '-b/c')
  const notes = new OldRepository('notes', 1_350_000_050)
  notes.commit({ n: 'x' }, '+n text/html')
  notes.commit({ n: 'x', m: 'y' }, '+m bad\ttype\u0001')
  new OldRepository('empty', 0)
  writeFileSync(path.join(old, 'auth.log'), 'GET /')
  mkdirSync(path.join(old, 'none'))

  const dry = await run('--json')
  const counts = { user: 'bob', new_user: true, modules: ['notes', 'photos'], commits: 7, changes: 7 }
  expect(JSON.parse(dry.stdout)).toMatchObject({ ...counts, large: 0, skipped: 0, dry_run: true })
  expect(dry.code).toBe(0)
  expect((await sandbox.timone(['user', 'list', '--data', 'data'])).stdout).not.toContain('bob')
  const done = await run('--json', '--yes')
  expect(JSON.parse(done.stdout)).toMatchObject({ ...counts, dry_run: false })

  await opened(async ({ spaces, id }) => {
    const subjects = bare(id, 'log', '--reverse', '--format=%s %at %ct %an').stdout.trim().split('\n')
    expect(subjects).toEqual([
      'PUT /photos/a 1350000000 1350000000 bob',
      'PUT /notes/n 1350000050 1350000050 bob',
      'PUT /photos/b/c 1350000100 1350000100 bob',
      'PUT /notes/m 1350000150 1350000150 bob',
      'PUT /photos/a 1350000200 1350000200 bob',
      'PUT /photos/a 1350000300 1350000300 bob',
      'DELETE /photos/b/c 1350000400 1350000400 bob',
    ])
    expect(bare(id, 'log', '-1', '--format=%(trailers:key=Imported,valueonly)').stdout.trim()).toBe(last)
    expect(bare(id, 'fsck', '--strict', '--full', '--no-progress')).toMatchObject({ stderr: '', status: 0 })
    const space = spaces.of(id)
    const now = await space.snapshot()
    expect(now.bytes).toBe(7)
    const type = async (...segments: string[]) => (await space.document(now, segments))?.facts
    expect(await type('photos', 'a')).toEqual({
      type: 'image/x-other',
      length: 5,
      modified: 1_350_000_300_000,
      large: false,
    })
    expect(await type('notes', 'n')).toMatchObject({ type: 'text/html' })
    expect(await type('notes', 'm')).toMatchObject({ type: 'application/octet-stream' })
    expect((await space.folder(now, ['photos', 'b'])).folder.isEmpty).toBe(true)
  })
  // Once only.
  expect(JSON.parse((await run('--json', '--yes')).stdout)).toMatchObject({
    ...{ new_user: false, modules: [], present: ['notes', 'photos'], commits: 0 },
  })
})

test('comes on top of what the user has, and times never run backwards', async () => {
  new OldRepository('photos', 1_350_000_000).commit({ a: 'one' }, '+a image/png')
  await run('--yes')
  new OldRepository('older', 1_200_000_000).commit({ a: 'zero' }, '+a image/gif')
  const { code, stdout } = await run('--yes')
  expect([code, stdout]).toEqual([0, expect.stringContaining('1 modules and 0 apps are here already')])
  await opened(async ({ id }) =>
    expect(bare(id, 'log', '--format=%at %ct').stdout).toBe('1200000000 1350000000\n1350000000 1350000000\n'),
  )
})

test('large documents become objects of Git LFS', async () => {
  const film = randomBytes(2 * 2 ** 20)
  const films = new OldRepository('films', 1_350_000_000)
  films.commit({ a: film }, '+a video/mp4')
  films.commit({ a: film, again: film }, '+again video/mp4')
  expect(JSON.parse((await run('--json')).stdout)).toMatchObject({ large: 1, changes: 2 })
  expect(JSON.parse((await run('--json', '--yes')).stdout)).toMatchObject({ large: 1 })
  await opened(async ({ spaces, id }) => {
    const space = spaces.of(id)
    const now = await space.snapshot()
    expect(now.bytes).toBe(2 * film.length)
    expect((await space.document(now, ['films', 'again']))?.facts).toMatchObject({ large: true })
    const sha256 = createHash('sha256').update(film).digest('hex')
    expect(bare(id, 'show', 'main:films/a').stdout).toContain(`oid sha256:${sha256}`)
    const stored = (await filesIn(path.join(sandbox.cwd, 'data'))).filter((file) => file.endsWith(sha256))
    expect(stored).toEqual([expect.stringContaining(`/~${id}/storage/`)])
  })
})

test('hostile names, links and settings lead nowhere', async () => {
  const bad = new OldRepository('mod', 1_350_000_000)
  const odd = {
    '../../escaped': 'x',
    '.git/config': 'x',
    '.gitattributes': '* filter=evil',
    'git~1/hooks': 'x',
    'bad\u00ff': 'x',
    [`long${'n'.repeat(300)}`]: 'x',
    link: '/etc/passwd',
    'good "*[name]': 'y',
  }
  bad.commit(odd, 'all at once', { link: '120000' })
  // What a client of the earlier system could write there itself.
  const mark = path.join(sandbox.cwd, 'ran')
  const config = `[core]\n\tfsmonitor = "touch '${mark}'"\n\trepositoryformatversion = 1\n[extensions]\n\tpartialClone = x\n[remote "x"]\n\turl = ext::touch '${mark}'\n[protocol]\n\tallow = always\n`
  writeFileSync(path.join(bad.folder, '.git', 'config'), config)
  symlinkSync(bad.folder, path.join(old, 'linked'))
  const { code, stdout, stderr } = await run('--yes', '--json')
  expect(code).toBe(1)
  expect(JSON.parse(stdout)).toMatchObject({ modules: ['mod'], changes: 4, skipped: 3 })
  expect(stderr).toContain('mod/../../escaped: the name cannot be kept')
  await opened(async ({ spaces, id }) => {
    expect(bare(id, 'ls-tree', '-r', '--name-only', '-z', 'main').stdout.split('\0').sort()).toEqual(
      [
        '',
        'mod/%.git/.gitattributes',
        'mod/%.git/config',
        'mod/%.gitattributes',
        'mod/%git~1/.gitattributes',
        'mod/%git~1/hooks',
        'mod/.gitattributes',
        'mod/good "*[name]',
      ].sort(),
    )
    expect(bare(id, 'fsck', '--strict', '--full', '--no-progress')).toMatchObject({ stderr: '', status: 0 })
    const space = spaces.of(id)
    const found = await space.document(await space.snapshot(), ['mod', '.gitattributes'])
    expect(found && etagOf(found.entry, found.facts)).toBeDefined()
  })
  expect((await filesIn(sandbox.cwd)).filter((file) => /escaped|ran$/.test(file))).toEqual([])
})

test('lines of .auth become consents that were given', async () => {
  const md5 = (text: string) => createHash('md5').update(`pepper${text}`).digest('hex')
  const lines = [
    'md5----------------------------> module perm',
    `${md5('apphttps://app.example/cb')} photos rw`,
    `${md5('two')} root r`,
    'nonsense',
    `${md5('three')} ../x rw`,
  ]
  writeFileSync(path.join(old, '.auth'), `${lines.join('\n')}\n`)
  const { code, stdout, stderr } = await run('--salt', 'pepper', '--json', '--yes')
  expect(JSON.parse(stdout)).toMatchObject({ apps: { imported: 2, present: 0 }, skipped: 2 })
  expect([code, stderr]).toEqual([1, expect.stringContaining('2 lines of .auth')])
  await opened(async ({ tokens, id }) => {
    const list = await tokens.list(id)
    expect(list.map(({ scopes }) => scopes[0]).sort()).toEqual(['storage:*:r', 'storage:photos:rw'])
    for (const { id: name, client } of list)
      for (const text of [name, client, client.split(' ')[1] ?? ''])
        expect(await tokens.find(text)).toBeUndefined()
  })
  const again = JSON.parse((await run('--salt', 'pepper', '--json', '--yes')).stdout)
  expect(again).toMatchObject({ apps: { imported: 0, present: 2 } })
})

test('says what is missing', async () => {
  const ask = (...args: string[]) => sandbox.timone(['import', 'python-remotestorage', ...args])
  expect(await ask('old rs')).toMatchObject({ code: 2, stderr: expect.stringContaining('--user') })
  expect(await ask('gone', '--user', 'bob')).toMatchObject({ code: 2 })
  delete sandbox.env.TIMONE_REMOTESTORAGE_ROOT
  expect(await run()).toMatchObject({ code: 2, stderr: expect.stringContaining('REMOTESTORAGE_ROOT') })
})
