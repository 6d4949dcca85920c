import { createServer, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { exportJWK, generateKeyPair, SignJWT, UnsecuredJWT } from 'jose'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { OidcLogin } from '../../src/identity/oidc-login.ts'

/** An OpenID provider that answers as it is told: what a real one never would. */
let server: Server
let issuer: string
let keys: Awaited<ReturnType<typeof generateKeyPair>>
let others: typeof keys
let idToken: (claims: Record<string, unknown>) => Promise<string>
let asked: URLSearchParams[] = []
let nonce = ''
beforeAll(async () => {
  keys = await generateKeyPair('RS256')
  others = await generateKeyPair('RS256')
  const jwk = { ...(await exportJWK(keys.publicKey)), kid: 'k', alg: 'RS256', use: 'sig' }
  server = createServer(async (request, response) => {
    let body = ''
    for await (const chunk of request) body += chunk
    const json = (value: unknown): void => {
      response.writeHead(200, { 'content-type': 'application/json' }).end(JSON.stringify(value))
    }
    if (request.url === '/.well-known/openid-configuration') {
      json({
        issuer,
        authorization_endpoint: `${issuer}/auth`,
        token_endpoint: `${issuer}/token`,
        jwks_uri: `${issuer}/jwks`,
        response_types_supported: ['code'],
        subject_types_supported: ['public'],
        id_token_signing_alg_values_supported: ['RS256'],
        code_challenge_methods_supported: ['S256'],
      })
    } else if (request.url === '/jwks') json({ keys: [jwk] })
    else {
      asked.push(new URLSearchParams(body))
      const now = Math.floor(Date.now() / 1000)
      const claims = { iss: issuer, aud: 'timone', sub: 'ada', iat: now, exp: now + 60, nonce }
      json({ access_token: 'a', token_type: 'Bearer', expires_in: 60, id_token: await idToken(claims) })
    }
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  issuer = `http://127.0.0.1:${(server.address() as AddressInfo).port}`
})
afterAll(() => {
  server.closeAllConnections()
  server.close()
})

const sign = (claims: Record<string, unknown>, by = keys): Promise<string> =>
  new SignJWT(claims).setProtectedHeader({ alg: 'RS256', kid: 'k' }).sign(by.privateKey)

function login(): OidcLogin {
  return new OidcLogin({
    issuer,
    clientId: 'timone',
    clientSecret: 'the secret of the client',
    scope: 'openid',
    groupsClaim: undefined,
    url: 'https://timone.example',
    secret: 'a secret of the tests, long enough for all',
  })
}

/** Begins a sign-in, and brings back what the provider would. */
async function signIn(change: (query: URLSearchParams) => void = () => {}) {
  const flow = login()
  const { location, pending } = await flow.begin('/account')
  const sent = new URL(location).searchParams
  nonce = sent.get('nonce') ?? ''
  asked = []
  const query = new URLSearchParams({ code: 'c', state: sent.get('state') ?? '' })
  change(query)
  return { sent, finished: flow.finish(`?${query}`, pending) }
}

test('state, nonce and PKCE are new each time, and the verifier goes to the provider alone', async () => {
  idToken = (claims) => sign(claims)
  const { sent, finished } = await signIn()
  expect(await finished).toMatchObject({ identity: { issuer, subject: 'ada' }, returnTo: '/account' })
  expect(sent.get('code_challenge_method')).toBe('S256')
  const [exchange] = asked
  expect(exchange?.get('code_verifier')).toMatch(/^[\w-]{43,}$/)
  expect(`${sent}`).not.toContain(exchange?.get('code_verifier'))
  const again = await signIn()
  await again.finished
  for (const name of ['state', 'nonce', 'code_challenge']) {
    expect(sent.get(name)).toMatch(/^[\w-]{43}$/)
    expect(again.sent.get(name)).not.toBe(sent.get(name))
  }
})

test.each<[string, (claims: Record<string, unknown>) => Promise<string>]>([
  ['of another sign-in (nonce)', (claims) => sign({ ...claims, nonce: 'another' })],
  ['without a nonce', ({ nonce: _, ...claims }) => sign(claims)],
  ['for another client', (claims) => sign({ ...claims, aud: 'another' })],
  ['of another issuer', (claims) => sign({ ...claims, iss: 'https://evil.example' })],
  ['that has expired', (claims) => sign({ ...claims, iat: 1, exp: 2 })],
  [
    'of a clock that is 10 minutes ahead',
    (claims) => sign({ ...claims, nbf: Number(claims.iat) + 600, iat: Number(claims.iat) + 600 }),
  ],
  ['signed by somebody else', (claims) => sign(claims, others)],
  ['signed by nobody', async (claims) => new UnsecuredJWT(claims).encode()],
  ['without a subject', ({ sub: _, ...claims }) => sign(claims)],
  ['that is none', async () => 'nonsense'],
])('an ID token %s signs nobody in', async (_name, make) => {
  idToken = make
  const { finished } = await signIn()
  await expect(finished).rejects.toMatchObject({ code: 'forbidden' })
})

test.each<[string, (query: URLSearchParams) => void]>([
  ['another state', (query) => query.set('state', 'another')],
  ['no state', (query) => query.delete('state')],
  ['two states', (query) => query.append('state', 'another')],
  ['no code', (query) => query.delete('code')],
  ['a refusal', (query) => query.set('error', 'access_denied')],
])('a callback with %s signs nobody in, and no code is exchanged', async (_name, change) => {
  idToken = (claims) => sign(claims)
  const { finished } = await signIn(change)
  await expect(finished).rejects.toMatchObject({ code: 'forbidden' })
  expect(asked).toEqual([])
})
