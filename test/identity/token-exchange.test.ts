import { generateKeyPair, SignJWT } from 'jose'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { connect } from '../../src/database/connect.ts'
import { IssuerKeys } from '../../src/identity/issuer-keys.ts'
import type { TrustRule } from '../../src/identity/trust-rules.ts'
import { type CiIssuer, CLAIMS, startCiIssuer } from '../helpers/ci-issuer.ts'
import { testPostgres } from '../helpers/postgres.ts'
import { post, type Running, startOnFiles } from '../server/harness.ts'

const AUDIENCE = 'https://lfs.example'
const TYPE = 'urn:ietf:params:oauth:token-type:'

let issuer: CiIssuer
let server: Running
beforeAll(async () => {
  issuer = await startCiIssuer()
})
afterAll(() => issuer.stop())

function rule(match: TrustRule['match'], scopes: string[], more: Partial<TrustRule> = {}): TrustRule {
  return { issuer: issuer.url, audience: AUDIENCE, match, scopes, ttl: 900, ...more }
}

function rules(): TrustRule[] {
  return [
    rule({ repository_id: ['74'] }, ['lfs:octo/site:r']),
    rule({ repository_id: ['74'], ref: ['refs/heads/main'] }, ['lfs:octo/site:rw'], { ttl: 600 }),
    rule({ project_path: ['group/project'] }, ['lfs:group/project:rw']),
    rule({ organization_slug: ['acme-inc'], build_branch: ['main'] }, ['lfs:acme/app:rw']),
    rule({ 'oidc.circleci.com/project-id': ['7d2a'] }, ['lfs:octo/circle:rw']),
  ]
}

async function exchange(subjectToken: string, more: Record<string, string> = {}, base = server.url) {
  const response = await fetch(`${base}/oauth/token`, {
    method: 'POST',
    body: new URLSearchParams({
      grant_type: 'urn:ietf:params:oauth:grant-type:token-exchange',
      subject_token: subjectToken,
      subject_token_type: `${TYPE}jwt`,
      ...more,
    }),
  })
  // biome-ignore lint/suspicious/noExplicitAny: the tests assert on the shape
  return { status: response.status, headers: response.headers, json: (await response.json()) as any }
}

