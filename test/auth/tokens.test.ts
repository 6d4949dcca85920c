import { createHmac, generateKeyPairSync } from 'node:crypto'
import { exportSPKI, SignJWT, UnsecuredJWT } from 'jose'
import { describe, expect, test } from 'vitest'
import type { TokenUse } from '../../src/auth/principal.ts'
import { printScope } from '../../src/auth/scope.ts'
import { Tokens, type TokensOptions } from '../../src/auth/tokens.ts'
import { isTimoneError } from '../../src/errors.ts'

const SECRET = 'a secret of more than thirty-two bytes'
const ISSUER = 'https://lfs.example'
const NOW = Date.UTC(2026, 10, 22)
const SECONDS = NOW / 1000

// Made by PyJWT 2.6.0, as operators of the earlier timone did:
//   /usr/bin/python3 -c "import jwt;print(jwt.encode({'user':'bob'},'mykey',algorithm='HS256'))"
const PYJWT_USER =
  'eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJ1c2VyIjoiYm9iIn0.6e1Q-hnaYbpvgfBfuLAdeiF6ENQYLDDtlxbBYsmq_0o'
//   … jwt.encode({'username':'bob'},'mykey',algorithm='HS256')
const PYJWT_USERNAME =
  'eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJ1c2VybmFtZSI6ImJvYiJ9.MNjk-4zrzBWaHOPlRHRI6gHSfLCbROU3_uMVd3YGxCw'

function tokens(options: Partial<TokensOptions> = {}): Tokens {
  return new Tokens({ secret: SECRET, issuer: ISSUER, requireScope: false, now: () => NOW, ...options })
}

/** A token as the operator's own tools may sign it: any header, any claims. */
function signed(claims: object, header: object = {}, secret: string = SECRET, hash = 'sha256'): string {
  const part = (value: object): string => Buffer.from(JSON.stringify(value)).toString('base64url')
  const input = `${part({ alg: 'HS256', typ: 'JWT', ...header })}.${part(claims)}`
  return `${input}.${createHmac(hash, secret).update(input).digest('base64url')}`
}

async function refusal(jwt: string, by: Tokens = tokens()): Promise<string> {
  const error = await by.verify(jwt).then(
    (principal) => expect.fail(`accepted as ${JSON.stringify(principal)}`),
    (thrown: unknown) => thrown,
  )
  if (!isTimoneError(error, 'unauthorized')) throw error
  expect(error.cause).toBeUndefined()
  return error.message
}

const CONSTANT = 'the credentials are not valid'

