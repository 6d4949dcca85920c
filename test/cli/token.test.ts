import { mkdir, readdir, writeFile } from 'node:fs/promises'
import path from 'node:path'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { Tokens } from '../../src/auth/tokens.ts'
import { makeSandbox, type Sandbox } from './run-cli.ts'

const SECRET = 'a secret of more than thirty-two bytes'
const tokens = new Tokens({ secret: SECRET, issuer: 'http://127.0.0.1:8000', requireScope: false })

let box: Sandbox
let env: Record<string, string>

beforeEach(async () => {
  box = await makeSandbox()
  env = { ...box.env, TIMONE_TOKEN_SECRET: SECRET }
})

afterEach(() => box.remove())

describe('token create', () => {
  test('prints a token that the server takes', async () => {
    const args = [
      'token',
      'create',
      '--user',
      'bob',
      '--scope',
      'lfs:foo/bar:rw',
      '--scope',
      'lfs:a/*:r',
      '--expires',
      '30d',
    ]
    const { code, stdout, stderr } = await box.timone(args, { env })
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' })
    expect(stdout).toMatch(/^[\w-]+\.[\w-]+\.[\w-]+\n$/)
    expect(await tokens.verify(stdout.trim())).toMatchObject({
      subject: 'bob',
      scopes: [
        { noun: 'lfs', resource: 'foo/bar', level: 'rw' },
        { noun: 'lfs', resource: 'a/*', level: 'r' },
      ],
    })
    const claims = JSON.parse(Buffer.from(stdout.split('.')[1] ?? '', 'base64url').toString()) as Record<
      string,
      number
    >
    expect((claims.exp ?? 0) - (claims.iat ?? 0)).toBe(30 * 86_400)
  })

  test('warns, on stderr, when the token opens everything or never ends', async () => {
    const { code, stdout, stderr } = await box.timone(['token', 'create', '--user', 'bob'], { env })
    expect(code).toBe(0)
    expect(stderr).toBe(
      'timone: warning: without --scope this token may read and write every repository\n' +
        'timone: warning: without --expires this token is good for ever\n',
    )
    expect(await tokens.verify(stdout.trim())).toMatchObject({ subject: 'bob', scopes: 'full' })
    const strict = await box.timone(['token', 'create', '--user', 'bob'], {
      env: { ...env, TIMONE_REQUIRE_SCOPE: '1' },
    })
    expect(strict.stderr).toContain('refuses tokens without a scope')
  })

  test('--json', async () => {
    const args = ['token', 'create', '--user', 'bob', '--scope', 'lfs:a/b:r', '--expires', '1h', '--json']
    const made = JSON.parse((await box.timone(args, { env })).stdout) as Record<string, string>
    expect(made).toMatchObject({ user: 'bob', scopes: ['lfs:a/b:r'] })
    expect(await tokens.verify(made.token ?? '')).toMatchObject({ subject: 'bob' })
    const ahead = Date.parse(made.expires_at ?? '') - Date.now()
    expect(ahead).toBeGreaterThan(3_500_000)
    expect(ahead).toBeLessThanOrEqual(3_600_000)
    const lasting = await box.timone(['token', 'create', '--user', 'bob', '--json'], { env })
    expect(JSON.parse(lasting.stdout)).toMatchObject({ scopes: null, expires_at: null })
  })

  test('finds the secret in the data folder, or in the TOML file', async () => {
    const data = path.join(box.cwd, 'my data')
    await mkdir(data)
    await writeFile(path.join(data, 'token-secret'), `${SECRET}\n`, { mode: 0o600 })
    await writeFile(path.join(box.cwd, 't.toml'), `[auth]\ntoken_secret = "${SECRET}"\n`)
    for (const where of [
      ['--data', 'my data'],
      ['--config', 't.toml'],
    ]) {
      const { stdout } = await box.timone(['token', 'create', '--user', 'bob', ...where])
      expect(await tokens.verify(stdout.trim())).toMatchObject({ subject: 'bob' })
    }
  })

  test('without a secret says where one is looked for, and makes none', async () => {
    const { code, stdout, stderr } = await box.timone(['token', 'create', '--user', 'bob'])
    expect({ code, stdout }).toEqual({ code: 2, stdout: '' })
    expect(stderr).toContain('TIMONE_TOKEN_SECRET')
    expect(stderr).toContain('--data')
    expect(await readdir(box.cwd)).toEqual([])
  })

  test.each([
    [['--user', 'bob', '--scope', 'lfs:foo:rw'], 'org/repo'],
    [['--user', 'bob', '--scope', 'lsf:foo/bar:rw'], 'malformed scope'],
    [['--user', 'bob', '--scope', 'lfs:foo/bar.git:rw'], 'leave out .git'],
    [['--user', 'bob', '--expires', 'soon'], 'not a length of time'],
    [['--user', ''], 'user name'],
    [[], 'with --user NAME'],
  ])('%j is a usage error', async (args, message) => {
    const { code, stdout, stderr } = await box.timone(['token', 'create', ...args], { env })
    expect({ code, stdout }).toEqual({ code: 2, stdout: '' })
    expect(stderr).toContain(message)
    expect(stderr.trimEnd()).not.toContain('\n')
  })
})