describe.each(['sqlite', 'postgres'] as const)('POST /oauth/token on %s', (kind) => {
  let drop = async (): Promise<void> => {}
  beforeAll(async () => {
    let database: Awaited<ReturnType<typeof connect>> | undefined
    if (kind === 'postgres') {
      const fresh = await testPostgres()
      drop = fresh.drop
      database = await connect(fresh.url)
    }
    server = await startOnFiles({ trust: rules(), ...(database === undefined ? {} : { database }) })
  })
  afterAll(async () => {
    await server.stop()
    await drop()
  })

  test.each([
    ['GitHub', CLAIMS.github, 'octo/site', 'octo/site'],
    ['GitHub with ids in sub', CLAIMS.githubImmutable, 'octo/site', 'octo/site'],
    ['GitLab', CLAIMS.gitlab, 'group/project', 'group/project'],
    ['Buildkite', CLAIMS.buildkite, 'acme/app', CLAIMS.buildkite.sub],
    ['CircleCI', CLAIMS.circleci, 'octo/circle', CLAIMS.circleci.sub],
  ])(
    '%s: the token opens the repository that the rule names, and no other',
    async (_name, claims, repo, who) => {
      const { status, headers, json } = await exchange(await issuer.sign({ ...claims, aud: AUDIENCE }))
      expect(status).toBe(200)
      expect(headers.get('cache-control')).toBe('no-store')
      expect(json).toMatchObject({ issued_token_type: `${TYPE}access_token`, token_type: 'Bearer' })
      expect(json.scope.split(' ')).toContain(`lfs:${repo}:rw`)
      const payload = JSON.parse(Buffer.from(json.access_token.split('.')[1], 'base64url').toString())
      expect(payload).toMatchObject({
        iss: server.url,
        aud: server.url,
        sub: `ci:${new URL(issuer.url).host}:${who}`,
        scope: json.scope,
        jti: expect.any(String),
      })
      expect(payload.exp - payload.iat).toBe(json.expires_in)

      const body = { operation: 'upload', transfers: ['basic'], objects: [] }
      const basic = `Basic ${Buffer.from(`x-access-token:${json.access_token}`).toString('base64')}`
      expect((await post(`${server.url}/${repo}/info/lfs/objects/batch`, body, basic)).status).toBe(200)
      expect((await post(`${server.url}/other/repo/info/lfs/objects/batch`, body, basic)).status).toBe(404)

      const { db } = server.database
      const event = await db
        .selectFrom('events')
        .selectAll()
        .where('subject', '=', `token:${payload.jti}`)
        .executeTakeFirstOrThrow()
      expect(event).toMatchObject({ action: 'token.exchange', actor: payload.sub, source: '127.0.0.1' })
      expect(event.data).not.toContain(json.access_token)
      const stored = await db
        .selectFrom('tokens')
        .selectAll()
        .where('id', '=', payload.jti)
        .executeTakeFirstOrThrow()
      expect(stored).toMatchObject({ kind: 'jwt', scopes: json.scope, client: issuer.url })
    },
  )

  test('rules add up, and the shortest life counts', async () => {
    const main = await exchange(await issuer.sign({ ...CLAIMS.github, aud: AUDIENCE }))
    expect(main.json).toMatchObject({ scope: 'lfs:octo/site:r lfs:octo/site:rw', expires_in: 600 })
    const branch = await issuer.sign({ ...CLAIMS.github, ref: 'refs/heads/x', aud: AUDIENCE })
    const answer = await exchange(branch)
    expect(answer.json).toMatchObject({ scope: 'lfs:octo/site:r', expires_in: 900 })
  })

  test('fewer scopes may be asked for, more may not', async () => {
    const token = await issuer.sign({ ...CLAIMS.gitlab, aud: AUDIENCE })
    expect((await exchange(token, { scope: 'lfs:group/project:r' })).json.scope).toBe('lfs:group/project:r')
    for (const scope of ['lfs:*:rw', 'lfs:group/project:r users:*:rw', 'nonsense']) {
      expect(await exchange(token, { scope })).toMatchObject({
        status: 400,
        json: { error: 'invalid_scope' },
      })
    }
  })

  test('the audience asked for must be this server', async () => {
    const token = await issuer.sign({ ...CLAIMS.gitlab, aud: AUDIENCE })
    expect((await exchange(token, { audience: server.url })).status).toBe(200)
    expect(await exchange(token, { audience: 'https://other' })).toMatchObject({
      status: 400,
      json: { error: 'invalid_target' },
    })
  })
})

