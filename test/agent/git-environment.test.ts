import { execFileSync } from 'node:child_process'
import { mkdirSync, mkdtempSync, realpathSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import {
  GitEnvironment,
  parseConfig,
  proxyFor,
  sharedMode,
  storageOfObjectPath,
} from '../../src/agent/git-environment.ts'

let folder: string
let env: NodeJS.ProcessEnv

beforeAll(() => {
  folder = realpathSync(mkdtempSync(join(tmpdir(), 'timone git-environment é ')))
  mkdirSync(join(folder, 'home'))
  env = {
    PATH: process.env.PATH,
    HOME: join(folder, 'home'),
    GIT_CONFIG_NOSYSTEM: '1',
    GIT_AUTHOR_NAME: 'Ada',
    GIT_AUTHOR_EMAIL: 'ada@example.org',
    GIT_COMMITTER_NAME: 'Ada',
    GIT_COMMITTER_EMAIL: 'ada@example.org',
  }
  git('.', 'init', '-q', 'work')
  git('work', 'commit', '-q', '--allow-empty', '-m', 'first')
  mkdirSync(join(folder, 'work/below/deep'), { recursive: true })
  git('work', 'worktree', 'add', '-q', join(folder, 'linked'))
  git('.', 'clone', '-q', '--bare', 'work', 'bare.git')
  git('.', 'init', '-q', 'outer')
  git(
    'outer',
    '-c',
    'protocol.file.allow=always',
    'submodule',
    '--quiet',
    'add',
    join(folder, 'bare.git'),
    'inner',
  )
})
afterAll(() => rmSync(folder, { recursive: true, force: true }))

function git(cwd: string, ...args: string[]): string {
  return execFileSync('git', args, { cwd: join(folder, cwd), env, encoding: 'utf8' })
}

const at = (cwd: string, more: NodeJS.ProcessEnv = {}): GitEnvironment =>
  new GitEnvironment({ cwd: join(folder, cwd), env: { ...env, ...more } })

describe('lfsStorage', () => {
  test.each([
    ['the root of a work tree', 'work', 'work/.git/lfs'],
    ['a folder below it', 'work/below/deep', 'work/.git/lfs'],
    ['the git folder itself', 'work/.git', 'work/.git/lfs'],
    ['a linked work tree: the common folder', 'linked', 'work/.git/lfs'],
    ['a submodule', 'outer/inner', 'outer/.git/modules/inner/lfs'],
    ['a bare repository', 'bare.git', 'bare.git/lfs'],
  ])('in %s', async (_where, cwd, storage) => {
    expect(await at(cwd).lfsStorage()).toBe(join(folder, storage))
  })

  test('is what git-lfs itself says', async () => {
    for (const cwd of ['work', 'work/below', 'linked', 'outer/inner', 'bare.git']) {
      const said = /^LocalMediaDir=(.*)$/m.exec(git(cwd, 'lfs', 'env'))?.[1]
      expect(join(await at(cwd).lfsStorage(), 'objects')).toBe(said)
    }
  })

  test('with GIT_DIR, absolute and relative', async () => {
    expect(await at('home', { GIT_DIR: join(folder, 'work/.git') }).lfsStorage()).toBe(
      join(folder, 'work/.git/lfs'),
    )
    expect(await at('work/below', { GIT_DIR: '../.git' }).lfsStorage()).toBe(join(folder, 'work/.git/lfs'))
  })

  test('with lfs.storage: absolute as it is, relative to the common git folder, empty like none', async () => {
    const storage = (value: string) => ({ GIT_CONFIG_PARAMETERS: `'lfs.storage=${value}'` })
    for (const cwd of ['work', 'work/below', 'linked']) {
      expect(await at(cwd, storage('/somewhere/else')).lfsStorage()).toBe('/somewhere/else')
      expect(await at(cwd, storage('a store')).lfsStorage()).toBe(join(folder, 'work/.git/a store'))
      expect(await at(cwd, storage('')).lfsStorage()).toBe(join(folder, 'work/.git/lfs'))
    }
  })

  test('outside a repository: an error of git’s words', async () => {
    await expect(at('home').lfsStorage()).rejects.toMatchObject({
      code: 'config',
      message: expect.stringMatching(/git rev-parse failed: fatal: not a git repository/),
    })
  })
})

describe('git', () => {
  test('that is missing is said', async () => {
    await expect(at('work', { PATH: join(folder, 'home') }).config()).rejects.toMatchObject({
      code: 'config',
      message: 'git was not found on PATH: install git, or mend PATH',
    })
  })

  test('configuration that is broken is told with the line', async () => {
    mkdirSync(join(folder, 'broken'))
    writeFileSync(join(folder, 'broken/.gitconfig'), '[core\n')
    await expect(at('work', { HOME: join(folder, 'broken') }).config()).rejects.toMatchObject({
      code: 'config',
      message: expect.stringMatching(/bad config/),
    })
  })

  test('is asked for the configuration once', async () => {
    const one = at('work')
    expect(one.config()).toBe(one.config())
  })

  test('no HOME is no error', async () => {
    const none: NodeJS.ProcessEnv = { ...env }
    delete none.HOME
    const subject = new GitEnvironment({ cwd: join(folder, 'work'), env: none })
    expect(await subject.lfsStorage()).toBe(join(folder, 'work/.git/lfs'))
  })

  test('values of -c and of several lines come through', async () => {
    const config = await at('work', {
      GIT_CONFIG_PARAMETERS: "'timone.partSize=8m' 'a.B.c=x\ny'",
    }).config()
    expect(config.get('timone.partsize')).toBe('8m')
    expect(config.get('a.B.c')).toBe('x\ny')
  })
})

describe('connectionSettings', () => {
  const settings = (origin: string, pairs: string[], more: NodeJS.ProcessEnv = {}) =>
    at('work', {
      GIT_CONFIG_PARAMETERS: pairs.map((pair) => `'${pair}'`).join(' '),
      ...more,
    }).connectionSettings(new URL(origin))

  test('http.<url>.* goes before http.*, for its host only', async () => {
    const pairs = [
      'http.proxy=http://general:1',
      'http.https://special.example.proxy=http://special:2',
      'http.https://special.example.sslVerify=false',
    ]
    expect(await settings('https://special.example/x', pairs)).toMatchObject({
      proxy: 'http://special:2',
      verify: false,
    })
    const other = await settings('https://other.example', pairs)
    expect(other.proxy).toBe('http://general:1')
    expect(other.verify).toBeUndefined()
  })

  test.each(['false', 'FALSE', 'no', 'off', '0'])(
    'http.sslVerify=%s accepts any certificate',
    async (value) => {
      expect((await settings('https://a.example', [`http.sslVerify=${value}`])).verify).toBe(false)
    },
  )
  test.each(['true', 'yes', 'on', '1'])('http.sslVerify=%s does not', async (value) => {
    expect((await settings('https://a.example', [`http.sslVerify=${value}`])).verify).toBeUndefined()
  })
  test('GIT_SSL_NO_VERIFY', async () => {
    expect((await settings('https://a.example', [], { GIT_SSL_NO_VERIFY: '1' })).verify).toBe(false)
    expect((await settings('https://a.example', [], { GIT_SSL_NO_VERIFY: '0' })).verify).toBeUndefined()
  })

  test('certificates and keys are read, ~ is the home folder', async () => {
    for (const name of ['ca', 'cert', 'key'])
      writeFileSync(join(folder, 'home', `${name}.pem`), `PEM of ${name}`)
    const read = await settings('https://a.example', [
      'http.sslCAInfo=~/ca.pem',
      'http.sslCert=~/cert.pem',
      `http.sslKey=${join(folder, 'home/key.pem')}`,
    ])
    expect(read.ca?.[0]).toBe('PEM of ca')
    expect(read).toMatchObject({ cert: 'PEM of cert', key: 'PEM of key' })
    const environment = await settings('https://a.example', ['http.sslCAInfo=/nowhere'], {
      GIT_SSL_CAINFO: join(folder, 'home/cert.pem'),
    })
    expect(environment.ca?.[0]).toBe('PEM of cert')
  })

  test('a certificate that cannot be read is named, with its setting', async () => {
    await expect(settings('https://a.example', ['http.sslCAInfo=/nowhere/ca.pem'])).rejects.toMatchObject({
      code: 'tls',
      message: expect.stringMatching(/\/nowhere\/ca\.pem.*http\.sslCAInfo.*ENOENT/),
    })
  })

  test('without TLS no certificates are looked at', async () => {
    expect(await settings('http://a.example', ['http.sslCAInfo=/nowhere'])).toEqual({})
  })
})

test('parseConfig: the last value counts, a key alone is true, values may hold = and newlines', () => {
  expect([...parseConfig('a.b\n1\0a.b\n2\0flag.on\0x.y\nk=v\nz\0empty.is\n\0')]).toEqual([
    ['a.b', '2'],
    ['flag.on', 'true'],
    ['x.y', 'k=v\nz'],
    ['empty.is', ''],
  ])
  expect([...parseConfig('')]).toEqual([])
})

test.each([
  [undefined, undefined],
  ['', undefined],
  ['umask', undefined],
  ['false', undefined],
  ['0', undefined],
  ['group', 0o660],
  ['true', 0o660],
  ['1', 0o660],
  ['GROUP', 0o660],
  ['all', 0o664],
  ['world', 0o664],
  ['everybody', 0o664],
  ['2', 0o664],
  ['0640', 0o640],
  ['0777', 0o666],
  ['0999', undefined],
  ['rubbish', undefined],
])('core.sharedRepository=%j', (value, mode) => {
  expect(sharedMode(value)).toBe(mode)
})

describe('proxyFor', () => {
  const cases: [string, string | undefined, NodeJS.ProcessEnv, string | undefined][] = [
    ['https://a.example', undefined, {}, undefined],
    ['https://a.example', undefined, { https_proxy: 'http://p:1' }, 'http://p:1'],
    ['https://a.example', undefined, { HTTPS_PROXY: 'http://p:1' }, 'http://p:1'],
    [
      'https://a.example',
      undefined,
      { https_proxy: 'http://low:1', HTTPS_PROXY: 'http://UP:1' },
      'http://low:1',
    ],
    ['https://a.example', undefined, { http_proxy: 'http://p:1' }, undefined],
    ['http://a.example', undefined, { http_proxy: 'http://p:1' }, 'http://p:1'],
    ['http://a.example', undefined, { HTTP_PROXY: 'http://p:1' }, 'http://p:1'],
    ['http://a.example', undefined, { https_proxy: 'http://p:1' }, undefined],
    ['http://a.example', undefined, { all_proxy: 'http://p:1' }, 'http://p:1'],
    ['https://a.example', undefined, { ALL_PROXY: 'http://p:1', https_proxy: 'http://q:1' }, 'http://q:1'],
    ['https://a.example', 'http://git:1', { https_proxy: 'http://p:1' }, 'http://git:1'],
    ['https://a.example', '', { https_proxy: 'http://p:1' }, undefined],
    ['https://a.example', 'host:3128', {}, 'http://host:3128'],
    ['https://a.example', 'http://u%40x:p%3Aw@host:1', {}, 'http://u%40x:p%3Aw@host:1'],
    ['https://a.example', 'https://secure:1', {}, 'https://secure:1'],
    ['https://a.example', 'http://p:1', { no_proxy: 'a.example' }, undefined],
    ['https://a.example', 'http://p:1', { NO_PROXY: 'b.example, a.example' }, undefined],
    ['https://a.example', 'http://p:1', { no_proxy: '*' }, undefined],
    ['https://a.example', 'http://p:1', { no_proxy: '.example' }, undefined],
    ['https://a.example', 'http://p:1', { no_proxy: 'example' }, undefined],
    ['https://a.example', 'http://p:1', { no_proxy: '*.example' }, undefined],
    ['https://A.Example', 'http://p:1', { no_proxy: 'a.EXAMPLE' }, undefined],
    ['https://nota.example', 'http://p:1', { no_proxy: 'a.example' }, 'http://p:1'],
    ['https://a.example.org', 'http://p:1', { no_proxy: 'a.example' }, 'http://p:1'],
    ['https://a.example:8443', 'http://p:1', { no_proxy: 'a.example:8443' }, undefined],
    ['https://a.example', 'http://p:1', { no_proxy: 'a.example:443' }, undefined],
    ['http://a.example', 'http://p:1', { no_proxy: 'a.example:443' }, 'http://p:1'],
    ['http://127.0.0.1:8000', 'http://p:1', { no_proxy: '127.0.0.1,localhost' }, undefined],
    ['http://[::1]:8000', 'http://p:1', { no_proxy: '::1' }, undefined],
    ['http://[::1]:8000', 'http://p:1', { no_proxy: '[::1]:8000' }, undefined],
    ['http://[::1]:8000', 'http://p:1', { no_proxy: '[::1]:9000' }, 'http://p:1'],
    ['http://[::1]:8000', 'http://p:1', { no_proxy: '[::1]' }, undefined],
  ]
  test.each(cases)('%s with http.proxy %j and %j', (origin, configured, environment, proxy) => {
    expect(proxyFor(new URL(origin), configured, environment)).toBe(proxy)
  })

  test.each(['socks5://host:1', 'ftp://host', 'http://'])('%s is told, without its password', (proxy) => {
    const secret = proxy.replace('://', '://user:secret@')
    expect(() => proxyFor(new URL('https://a.example'), secret, {})).toThrow(
      expect.objectContaining({ code: 'proxy', message: expect.not.stringContaining('secret') }),
    )
  })
})

describe('storageOfObjectPath', () => {
  const oid = `abcd${'0'.repeat(60)}`
  test.each([
    [`/w/.git/lfs/objects/ab/cd/${oid}`, '/w/.git/lfs'],
    [`/a store/objects/ab/cd/${oid}`, '/a store'],
    [`/objects/ab/cd/${oid}`, '/'],
    [`lfs/objects/ab/cd/${oid}`, 'lfs'],
    [`/w/.git/lfs/objects/cd/ab/${oid}`, undefined],
    [`/w/.git/lfs/things/ab/cd/${oid}`, undefined],
    [`/w/${oid}`, undefined],
    ['/dev/null', undefined],
    ['', undefined],
  ])('%s', (path, storage) => {
    expect(storageOfObjectPath(path, oid)).toBe(storage)
  })
})