describe('user tokens', () => {
  test('of PyJWT with a key of five bytes are full trust for the user named', async () => {
    const old = tokens({ secret: 'mykey' })
    const expected = { subject: 'bob', scopes: 'full', authTime: SECONDS }
    expect(await old.verify(PYJWT_USER)).toEqual(expected)
    expect(await old.verify(PYJWT_USERNAME)).toEqual(expected)
    expect(await old.verify(signed({ sub: 'bob' }, {}, 'mykey'))).toEqual(expected)
    expect(await refusal(PYJWT_USER)).toBe(CONSTANT)
  })

  test('that are issued are read back', async () => {
    const jwt = await tokens().issueUser({
      user: 'bób',
      scopes: ['lfs:foo/bar:rw', 'lfs:foo/*:r'],
      expiresIn: 60,
    })
    const principal = await tokens().verify(jwt)
    expect(principal).toMatchObject({ subject: 'bób', authTime: SECONDS })
    expect(principal.use).toBeUndefined()
    expect(principal.scopes).not.toBe('full')
    expect((principal.scopes as never[]).map(printScope)).toEqual(['lfs:foo/bar:rw', 'lfs:foo/*:r'])
    const lasting = await tokens({ now: () => 0 }).issueUser({ user: 'bob' })
    expect(await tokens().verify(lasting)).toMatchObject({ subject: 'bob', scopes: 'full' })
    const none = await tokens().issueUser({ user: 'bob', scopes: [] })
    expect(await tokens().verify(none)).toMatchObject({ scopes: [] })
  })

  test('are not issued for malformed names, scopes or times', async () => {
    await expect(tokens().issueUser({ user: '' })).rejects.toThrow('user name')
    await expect(tokens().issueUser({ user: 'a\nb' })).rejects.toThrow('user name')
    await expect(tokens().issueUser({ user: 'bob', scopes: ['lfs:foo:rw'] })).rejects.toThrow(
      'malformed scope',
    )
    await expect(tokens().issueUser({ user: 'bob', expiresIn: 0 })).rejects.toThrow(TypeError)
    expect(() => tokens({ secret: '' })).toThrow(TypeError)
  })

  test('say when they expired, 60 s late, and only to who has a good signature', async () => {
    expect(await tokens().verify(signed({ user: 'bob', exp: SECONDS - 59 }))).toMatchObject({
      subject: 'bob',
    })
    expect(await refusal(signed({ user: 'bob', exp: SECONDS - 60 }))).toBe('token expired')
    expect(await refusal(signed({ user: 'bob', exp: SECONDS - 999 }, {}, 'other'))).toBe(CONSTANT)
  })

  test('do not count before their time, 60 s early', async () => {
    for (const claim of ['nbf', 'iat']) {
      expect(await tokens().verify(signed({ user: 'bob', [claim]: SECONDS + 60 }))).toMatchObject({
        subject: 'bob',
      })
      expect(await refusal(signed({ user: 'bob', [claim]: SECONDS + 61 }))).toBe(CONSTANT)
    }
  })

  test.each([
    ['no name', {}],
    ['an empty name', { user: '' }],
    ['a number for a name', { user: 7 }],
    ['a control character in the name', { user: 'bob\u0000' }],
    ['a name too long', { user: 'b'.repeat(256) }],
    ['names that differ', { user: 'bob', sub: 'eve' }],
    ['another name in username', { user: 'bob', username: 'eve' }],
    ['a time that is text', { user: 'bob', exp: '9999999999' }],
    ['an issue time that is text', { user: 'bob', iat: 'now' }],
    ['a foreign audience', { user: 'bob', aud: 'https://other.example' }],
    ['one foreign audience among ours', { user: 'bob', aud: [ISSUER, 'timone:transfer'] }],
    ['an empty list of audiences', { user: 'bob', aud: [] }],
    ['the audience of a use', { user: 'bob', aud: 'timone:transfer' }],
    ['a malformed scope', { user: 'bob', scope: 'lfs:foo:rw' }],
    ['one malformed scope', { user: 'bob', scope: 'lfs:foo/bar:rw everything' }],
    ['a list as scope', { user: 'bob', scope: ['lfs:foo/bar:rw'] }],
    ['text as scopes', { user: 'bob', scopes: 'lfs:foo/bar:rw' }],
    ['lists within scopes', { user: 'bob', scopes: [['lfs:foo/bar:rw']] }],
    ['both kinds of scope claim', { user: 'bob', scope: 'lfs:foo/bar:r', scopes: ['lfs:foo/bar:rw'] }],
    ['null as scope', { user: 'bob', scope: null }],
  ])('with %s are refused', async (_case, claims) => expect(await refusal(signed(claims))).toBe(CONSTANT))

  test('may name this server as audience', async () => {
    expect(await tokens().verify(signed({ user: 'bob', aud: ISSUER }))).toMatchObject({ subject: 'bob' })
    expect(await tokens().verify(signed({ user: 'bob', aud: [ISSUER] }))).toMatchObject({ subject: 'bob' })
  })

  test('with an empty scope claim open nothing', async () => {
    expect(await tokens().verify(signed({ user: 'bob', scope: '' }))).toMatchObject({ scopes: [] })
    expect(await tokens().verify(signed({ user: 'bob', scopes: [] }))).toMatchObject({ scopes: [] })
  })

  test('without scope are refused where a scope is required', async () => {
    const strict = tokens({ requireScope: true })
    expect(await refusal(signed({ user: 'bob' }), strict)).toContain('TIMONE_REQUIRE_SCOPE')
    expect(await strict.verify(signed({ user: 'bob', scope: 'lfs:a/b:r' }))).toMatchObject({ subject: 'bob' })
    expect(await strict.verify(signed({ user: 'bob', scope: '' }))).toMatchObject({ scopes: [] })
    expect(await refusal(signed({ user: 'bob' }, {}, 'other'), strict)).toBe(CONSTANT)
  })
})

describe('use tokens', () => {
  const repository = { org: 'foo', repo: 'bar' }
  const request = { subject: 'bob', repository, expiresIn: 900, authTime: SECONDS - 5 }

  test.each<[TokenUse, 'upload' | 'download', string]>([
    ['transfer', 'upload', 'rw'],
    ['transfer', 'download', 'r'],
    ['renew', 'upload', 'rw'],
    ['verify', 'upload', 'rw'],
  ])('for %s, %s are read back', async (use, operation, level) => {
    const jwt = await tokens().issueUse({ ...request, use, operation })
    expect(await tokens({ requireScope: true }).verify(jwt)).toEqual({
      subject: 'bob',
      use,
      operation,
      scopes: [{ noun: 'lfs', resource: 'foo/bar', level }],
      authTime: SECONDS - 5,
    })
    const claims = JSON.parse(Buffer.from(jwt.split('.')[1] ?? '', 'base64url').toString()) as object
    expect(claims).toMatchObject({ aud: `timone:${use}`, iss: ISSUER, op: operation, exp: SECONDS + 900 })
    expect(claims).toHaveProperty('jti')
  })

  test('expire', async () => {
    const jwt = await tokens().issueUse({ ...request, use: 'transfer', operation: 'upload' })
    expect(await refusal(jwt, tokens({ now: () => NOW + 961_000 }))).toBe('token expired')
  })

  test('of another server or another secret are refused', async () => {
    const jwt = await tokens().issueUse({ ...request, use: 'transfer', operation: 'upload' })
    expect(await refusal(jwt, tokens({ issuer: 'https://other.example' }))).toBe(CONSTANT)
    expect(await refusal(jwt, tokens({ secret: 'other' }))).toBe(CONSTANT)
  })

  test('cannot be made with the secret, nor pass for user tokens', async () => {
    const jwt = await tokens().issueUse({ ...request, use: 'transfer', operation: 'upload' })
    const claims = JSON.parse(Buffer.from(jwt.split('.')[1] ?? '', 'base64url').toString()) as object
    expect(await refusal(signed(claims, { typ: 'timone-use+jwt' }))).toBe(CONSTANT)
    expect(await refusal(signed(claims))).toBe(CONSTANT)
    const [, payload, signature] = jwt.split('.')
    const header = Buffer.from('{"alg":"HS256","typ":"JWT"}').toString('base64url')
    expect(await refusal(`${header}.${payload}.${signature}`)).toBe(CONSTANT)
  })
})