describe('what is not a good subject token', () => {
  beforeAll(async () => {
    server = await startOnFiles({ trust: rules() })
  })
  afterAll(() => server.stop())

  const refused = async (token: string, message: RegExp): Promise<void> => {
    const { status, headers, json } = await exchange(token)
    expect({ status, error: json.error }).toEqual({ status: 400, error: 'invalid_request' })
    expect(json.error_description).toMatch(message)
    expect(JSON.stringify(json)).not.toContain(token)
    expect(headers.get('cache-control')).toBe('no-store')
  }

  test('wrong or no audience, or several', async () => {
    await refused(await issuer.sign({ ...CLAIMS.github, aud: 'https://github.com/octo' }), /audience/)
    await refused(await issuer.sign({ ...CLAIMS.github }), /audience/)
    await refused(await issuer.sign({ ...CLAIMS.github, aud: [AUDIENCE, 'https://other'] }), /audience/)
  })

  test('claims that no rule fits', async () => {
    await refused(
      await issuer.sign({ ...CLAIMS.github, repository_id: '75', aud: AUDIENCE }),
      /no trust rule/,
    )
  })

  test('an issuer that is not trusted is not even asked', async () => {
    const other = await startCiIssuer()
    await refused(await other.sign({ ...CLAIMS.github, aud: AUDIENCE }), /does not trust/)
    expect(other.requests).toEqual([])
    await other.stop()
  })

  test('expired, not yet valid, without an end, from the future', async () => {
    const now = Math.floor(Date.now() / 1000)
    const claims = { ...CLAIMS.github, aud: AUDIENCE }
    await refused(await issuer.sign({ ...claims, exp: now - 120 }), /expired/)
    await refused(await issuer.sign({ ...claims, nbf: now + 600 }), /not valid/)
    await refused(await issuer.sign({ ...claims, exp: undefined }), /not valid/)
    await refused(await issuer.sign({ ...claims, iat: now + 600 }), /not valid/)
    // A clock that is off by less than a minute is no reason.
    expect((await exchange(await issuer.sign({ ...claims, exp: now - 30 }))).status).toBe(200)
  })

  test('signed by somebody else, by nobody, or with the public key as a secret', async () => {
    const { kid } = JSON.parse(
      Buffer.from((await issuer.sign({})).split('.')[0] as string, 'base64url').toString(),
    )
    const claims = {
      ...CLAIMS.github,
      iss: issuer.url,
      aud: AUDIENCE,
      exp: Math.floor(Date.now() / 1000) + 300,
    }
    const { privateKey } = await generateKeyPair('RS256')
    await refused(
      await new SignJWT(claims).setProtectedHeader({ alg: 'RS256', kid }).sign(privateKey),
      /not valid/,
    )
    const encode = (value: object): string => Buffer.from(JSON.stringify(value)).toString('base64url')
    await refused(`${encode({ alg: 'none' })}.${encode(claims)}.`, /not valid/)
    const keys = await (await fetch(`${issuer.url}/.well-known/jwks`)).text()
    const forged = await new SignJWT(claims).setProtectedHeader({ alg: 'HS256', kid }).sign(Buffer.from(keys))
    await refused(forged, /not valid/)
    // A header that brings its own key, or says where one is.
    const evil = await startCiIssuer()
    const good = await new SignJWT(claims)
      .setProtectedHeader({ alg: 'RS256', kid: 'mine', jku: `${evil.url}/.well-known/jwks` })
      .sign(privateKey)
    await refused(good, /not valid/)
    expect(evil.requests).toEqual([])
    await evil.stop()
    await refused('no jwt at all', /not valid/)
    await refused(`${'a'.repeat(20_000)}.b.c`, /not valid/)
  })

  test('requests that are malformed', async () => {
    const token = await issuer.sign({ ...CLAIMS.github, aud: AUDIENCE })
    const send = async (body: string, type = 'application/x-www-form-urlencoded') => {
      const response = await fetch(`${server.url}/oauth/token`, {
        method: 'POST',
        body,
        headers: { 'content-type': type },
      })
      return [response.status, ((await response.json()) as { error: string }).error]
    }
    const grant = 'grant_type=urn:ietf:params:oauth:grant-type:token-exchange'
    const type = `subject_token_type=${TYPE}jwt`
    expect(await send('grant_type=password')).toEqual([400, 'unsupported_grant_type'])
    expect(await send(grant)).toEqual([400, 'invalid_request'])
    expect(await send(`${grant}&subject_token=${token}`)).toEqual([400, 'invalid_request'])
    expect(await send(`${grant}&${type}&subject_token=${token}&subject_token=x`)).toEqual([
      400,
      'invalid_request',
    ])
    expect(await send(`${grant}&${type}&subject_token=${token}&actor_token=x`)).toEqual([
      400,
      'invalid_request',
    ])
    expect(await send('{}', 'application/json')).toEqual([400, 'invalid_request'])
    expect(await send(`${grant}&x=${'y'.repeat(70_000)}`)).toEqual([400, 'invalid_request'])
  })
})