describe('token inspect', () => {
  test('prints what is in a token from stdin, and that the server takes it', async () => {
    const jwt = await tokens.issueUser({ user: 'bob', scopes: ['lfs:a/b:r'], expiresIn: 90_000 })
    for (const args of [
      ['token', 'inspect'],
      ['token', 'inspect', '-'],
    ]) {
      const { code, stdout, stderr } = await box.timone(args, { env, input: `  ${jwt}\n` })
      expect({ code, stderr }).toEqual({ code: 0, stderr: '' })
      expect(stdout).toContain('"alg":"HS256"')
      expect(stdout).toContain('"user":"bob"')
      expect(stdout).toMatch(/expiry {5}\S+Z, in (1 day 59 minutes|1 day 1 hour)/)
      expect(stdout).toContain('signature  valid')
      expect(stdout).toContain('server     accepted')
      expect(stdout).not.toContain(SECRET)
    }
  })

  test('a token as argument, as JSON', async () => {
    const jwt = await tokens.issueUser({ user: 'bob' })
    const { code, stdout } = await box.timone(['token', 'inspect', jwt, '--json'], { env })
    expect(code).toBe(0)
    expect(JSON.parse(stdout)).toMatchObject({
      header: { alg: 'HS256' },
      claims: { user: 'bob' },
      signature: 'valid',
      valid: true,
      expires_at: null,
    })
  })

  test('a token of the server itself', async () => {
    const jwt = await tokens.issueUse({
      use: 'transfer',
      subject: 'bob',
      repository: { org: 'a', repo: 'b' },
      operation: 'upload',
      expiresIn: 900,
      authTime: 0,
    })
    const { code, stdout } = await box.timone(['token', 'inspect', jwt], { env })
    expect(code).toBe(0)
    expect(stdout).toContain('"aud":"timone:transfer"')
    expect(stdout).toContain('accepted')
  })

  test('an expired token: the signature is good, the server refuses it', async () => {
    const old = new Tokens({
      secret: SECRET,
      issuer: 'x',
      requireScope: false,
      now: () => Date.now() - 7_200_500,
    })
    const jwt = await old.issueUser({ user: 'bob', expiresIn: 3600 })
    const { code, stdout } = await box.timone(['token', 'inspect'], { env, input: jwt })
    expect(code).toBe(1)
    expect(stdout).toMatch(/expiry .*, 1 hour( 1 second)? ago/)
    expect(stdout).toContain('signature  valid')
    expect(stdout).toContain('refused: token expired')
  })

  test('a forged token', async () => {
    const forged = await new Tokens({ secret: 'other', issuer: 'x', requireScope: false }).issueUser({
      user: 'bob',
    })
    const { code, stdout } = await box.timone(['token', 'inspect', '--json'], { env, input: forged })
    expect(code).toBe(1)
    expect(JSON.parse(stdout)).toMatchObject({ signature: 'invalid', valid: false })
  })

  test('without a secret the signature is not judged', async () => {
    const jwt = await tokens.issueUser({ user: 'bob' })
    const { code, stdout } = await box.timone(['token', 'inspect'], { input: jwt })
    expect(code).toBe(0)
    expect(stdout).toContain('signature  not checked')
    expect(stdout).not.toContain('accepted')
    const asJson = await box.timone(['token', 'inspect', '--json'], { input: jwt })
    expect(JSON.parse(asJson.stdout)).toMatchObject({ signature: 'unchecked', valid: null })
  })

  test('claims cannot write to the terminal, and times may be anything', async () => {
    const part = (value: object): string => Buffer.from(JSON.stringify(value)).toString('base64url')
    const jwt = `${part({ alg: 'none' })}.${part({ user: '\u001b]0;x\u0007\u009b31m', exp: 1e30 })}.`
    const { stdout } = await box.timone(['token', 'inspect'], { input: jwt })
    // biome-ignore lint/suspicious/noControlCharactersInRegex: these are what must not be there
    expect(stdout.replaceAll('\n', '')).not.toMatch(/[\u0000-\u001f\u007f-\u009f]/)
    expect(stdout).toContain('expiry     not a time')
  })

  test.each(['', 'hello', 'a.b.c', 'bob:secret'])('%j is no token', async (input) => {
    const { code, stdout, stderr } = await box.timone(['token', 'inspect'], { env, input })
    expect({ code, stdout }).toEqual({ code: 2, stdout: '' })
    expect(stderr).toContain('this is not a token')
  })

  test('endless input is refused', async () => {
    const { code, stderr } = await box.timone(['token', 'inspect'], { env, input: 'x'.repeat(2 ** 21) })
    expect(code).toBe(2)
    expect(stderr).toContain('more than a token')
  })
})