describe('attacks', () => {
  test('other algorithms, or none', async () => {
    const unsecured = new UnsecuredJWT({ user: 'bob' }).encode()
    expect(await refusal(unsecured)).toBe(CONSTANT)
    for (const alg of ['none', 'None', 'NONE', 'nOnE']) {
      const [, payload] = unsecured.split('.')
      const header = Buffer.from(JSON.stringify({ alg })).toString('base64url')
      expect(await refusal(`${header}.${payload}.`)).toBe(CONSTANT)
      expect(await refusal(signed({ user: 'bob' }, { alg }))).toBe(CONSTANT)
    }
    expect(await refusal(signed({ user: 'bob' }, { alg: 'HS512' }, SECRET, 'sha512'))).toBe(CONSTANT)
    expect(await refusal(signed({ user: 'bob' }, { alg: 'HS384' }, SECRET, 'sha384'))).toBe(CONSTANT)
  })

  test('RSA: neither an RS256 token nor a public key taken for the secret', async () => {
    const { privateKey, publicKey } = generateKeyPairSync('rsa', { modulusLength: 2048 })
    const pem = await exportSPKI(publicKey)
    const rsa = await new SignJWT({ user: 'bob' }).setProtectedHeader({ alg: 'RS256' }).sign(privateKey)
    expect(await refusal(rsa)).toBe(CONSTANT)
    expect(await refusal(rsa, tokens({ secret: pem }))).toBe(CONSTANT)
    expect(await refusal(signed({ user: 'bob' }, {}, pem))).toBe(CONSTANT)
  })

  test('keys named, brought along or fetched by the token are ignored', async () => {
    for (const header of [
      { kid: '../../../../dev/null' },
      { kid: '/etc/passwd' },
      { jku: 'http://evil.example' },
    ]) {
      expect(await tokens().verify(signed({ user: 'bob' }, header))).toMatchObject({ subject: 'bob' })
      expect(await refusal(signed({ user: 'bob' }, header, ''))).toBe(CONSTANT)
    }
    const jwk = { kty: 'oct', k: Buffer.from('mine').toString('base64url') }
    expect(await refusal(signed({ user: 'bob' }, { jwk }, 'mine'))).toBe(CONSTANT)
    expect(await refusal(signed({ user: 'bob' }, { crit: ['b64'], b64: false }))).toBe(CONSTANT)
    expect(await refusal(signed({ user: 'bob' }, { crit: ['x'], x: 1 }))).toBe(CONSTANT)
  })

  test('what is no token at all, or changed on the way', async () => {
    const good = signed({ user: 'bob' })
    const [header, payload, signature] = good.split('.')
    const other = Buffer.from(JSON.stringify({ user: 'eve' })).toString('base64url')
    const first = signature?.startsWith('A') === true ? 'B' : 'A'
    for (const jwt of [
      '',
      '.',
      '..',
      'a.b.c',
      'a.b.c.d.e',
      `${header}.${payload}`,
      `${header}.${payload}.`,
      `${header}.${other}.${signature}`,
      `${header}.${payload}.${first}${signature?.slice(1)}`,
      signed(['bob']),
      signed('bob' as never),
      'x'.repeat(100),
    ]) {
      expect(await refusal(jwt)).toBe(CONSTANT)
      expect(await tokens().signatureMatches(jwt)).toBe(
        jwt === signed(['bob']) || jwt === signed('bob' as never),
      )
    }
  })

  test('a token over 16 KiB is refused even when it is well signed', async () => {
    expect(await refusal(signed({ user: 'bob', pad: 'x'.repeat(100_000) }))).toBe(CONSTANT)
    expect(await refusal('x'.repeat(100_000_000))).toBe(CONSTANT)
    expect(await tokens().verify(signed({ user: 'bob', pad: 'x'.repeat(8000) }))).toMatchObject({
      subject: 'bob',
    })
  })

  test('signatureMatches tells an expired token from a forged one', async () => {
    expect(await tokens().signatureMatches(signed({ user: 'bob', exp: 1 }))).toBe(true)
    expect(await tokens().signatureMatches(signed({ user: 'bob' }, {}, 'other'))).toBe(false)
    const use = {
      use: 'verify',
      subject: 'bob',
      repository: { org: 'a', repo: 'b' },
      operation: 'upload',
    } as const
    const jwt = await tokens().issueUse({ ...use, expiresIn: 1, authTime: 0 })
    expect(await tokens().signatureMatches(jwt)).toBe(true)
  })
})
