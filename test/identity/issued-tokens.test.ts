import { createPublicKey, createSecretKey } from 'node:crypto'
import { createLocalJWKSet, decodeJwt, decodeProtectedHeader, type JWK, jwtVerify, SignJWT } from 'jose'
import { expect, test } from 'vitest'
import { parseScopes } from '../../src/auth/scope.ts'
import { generateKey } from '../../src/auth/secret-box.ts'
import { Tokens } from '../../src/auth/tokens.ts'
import { createIdentity, type Identity } from '../../src/identity/identity.ts'
import { onEachDatabase } from './databases.ts'

const URL = 'https://timone.example'
const SECRET = 'a secret of the tests, long enough for all'
const secretKeys = [generateKey()]
let number = 0

onEachDatabase('JWTs that we issue', (db) => {
  const instance = (signing: 'HS256' | 'EdDSA' | 'RS256', now?: () => number) => {
    const identity = createIdentity({
      db: db(),
      url: URL,
      tokenSecret: SECRET,
      secretKeys,
      signing,
      ...(now === undefined ? {} : { now }),
    })
    const options = { secret: SECRET, issuer: URL, requireScope: true, issued: identity.check }
    return { identity, tokens: new Tokens({ ...options, ...(now === undefined ? {} : { now }) }) }
  }
  const issueFor = async (identity: Identity, scope = 'lfs:*:rw') => {
    const user = await identity.users.add({ login: `jwt${number++}` }, '')
    await identity.grants.grant(`user:${user.login}`, 'lfs:foo/*:rw')
    const scopes = parseScopes(scope)
    const options = { subject: user.login, userId: user.id, scopes, client: 'test', expiresIn: 3600 }
    return { user, ...(await identity.issued.issue(options)) }
  }

  test.each(['HS256', 'EdDSA', 'RS256'] as const)(
    '%s: claims, rights, revocation on every instance',
    async (alg) => {
      const here = instance(alg)
      const there = instance('HS256')
      const { token, id, user } = await issueFor(here.identity)
      const header = decodeProtectedHeader(token)
      expect(header).toMatchObject({ alg, typ: 'timone+jwt' })
      expect(decodeJwt(token)).toEqual({
        iss: URL,
        aud: URL,
        sub: user.login,
        jti: id,
        iat: expect.any(Number) as number,
        exp: expect.any(Number) as number,
        scope: 'lfs:*:rw',
      })
      const principal = { subject: user.login, userId: user.id, tokenId: id }
      for (const { tokens } of [here, there]) {
        const found = await tokens.verify(token)
        expect(found).toMatchObject(principal)
        expect(found.scopes).toEqual(parseScopes('lfs:foo/*:rw'))
      }
      if (alg !== 'HS256') {
        const jwks = await there.identity.keys.jwks()
        await jwtVerify(token, createLocalJWKSet(jwks), { issuer: URL, audience: URL })
        expect(JSON.stringify(jwks)).not.toContain('"d"')
        const [row] = await db()
          .selectFrom('signing_keys')
          .selectAll()
          .where('kid', '=', header.kid as string)
          .execute()
        expect(row?.private_key).not.toContain('PRIVATE')
      }
      await there.identity.issued.revoke(token, '192.0.2.1')
      for (const { tokens } of [here, there])
        await expect(tokens.verify(token)).rejects.toMatchObject({ code: 'unauthorized' })
    },
  )

  test('keys rotate: the old one still checks, the new one signs', async () => {
    let now = Date.now()
    const { identity, tokens } = instance('EdDSA', () => now)
    const first = await issueFor(identity)
    const second = await issueFor(identity)
    const kid = (token: string) => decodeProtectedHeader(token).kid
    expect(kid(second.token)).toBe(kid(first.token))
    now += 1000
    await identity.keys.rotate('EdDSA')
    const third = await issueFor(identity)
    expect(kid(third.token)).not.toBe(kid(first.token))
    for (const { token } of [first, third]) expect(await tokens.verify(token)).toBeDefined()
    now += 91 * 86_400_000
    const fourth = await issueFor(identity)
    expect([kid(first.token), kid(third.token)]).not.toContain(kid(fourth.token))
    expect((await identity.keys.jwks()).keys.length).toBeGreaterThanOrEqual(3)
  })

  test('forged, foreign and confused tokens are refused', async () => {
    const { identity, tokens } = instance('RS256')
    const { token, id, user } = await issueFor(identity)
    const secret = createSecretKey(Buffer.from(SECRET))
    const claims = { iss: URL, aud: URL, sub: user.login, jti: id, scope: 'lfs:*:rw' }
    const sign = (payload: object, header: object = {}, key: Parameters<SignJWT['sign']>[0] = secret) => {
      const seconds = Math.floor(Date.now() / 1000)
      return new SignJWT({ iat: seconds, exp: seconds + 600, ...payload })
        .setProtectedHeader({ alg: 'HS256', typ: 'timone+jwt', ...header })
        .sign(key)
    }
    expect(await tokens.verify(await sign(claims))).toBeDefined()
    const kid = decodeProtectedHeader(token).kid as string
    const jwk = (await identity.keys.jwks()).keys.find((key) => key.kid === kid) as JWK
    const spki = createPublicKey({ key: jwk as never, format: 'jwk' }).export({ type: 'spki', format: 'pem' })
    const seconds = Math.floor(Date.now() / 1000)
    const bad = [
      await sign({ ...claims, iss: 'https://evil.example' }),
      await sign({ ...claims, aud: 'https://other.example' }),
      await sign({ ...claims, sub: 'root' }),
      await sign({ ...claims, jti: 'unknown' }),
      await sign({ ...claims, jti: undefined }),
      await sign({ ...claims, scope: undefined }),
      await sign({ ...claims, iat: seconds + 600, exp: seconds + 1200 }),
      await sign({ ...claims, exp: undefined }),
      await sign({ ...claims }, { kid }),
      // The public key as HMAC secret.
      await sign({ ...claims }, {}, createSecretKey(Buffer.from(spki))),
      await sign({ ...claims }, { kid }, createSecretKey(Buffer.from(spki))),
      token.replace(/\.[^.]+$/, '.AAAA'),
      `${Buffer.from('{"alg":"none","typ":"timone+jwt"}').toString('base64url')}.${token.split('.')[1]}.`,
    ]
    for (const [index, one] of bad.entries())
      await expect(tokens.verify(one), String(index)).rejects.toMatchObject({ code: 'unauthorized' })
    await expect(
      tokens.verify(await sign({ ...claims, iat: seconds - 700, exp: seconds - 100 })),
    ).rejects.toThrow('token expired')
    // Not even with the secret does another's session become a JWT.
    const session = await identity.opaque.issue({ userId: user.id, kind: 'session', scopes: [], client: '' })
    await expect(tokens.verify(await sign({ ...claims, jti: session.id }))).rejects.toThrow()
  })

  test('a clock 10 minutes off: the token of one that is ahead is refused, not misread', async () => {
    const ahead = instance('HS256', () => Date.now() + 600_000)
    const { token } = await issueFor(ahead.identity)
    const { tokens } = instance('HS256')
    await expect(tokens.verify(token)).rejects.toMatchObject({ code: 'unauthorized' })
    const behind = instance('HS256', () => Date.now() - 600_000)
    expect(await tokens.verify((await issueFor(behind.identity)).token)).toBeDefined()
  })

  test('a disabled user’s tokens open nothing, a runner’s has the scopes it was given', async () => {
    const { identity, tokens } = instance('HS256')
    const { token, user } = await issueFor(identity)
    await identity.users.setDisabled(user.login, true, '')
    await expect(tokens.verify(token)).rejects.toMatchObject({ code: 'unauthorized' })
    const scopes = parseScopes('lfs:a/b:rw')
    const runner = await identity.issued.issue({
      subject: 'repo:a/b',
      userId: null,
      scopes,
      client: 'ci',
      expiresIn: 900,
    })
    const found = await tokens.verify(runner.token)
    expect(found).toMatchObject({ subject: 'repo:a/b', scopes })
    expect(found.userId).toBeUndefined()
  })
})
