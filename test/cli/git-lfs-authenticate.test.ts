import path from 'node:path'
import { decodeJwt } from 'jose'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { mayRead, mayWrite } from '../../src/auth/principal.ts'
import { Tokens } from '../../src/auth/tokens.ts'
import { connect } from '../../src/database/connect.ts'
import { Grants } from '../../src/identity/grants.ts'
import { Users } from '../../src/identity/users.ts'
import { makeSandbox, type Outcome, type Sandbox } from './run-cli.ts'

const SECRET = 'a secret of the ssh tests, long enough'
const URL_ = 'https://lfs.example.com'

let box: Sandbox
beforeEach(async () => {
  box = await makeSandbox()
})
afterEach(() => box.remove())

function authenticate(args: string[], env: Record<string, string> = {}): Promise<Outcome> {
  const settings = { ...box.env, TIMONE_TOKEN_SECRET: SECRET, TIMONE_ENDPOINT_URL: URL_, ...env }
  const given = Object.entries(settings).filter(([, value]) => value !== 'unset')
  return box.timone(['git-lfs-authenticate', ...args], { env: Object.fromEntries(given) })
}

const viaSsh = (command: string, args: string[] = ['--user', 'bob']): Promise<Outcome> =>
  authenticate(args, { SSH_ORIGINAL_COMMAND: command })

interface Answer {
  href: string
  header: { Authorization: string }
  expires_in: number
}