test('without rules there is no exchange', async () => {
  const bare = await startOnFiles()
  expect(await exchange('x', {}, bare.url)).toMatchObject({
    status: 400,
    json: { error: 'unsupported_grant_type' },
  })
  await bare.stop()
})

describe('the keys of an issuer', () => {
  let now = 0
  let source: CiIssuer
  let trusting: Running
  beforeEach(async () => {
    now = Date.now()
    source = await startCiIssuer()
    const own = rule({ repository_id: ['74'] }, ['lfs:octo/site:r'], { issuer: source.url })
    trusting = await startOnFiles({ trust: [own], now: () => now })
  })
  afterEach(async () => {
    await trusting.stop()
    await source.stop()
  })

  const ask = async () => exchange(await source.sign({ ...CLAIMS.github, aud: AUDIENCE }), {}, trusting.url)
  const fetched = () => source.requests.filter((path) => path === '/.well-known/jwks').length

  test('are fetched once for many', async () => {
    const answers = await Promise.all(Array.from({ length: 10 }, ask))
    expect(answers.map(({ status }) => status)).toEqual(Array(10).fill(200))
    expect(fetched()).toBe(1)
  })

  test('rotate: an unknown key id is looked up, at most every 30 s', async () => {
    expect((await ask()).status).toBe(200)
    await source.rotate()
    expect((await ask()).status).toBe(400)
    expect(fetched()).toBe(1)
    now += 31_000
    expect((await ask()).status).toBe(200)
    expect(fetched()).toBe(2)
    await source.rotate()
    for (let i = 0; i < 5; i++) expect((await ask()).status).toBe(400)
    expect(fetched()).toBe(2)
  })

  test('that were taken back are forgotten', async () => {
    const old = await source.sign({ ...CLAIMS.github, aud: AUDIENCE, exp: Math.floor(now / 1000) + 3000 })
    expect((await exchange(old, {}, trusting.url)).status).toBe(200)
    await source.rotate()
    now += 601_000
    expect((await exchange(old, {}, trusting.url)).status).toBe(400)
  })

  test.each<[string, CiIssuer['answer']]>([
    ['that is down', (_request, response) => !!response.writeHead(500).end('{}')],
    ['that answers no JSON', (_request, response) => !!response.end('<html>')],
    [
      'of another name',
      (_request, response) => !!response.end('{"issuer":"https://x","jwks_uri":"https://x"}'),
    ],
    ['that sends without end', (_request, response) => !!response.end(`"${'x'.repeat(2 ** 20)}"`)],
    [
      'that redirects',
      (_request, response) => !!response.writeHead(302, { location: 'http://169.254.169.254/' }).end(),
    ],
  ])('of an issuer %s: try later, and do not hammer it', async (_name, answer) => {
    source.answer = answer
    const first = await ask()
    expect(first).toMatchObject({ status: 503, json: { error: 'temporarily_unavailable' } })
    expect(first.headers.get('retry-after')).toBe('30')
    await ask()
    expect(source.requests).toHaveLength(1)
    source.answer = undefined
    now += 31_000
    expect((await ask()).status).toBe(200)
  })

  test('stay good for a while when the issuer is away', async () => {
    const token = await source.sign({ ...CLAIMS.github, aud: AUDIENCE, exp: Math.floor(now / 1000) + 9000 })
    expect((await exchange(token, {}, trusting.url)).status).toBe(200)
    source.answer = (_request, response) => !!response.writeHead(502).end()
    now += 1_000_000
    expect((await exchange(token, {}, trusting.url)).status).toBe(200)
    now += 3_000_000
    expect((await exchange(token, {}, trusting.url)).status).toBe(503)
  })

  test('are never fetched over plain http from elsewhere', async () => {
    const keys = new IssuerKeys({
      issuer: source.url,
      fetch: async () => Response.json({ issuer: source.url, jwks_uri: 'http://keys.example/jwks' }),
    })
    await expect(keys.find({ alg: 'RS256' }, { payload: '', signature: '' })).rejects.toThrow(
      /cannot get the keys/,
    )
  })
})
