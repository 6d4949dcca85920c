import { afterAll, beforeAll, expect, test } from 'vitest'
import { parseScopes } from '../../src/auth/scope.ts'
import { generateKey } from '../../src/auth/secret-box.ts'
import { createIdentity, type Identity } from '../../src/identity/identity.ts'
import { OAuthError } from '../../src/identity/oauth-error.ts'
import { type TokenGrant, tokenRoutes } from '../../src/identity/token-endpoint.ts'
import { post, type Running, SECRET, startOnFiles } from '../server/harness.ts'

let running: Running
let identity: Identity
beforeAll(async () => {
  running = await startOnFiles()
  identity = createIdentity({
    db: running.database.db,
    url: running.url,
    tokenSecret: SECRET,
    secretKeys: [generateKey()],
  })
})
afterAll(() => running.stop())

const form = (url: string, fields: Record<string, string> | string) =>
  fetch(url, {
    method: 'POST',
    headers: { 'content-type': 'application/x-www-form-urlencoded' },
    body: typeof fields === 'string' ? fields : new URLSearchParams(fields),
  })

test('the grant is chosen by its type; what is wrong is said as OAuth says it', async () => {
  const app = tokenRoutes({
    grants: new Map<string, TokenGrant>([
      ['one', async ({ form }) => ({ access_token: form.get('x') ?? '', token_type: 'Bearer' as const })],
      ['two', () => Promise.reject(new OAuthError('invalid_grant', 'a "bad" thing – really'))],
    ]),
    revoke: async () => {},
  })
  const ask = (body: string, type = 'application/x-www-form-urlencoded') =>
    app.request('/oauth/token', { method: 'POST', headers: { 'content-type': type }, body })
  const good = await ask('grant_type=one&x=7')
  expect(await good.json()).toEqual({ access_token: '7', token_type: 'Bearer' })
  expect(good.headers.get('cache-control')).toBe('no-store')
  const bad = await ask('grant_type=two')
  expect(bad.status).toBe(400)
  expect(await bad.json()).toEqual({ error: 'invalid_grant', error_description: "a 'bad' thing ' really" })
  for (const [body, type, error] of [
    ['grant_type=three', undefined, 'unsupported_grant_type'],
    ['', undefined, 'invalid_request'],
    ['grant_type=one&grant_type=two', undefined, 'invalid_request'],
    ['{"grant_type":"one"}', 'application/json', 'invalid_request'],
    [`grant_type=one&x=${'x'.repeat(70_000)}`, undefined, 'invalid_request'],
  ] as const) {
    const answer = await ask(body, type)
    expect([answer.status, ((await answer.json()) as { error: string }).error]).toEqual([400, error])
  }
})

test('a token opens LFS as its user may, says who it is, and after its revocation opens nothing', async () => {
  const user = await identity.users.add({ login: 'lea' }, '')
  await identity.grants.grant('user:lea', 'lfs:foo/bar:rw')
  const scopes = parseScopes('lfs:*:rw')
  const { token } = await identity.issued.issue({
    subject: 'lea',
    userId: user.id,
    scopes,
    client: 'test',
    expiresIn: 600,
  })
  const batch = (repository: string, header: string) =>
    post(
      `${running.url}/${repository}/info/lfs/objects/batch`,
      { operation: 'upload', objects: [{ oid: 'a'.repeat(64), size: 3 }] },
      header,
    )
  const basic = `Basic ${Buffer.from(`lea:${token}`).toString('base64')}`
  expect((await batch('foo/bar', basic)).status).toBe(200)
  expect((await batch('foo/other', `Bearer ${token}`)).status).toBe(404)
  const who = await fetch(`${running.url}/auth/whoami`, { headers: { authorization: basic } })
  expect(await who.json()).toMatchObject({
    user: 'lea',
    scopes: ['lfs:foo/bar:rw'],
    expires_at: expect.any(String) as string,
    server: running.url,
  })
  expect((await form(`${running.url}/oauth/revoke`, { token: 'nonsense' })).status).toBe(200)
  expect((await form(`${running.url}/oauth/revoke`, { token })).status).toBe(200)
  expect((await batch('foo/bar', basic)).status).toBe(401)
  expect((await fetch(`${running.url}/auth/whoami`, { headers: { authorization: basic } })).status).toBe(401)
  expect((await fetch(`${running.url}/auth/whoami`)).status).toBe(401)
})

test('an operator’s token is as good as ever', async () => {
  const who = await fetch(`${running.url}/auth/whoami`, {
    headers: { authorization: await running.as('old', 'full') },
  })
  expect(await who.json()).toMatchObject({ user: 'old', scopes: null, expires_at: null })
})

test('the key set is empty where the secret signs', async () => {
  expect(await (await fetch(`${running.url}/.well-known/jwks.json`)).json()).toEqual({ keys: [] })
})
