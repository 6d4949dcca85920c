import { createHash, randomBytes, randomUUID } from 'node:crypto'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { connect } from '../../src/database/connect.ts'
import { OpaqueTokens } from '../../src/identity/opaque-tokens.ts'
import { Sessions } from '../../src/identity/sessions.ts'
import { tokenRow } from '../../src/identity/token-rows.ts'
import { Users } from '../../src/identity/users.ts'
import { type TestDatabase, testPostgres } from '../helpers/postgres.ts'
import { type Running, startOnFiles } from './harness.ts'

const APP = 'https://app.example'
const BACK = `${APP}/notes/?view=1`

describe.each(['sqlite', 'postgres'] as const)('letting apps in, in %s', (kind) => {
  let postgres: TestDatabase | undefined
  let running: Running
  let root: string
  let cookie: string
  let csrf: string
  let bob: number

  beforeAll(async () => {
    postgres = kind === 'postgres' ? await testPostgres() : undefined
    root = mkdtempSync(join(tmpdir(), 'timone-consent-'))
    const database = await connect(postgres?.url ?? 'sqlite::memory:')
    running = await startOnFiles({
      ...{ database, remoteStorage: { root, large: 65_536, quota: 1_000_000 } },
      identity: {
        login: {
          issuer: 'https://idp.example',
          clientId: 'timone',
          clientSecret: 'x',
          scope: 'openid',
          tokenExpiresIn: 60,
        },
      },
    })
    bob = (await new Users(database.db).add({ login: 'bob' }, '')).id
    const sessions = new Sessions({ db: database.db, url: running.url })
    const started = await sessions.start(bob, { source: '', client: 'test' })
    cookie = started.cookie.split(';', 1)[0] as string
    csrf = started.session.csrf
  })
  afterAll(async () => {
    await running.stop()
    await postgres?.drop()
    rmSync(root, { recursive: true, force: true })
  })

  type Fields = Record<string, string>
  const ASKED: Fields = {
    redirect_uri: BACK,
    client_id: APP,
    scope: 'notes:rw photos:r',
    response_type: 'token',
    state: 'a b+c',
  }
  const look = (fields: Fields = {}, headers: Fields = { cookie }, login = 'bob') =>
    fetch(`${running.url}/oauth/${login}?${new URLSearchParams({ ...ASKED, ...fields })}`, {
      headers,
      redirect: 'manual',
    })
  const answer = (fields: Fields = {}, headers: Fields = { cookie }) =>
    fetch(`${running.url}/oauth/bob`, {
      method: 'POST',
      headers,
      redirect: 'manual',
      body: new URLSearchParams({ ...ASKED, csrf, answer: 'allow', ...fields }),
    })
  const form = (path: string, fields: Fields, headers: Fields = {}) =>
    fetch(`${running.url}${path}`, { method: 'POST', headers, body: new URLSearchParams(fields) })
  const get = (path: string, token: string, origin = APP) =>
    fetch(`${running.url}${path}`, { headers: { authorization: `Bearer ${token}`, origin } })

  test('WebFinger leads to the storage and to the page', async () => {
    const find = (resource: string) =>
      fetch(`${running.url}/.well-known/webfinger?resource=${encodeURIComponent(resource)}`)
    const { host } = new URL(running.url)
    const found = await find(`acct:bob@${host}`)
    expect(found.headers.get('content-type')).toBe('application/jrd+json')
    expect(found.headers.get('access-control-allow-origin')).toBe('*')
    expect(await found.json()).toEqual({
      subject: `acct:bob@${host}`,
      links: [
        {
          rel: 'http://tools.ietf.org/id/draft-dejong-remotestorage',
          href: `${running.url}/storage/bob`,
          properties: {
            'http://remotestorage.io/spec/version': 'draft-dejong-remotestorage-26',
            'http://tools.ietf.org/html/rfc6749#section-4.2': `${running.url}/oauth/bob`,
            'http://tools.ietf.org/html/rfc6749#section-3.1': `${running.url}/oauth/bob`,
            'http://tools.ietf.org/html/rfc6749#section-3.2': `${running.url}/oauth/token`,
            'http://tools.ietf.org/html/rfc7636': 'S256',
            'http://tools.ietf.org/html/rfc6750#section-2.3': null,
            'http://tools.ietf.org/html/rfc7233': 'GET',
          },
        },
      ],
    })
    for (const [resource, status] of [
      [`acct:nobody@${host}`, 404],
      ['acct:bob@elsewhere.example', 404],
      ['https://bob', 400],
      ['', 400],
    ] as const) {
      const refused = await find(resource)
      expect([refused.status, refused.headers.get('access-control-allow-origin')]).toEqual([status, '*'])
    }
  })

  test('who is not signed in is sent to sign in, and comes back', async () => {
    const response = await look({}, {})
    expect(response.status).toBe(303)
    const to = new URL(response.headers.get('location') ?? '', running.url)
    expect(to.pathname).toBe('/auth/login')
    const back = new URL(to.searchParams.get('return_to') ?? '', running.url)
    expect(back.pathname).toBe('/oauth/bob')
    expect(Object.fromEntries(back.searchParams)).toEqual(ASKED)
    expect((await answer({}, {})).headers.get('location')).toMatch(/^\/auth\/login\?/)
  })

  test('the page names the app and what it asks for, and cannot be framed', async () => {
    const response = await look({ state: '"><script>alert(1)</script>' })
    expect(response.status).toBe(200)
    const text = await response.text()
    expect(text).toContain(`<code>${APP}</code>`)
    expect(text).toContain('read, change and delete what is in “notes”')
    expect(text).toContain('read, but not change, what is in “photos”')
    expect(text).not.toContain('<script>')
    // What an app calls itself counts for nothing.
    const pretending = await (await look({ client_id: 'Your Bank' })).text()
    expect(pretending).toContain(`The app at <strong><code>${APP}</code>`)
    expect(pretending.replace(/<input[^>]*>/g, '')).not.toContain('Bank')
    expect(await (await look({ scope: '*:rw' })).text()).toContain(
      'read, change and delete everything in your storage',
    )
    expect(response.headers.get('x-frame-options')).toBe('DENY')
    expect(response.headers.get('cache-control')).toBe('no-store')
    const policy = response.headers.get('content-security-policy') ?? ''
    expect(policy).toContain("default-src 'none'")
    expect(policy).toContain("frame-ancestors 'none'")
    expect(policy).toContain(`form-action 'self' ${APP};`)
  })

  test('a token comes back to the app, is bound to its origin, is remembered, and can be taken back', async () => {
    const denied = await answer({ answer: 'deny' })
    expect(denied.headers.get('location')).toBe(`${BACK}#error=access_denied&state=a%20b%2Bc`)
    expect((await look()).status).toBe(200)
    const response = await answer()
    expect(response.status).toBe(303)
    expect(response.headers.get('referrer-policy')).toBe('no-referrer')
    const [address, fragment = ''] = (response.headers.get('location') ?? '').split('#')
    expect(address).toBe(BACK)
    const got = Object.fromEntries(new URLSearchParams(fragment))
    expect(got).toMatchObject({ token_type: 'bearer', scope: 'notes:rw photos:r', state: 'a b+c' })
    const token = got.access_token ?? ''
    expect((await get('/storage/bob/notes/', token)).status).toBe(200)
    expect((await get('/storage/bob/photos/', token)).status).toBe(200)
    expect((await get('/storage/bob/other/', token)).status).toBe(403)
    expect((await get('/storage/bob/notes/', token, 'https://evil.example')).status).toBe(401)

    // For as much or less, and the same address only.
    expect((await look()).headers.get('location')).toMatch(
      /^https:\/\/app\.example\/notes\/\?view=1#access_token=/,
    )
    expect((await look({ scope: 'notes:r' })).status).toBe(303)
    expect((await look({ scope: 'notes:rw photos:rw' })).status).toBe(200)
    expect((await look({ redirect_uri: `${APP}/other` })).status).toBe(200)

    const tokens = new OpaqueTokens(running.database.db)
    for (const { id, kind } of await tokens.list(bob)) if (kind === 'app') await tokens.revoke(id)
    expect((await get('/storage/bob/notes/', token)).status).toBe(401)
    expect((await look()).status).toBe(200)
    const events = await running.database.db.selectFrom('events').selectAll().execute()
    expect(events.filter(({ action }) => action === 'app.consent').length).toBeGreaterThan(0)
    expect(JSON.stringify(events)).not.toContain(token)
  })

  test('an app that the earlier system let in is not asked about, until that is revoked', async () => {
    const md5 = createHash('md5').update('salt of the earthsome app').update(`${APP}/old`).digest('hex')
    const grant = { userId: bob, scopes: ['storage:maps:rw'], client: `app ${md5}` }
    const data = { md5, salt: 'salt of the earth' }
    const row = tokenRow({ ...grant, kind: 'app', data }, randomUUID(), null, Date.now())
    await running.database.db.insertInto('tokens').values(row).execute()
    const old = { client_id: 'some app', redirect_uri: `${APP}/old`, scope: 'maps:r' }
    expect((await look({ ...old, client_id: 'some' })).status).toBe(200)
    const taken = await look(old)
    expect([taken.status, taken.headers.get('location')]).toEqual([
      303,
      expect.stringMatching(/^https:\/\/app\.example\/old#access_token=tmo_/),
    ])
    // For less only, from the same address, without a query, and for who is signed in.
    expect((await look({ ...old, scope: 'maps:r notes:r' })).status).toBe(200)
    expect((await look({ ...old, redirect_uri: `${APP}/old?next=x` })).status).toBe(200)
    expect((await look(old, {})).headers.get('location')).toMatch(/^\/auth\/login/)
    for (const text of [md5, row.id, row.client])
      expect((await get('/storage/bob/maps/', text)).status).toBe(401)
    await new OpaqueTokens(running.database.db).revoke(row.id)
    expect((await look({ ...old, scope: 'maps:rw' })).status).toBe(200)
  })

  test.each([
    ['javascript:', { redirect_uri: 'javascript:alert(1)' }],
    ['data:', { redirect_uri: 'data:text/html,x' }],
    ['a scheme of its own', { redirect_uri: 'myapp://back' }],
    ['a relative address', { redirect_uri: '/back' }],
    ['none', { redirect_uri: '' }],
    ['a user in it', { redirect_uri: 'https://app.example@evil.example/' }],
    ['a password in it', { redirect_uri: 'https://:x@app.example/' }],
    ['a fragment', { redirect_uri: `${BACK}#x` }],
    ['a host with a header in it', { redirect_uri: 'https://a;b.example/' }],
    ['the address of another app', { redirect_uri: 'https://evil.example/' }],
    ['the client id of another app', { client_id: 'https://bank.example' }],
    ['another response type', { response_type: 'id_token' }],
    ['no scope', { scope: '' }],
    ['a scope that is none', { scope: 'lfs:*:rw' }],
    ['the public folder as a module', { scope: 'public:rw' }],
    ['a code without PKCE', { response_type: 'code' }],
    ['plain PKCE', { response_type: 'code', code_challenge: 'a'.repeat(43), code_challenge_method: 'plain' }],
  ])('refuses %s, and sends nothing anywhere', async (_name, fields: Fields) => {
    for (const response of [await look(fields), await answer(fields)]) {
      expect(response.status).toBe(400)
      expect(response.headers.get('location')).toBeNull()
      expect(response.headers.get('content-security-policy')).toContain("form-action 'self';")
    }
  })

  test('refuses a form of another session, a form of another site, and another user', async () => {
    for (const wrong of ['', 'x', csrf.replace(/^./, (first) => (first === '_' ? '-' : '_'))]) {
      const response = await answer({ csrf: wrong })
      expect([response.status, response.headers.get('location')]).toEqual([403, null])
    }
    expect((await look({}, { cookie }, 'eve')).status).toBe(403)
    const twice = await fetch(
      `${running.url}/oauth/bob?${new URLSearchParams(ASKED)}&redirect_uri=https://evil.example`,
      { headers: { cookie }, redirect: 'manual' },
    )
    expect(twice.status).toBe(400)
  })

  test('a code is good once, for who asked, at the same address, with the verifier', async () => {
    const verifier = randomBytes(32).toString('base64url')
    const challenge = createHash('sha256').update(verifier).digest('base64url')
    const code = async () => {
      const response = await answer({
        response_type: 'code',
        code_challenge: challenge,
        code_challenge_method: 'S256',
      })
      const to = new URL(response.headers.get('location') ?? '')
      expect([to.origin, to.searchParams.get('view'), to.searchParams.get('state'), to.hash]).toEqual([
        APP,
        '1',
        'a b+c',
        '',
      ])
      return to.searchParams.get('code') ?? ''
    }
    const redeem = (fields: Fields) =>
      form('/oauth/token', {
        grant_type: 'authorization_code',
        redirect_uri: BACK,
        client_id: APP,
        code_verifier: verifier,
        ...fields,
      })
    const first = await code()
    // A code is no token.
    expect((await get('/storage/bob/notes/', first)).status).toBe(401)
    const given = await redeem({ code: first })
    expect(given.headers.get('access-control-allow-origin')).toBe('*')
    const { access_token: token, ...rest } = (await given.json()) as Fields
    expect(rest).toEqual({ token_type: 'Bearer', scope: 'notes:rw photos:r' })
    expect((await get('/storage/bob/notes/', token ?? '')).status).toBe(200)
    const refused: Fields[] = [
      { code: 'nonsense' },
      {},
      { code: await code(), redirect_uri: 'https://evil.example/' },
      { code: await code(), client_id: 'https://evil.example' },
      { code: await code(), code_verifier: randomBytes(32).toString('base64url') },
      { code: await code(), code_verifier: '' },
    ]
    for (const fields of refused) {
      const response = await redeem(fields)
      expect([response.status, ((await response.json()) as Fields).error]).toEqual([400, 'invalid_grant'])
    }
    // Shown once more, somebody else has it too: what it gave is no longer good.
    expect((await get('/storage/bob/notes/', token ?? '')).status).toBe(200)
    expect((await redeem({ code: first })).status).toBe(400)
    expect((await get('/storage/bob/notes/', token ?? '')).status).toBe(401)
    const leaked = await code()
    const second = ((await (await redeem({ code: leaked })).json()) as Fields).access_token ?? ''
    expect((await redeem({ code: leaked, code_verifier: 'guessed' })).status).toBe(400)
    expect((await get('/storage/bob/notes/', second)).status).toBe(401)
    // Of several at once one gets it, and the others end that.
    const raced = await code()
    const all = await Promise.all(Array.from({ length: 8 }, () => redeem({ code: raced })))
    const [one, ...more] = all.filter(({ status }) => status === 200)
    expect(more).toEqual([])
    const { access_token: ended = '' } = (await (one as Response).json()) as Fields
    expect((await get('/storage/bob/notes/', ended)).status).toBe(401)
  })

  test('introspection tells who may know, and nobody else', async () => {
    const tokens = new OpaqueTokens(running.database.db)
    const issue = async (client: string) =>
      (await tokens.issue({ userId: bob, kind: 'app', scopes: ['storage:notes:rw'], client })).token
    const [one, two] = [await issue(APP), await issue('https://two.example')]
    const ask = async (token: string, authorization?: string) => {
      const headers: Fields = authorization === undefined ? {} : { authorization }
      const response = await form('/oauth/introspect', { token }, headers)
      return [response.status, await response.json()] as const
    }
    const active = {
      active: true,
      scope: 'storage:notes:rw',
      client_id: APP,
      username: 'bob',
      sub: 'bob',
      token_type: 'Bearer',
      iat: expect.any(Number) as number,
      iss: running.url,
    }
    const service = await running.as('checker', 'users:*:r')
    expect(await ask(one, service)).toEqual([200, active])
    expect(await ask(one, `Bearer ${one}`)).toEqual([200, active])
    expect(await ask(two, `Bearer ${one}`)).toEqual([200, { active: false }])
    expect(await ask(one, await running.as('x', 'lfs:*:rw'))).toEqual([200, { active: false }])
    expect(await ask(one, await running.as('x', 'full'))).toEqual([200, { active: false }])
    expect(await ask('nonsense', service)).toEqual([200, { active: false }])
    expect((await ask(one))[0]).toBe(401)
    expect((await form('/oauth/revoke', { token: one })).status).toBe(200)
    expect(await ask(one, service)).toEqual([200, { active: false }])
    const session = cookie.split('=', 2)[1] ?? ''
    expect(await ask(session, service)).toEqual([200, { active: false }])
  })
})