describe('git-lfs-authenticate', () => {
  test('gives a short token for one repository and one direction', async () => {
    const { code, stdout, stderr } = await authenticate(['--user', 'bob', '/foo/bar.git', 'download'])
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' })
    const answer = JSON.parse(stdout) as Answer
    expect(answer.href).toBe(`${URL_}/foo/bar/info/lfs`)
    expect(answer.expires_in).toBe(900)
    const token = answer.header.Authorization.replace('Bearer ', '')
    const { exp = 0, iat = 0 } = decodeJwt(token)
    expect(exp - iat).toBe(900)
    const principal = await new Tokens({ secret: SECRET, issuer: URL_, requireScope: true }).verify(token)
    expect(principal.subject).toBe('bob')
    const bar = { org: 'foo', repo: 'bar' }
    expect([mayRead(principal, bar), mayWrite(principal, bar)]).toEqual([true, false])
    expect(mayRead(principal, { org: 'foo', repo: 'baz' })).toBe(false)
  })

  test.each([
    "git-lfs-authenticate 'foo/bar.git' upload",
    'git-lfs-authenticate foo/bar upload',
    'git-lfs-authenticate "/foo/bar/" upload',
    'git-lfs-authenticate /foo/bar.git upload e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855',
  ])('reads what ssh was asked: %s', async (command) => {
    const { code, stdout } = await viaSsh(command)
    expect(code).toBe(0)
    const { href, header } = JSON.parse(stdout) as Answer
    expect(href).toBe(`${URL_}/foo/bar/info/lfs`)
    expect(decodeJwt(header.Authorization.slice(7)).scope).toBe('lfs:foo/bar:rw')
  })

  test.each([
    'git-upload-pack /foo/bar.git',
    'git-lfs-transfer foo/bar upload',
    'sh -c id',
    '',
    "git-lfs-authenticate 'foo/bar upload",
    'git-lfs-authenticate "$(id)/bar" upload',
  ])('is no other command, and no shell: %s', async (command) => {
    const { code, stdout, stderr } = await viaSsh(command)
    expect({ code, stdout }).toEqual({ code: 127, stdout: '' })
    expect(stderr).toBe('timone: this host knows git-lfs-authenticate only\n')
  })

  test.each([
    '../bar',
    'foo/..',
    'foo/../../etc/passwd',
    '/etc/passwd/x',
    'foo',
    'foo//bar',
    '//foo/bar',
    'foo/bar.git.git',
    'api/bar',
    'foo/b\u0007ar',
    'foo/bar;id',
    'foo/*',
    '~/foo/bar',
    '',
  ])('refuses the path %j', async (path) => {
    const { code, stdout, stderr } = await authenticate(['--user', 'bob', '--', path, 'upload'])
    expect({ code, stdout }).toEqual({ code: 1, stdout: '' })
    expect(stderr).toContain('no such repository')
  })

  test('--root is what paths must begin with', async () => {
    const with_ = (path: string) => authenticate(['--user', 'bob', '--root', '/srv/git/', path, 'upload'])
    expect(JSON.parse((await with_('/srv/git/foo/bar.git')).stdout).href).toBe(`${URL_}/foo/bar/info/lfs`)
    for (const path of ['/foo/bar.git', '/srv/gitfoo/bar', '/srv/git/../git/foo/bar', 'srv/git/foo/bar'])
      expect((await with_(path)).code, path).toBe(1)
  })

  test.each([
    [['lfs:foo/*:r'], 'download', 0, ''],
    [['lfs:foo/*:r'], 'upload', 1, 'bob may not write to foo/bar'],
    [['lfs:foo/*:r', 'lfs:foo/bar:rw'], 'upload', 0, ''],
    [['lfs:else/where:rw'], 'download', 1, 'no such repository'],
    [['nonsense'], 'download', 2, 'malformed scope'],
  ])('--scope %j: %s', async (scopes, operation, code, message) => {
    const flags = scopes.flatMap((scope) => ['--scope', scope])
    const outcome = await authenticate(['--user', 'bob', ...flags, 'foo/bar', operation])
    expect(outcome.code).toBe(code)
    expect(outcome.stderr).toContain(message)
  })

  test.each([
    [['foo/bar', 'upload'], {}, 'say who has come'],
    [['--user', 'bob', 'foo/bar', 'delete'], {}, 'upload or download'],
    [['--user', 'bob', 'foo/bar'], {}, 'say which repository'],
    [['--user', 'bob'], {}, 'say which repository'],
    [['--user', 'b\nob', 'foo/bar', 'upload'], {}, 'user name'],
    [['--user', 'bob', '--expires', '13h', 'foo/bar', 'upload'], {}, '12h or less'],
    [['--user', 'bob', 'foo/bar', 'upload'], { TIMONE_TOKEN_SECRET: 'unset' }, 'no token secret'],
    [['--user', 'bob', 'foo/bar', 'upload'], { TIMONE_REQUIRE_SCOPE: 'true' }, 'trusts nobody'],
  ] as [string[], Record<string, string>, string][])('%j with %j', async (args, env, message) => {
    const { code, stdout, stderr } = await authenticate(args, env)
    expect(code).not.toBe(0)
    expect(stdout).toBe('')
    expect(stderr).toContain(message)
  })

  test('--grants: what the database grants the user, and nothing to who was shut out', async () => {
    const url = `sqlite:${path.join(box.cwd, 'timone.db')}`
    const database = await connect(url)
    const users = new Users(database.db)
    await users.signIn({ issuer: 'https://idp.example', subject: '1', login: 'bob' }, 'test')
    await new Grants(database.db).grant('user:bob', 'lfs:foo/*:r')
    const env = { TIMONE_DATABASE_URL: url, TIMONE_REQUIRE_SCOPE: 'true' }
    const ask = (user: string, ...words: string[]) =>
      authenticate(['--user', user, '--grants', ...words], env)
    expect((await ask('bob', 'foo/bar', 'download')).code).toBe(0)
    expect((await ask('bob', 'foo/bar', 'upload')).stderr).toContain('bob may not write to foo/bar')
    expect((await ask('bob', '--scope', 'lfs:foo/bar:rw', 'foo/bar', 'upload')).code).toBe(0)
    expect((await ask('bob', 'else/where', 'download')).stderr).toContain('no such repository')
    expect((await ask('nobody', 'foo/bar', 'download')).stderr).toContain('no such repository')
    await database.db.updateTable('users').set({ disabled_at: new Date().toISOString() }).execute()
    expect((await ask('bob', 'foo/bar', 'download')).stderr).toContain('may not use this server any more')
    await database.close()
  })

  test('the user may come from TIMONE_USER', async () => {
    const { stdout } = await authenticate(['foo/bar', 'upload'], { TIMONE_USER: 'eve' })
    expect(decodeJwt((JSON.parse(stdout) as Answer).header.Authorization.slice(7)).sub).toBe('eve')
  })
})
