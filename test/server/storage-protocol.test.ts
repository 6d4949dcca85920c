import { mkdtempSync, rmSync } from 'node:fs'
import { Agent, request as httpRequest } from 'node:http'
import { connect as connectTcp } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { OpaqueTokens } from '../../src/identity/opaque-tokens.ts'
import { Users } from '../../src/identity/users.ts'
import { type Running, raw, startOnFiles } from './harness.ts'

const APP = 'https://app.example'
const ORIGIN = 'http://storage.example:8000'

let running: Running
let folder: string
let auth: { origin: string; authorization: string }

beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), 'timone-protocol-'))
  running = await startOnFiles({
    remoteStorage: { root: join(folder, 'a'), large: 65_536, quota: 10_000_000 },
  })
  auth = await signIn(running)
})
afterAll(async () => {
  await running.stop()
  rmSync(folder, { recursive: true, force: true })
})

async function signIn({ database }: Running, scope = 'storage:*:rw') {
  const users = new Users(database.db)
  const user = (await users.byLogin('bob')) ?? (await users.add({ login: 'bob' }, ''))
  const grant = { userId: user.id, kind: 'app', scopes: [scope], client: APP } as const
  const { token } = await new OpaqueTokens(database.db).issue(grant)
  return { origin: APP, authorization: `Bearer ${token}` }
}

const ask = (method: string, path: string, headers: Record<string, string> = {}, body?: Buffer | string) =>
  raw(running.url, method, `/storage/bob${path}`, { ...auth, ...headers }, body)
const put = (path: string, body: string, headers: Record<string, string> = {}) =>
  ask('PUT', path, { 'content-type': 'text/plain', ...headers }, body)

/** One request, byte for byte; gives the first line of the answer and all of it. */
function send(...lines: string[]): Promise<{ status: number; text: string }> {
  const { hostname, port } = new URL(running.url)
  return new Promise((resolve, reject) => {
    const socket = connectTcp(Number(port), hostname)
    socket.write(`${lines.join('\r\n')}\r\n\r\n`, 'latin1')
    socket.once('error', reject)
    socket.once('data', (data) => {
      const text = data.toString('latin1')
      socket.destroy()
      resolve({ status: Number(text.split(' ')[1]), text })
    })
  })
}

test('every refusal has its status, its headers for pages, and no secret', async () => {
  const { headers } = await put('/s/doc', 'x')
  const etag = headers.etag ?? ''
  await put('/s/folder/doc', 'x')
  const cases: [number, string, string, Record<string, string>][] = [
    [400, 'PUT', '/s/', {}],
    [400, 'DELETE', '/s/', {}],
    [400, 'PUT', '/s/doc', { 'content-range': 'bytes 0-0/1' }],
    [400, 'PUT', '/s/doc', { 'content-encoding': 'gzip' }],
    [400, 'PUT', '/s/doc', { 'content-type': 'x/'.padEnd(401, 'y') }],
    [400, 'GET', '/s/%zz', {}],
    [401, 'GET', '/s/doc', { authorization: 'Bearer tmo_wrong' }],
    [401, 'GET', '/s/doc', { authorization: 'Basic Ym9iOng=' }],
    [401, 'GET', '/s/doc', { origin: 'https://evil.example' }],
    [403, 'GET', '/../eve/s/doc', {}],
    [404, 'GET', '/s/none', {}],
    [404, 'HEAD', '/s/none', {}],
    [404, 'DELETE', '/s/none', {}],
    [405, 'POST', '/s/doc', {}],
    [405, 'PATCH', '/s/doc', {}],
    [409, 'PUT', '/s/folder', {}],
    [409, 'PUT', '/s/doc/below', {}],
    [412, 'PUT', '/s/doc', { 'if-match': '"other"' }],
    [412, 'PUT', '/s/doc', { 'if-none-match': '*' }],
    [412, 'PUT', '/s/none', { 'if-match': '*' }],
    [412, 'DELETE', '/s/none', { 'if-match': '"x"' }],
    [412, 'DELETE', '/s/doc', { 'if-none-match': etag }],
    [412, 'GET', '/s/doc', { 'if-match': '"other"' }],
    [414, 'GET', `/${'n'.repeat(5000)}`, {}],
    [416, 'GET', '/s/doc', { range: 'bytes=1-' }],
  ]
  for (const [status, method, path, more] of cases) {
    const answer = await ask(method, path === '/../eve/s/doc' ? '/../eve/s/doc' : path, more)
    const expected = path.startsWith('/../') ? 400 : status
    expect([method, path, more, answer.status]).toEqual([method, path, more, expected])
    expect(answer.headers).toMatchObject({
      'access-control-allow-origin': more.origin ?? APP,
      'access-control-expose-headers': expect.stringContaining('ETag'),
      vary: 'Origin',
      'content-security-policy': expect.stringContaining('sandbox'),
      'x-content-type-options': 'nosniff',
    })
    expect(answer.body.toString()).not.toMatch(/tmo_|timone-protocol/)
    if (method === 'HEAD') expect(answer.body).toHaveLength(0)
  }
  expect((await ask('GET', '/s/doc')).body.toString()).toBe('x')
  const other = await raw(running.url, 'GET', '/storage/eve/s/doc', auth)
  expect(other.status).toBe(403)
  expect((await ask('GET', '/s/doc', { authorization: '' })).headers['www-authenticate']).toBe(
    'Bearer realm="timone"',
  )
})

test('says 413 and 507 before it reads a body, and 507 while it does', async () => {
  const head = (length: string) => [
    'PUT /storage/bob/big/doc HTTP/1.1',
    'Host: x',
    `Authorization: ${auth.authorization}`,
    `Origin: ${APP}`,
    length,
  ]
  for (const [status, length] of [
    [413, 'Content-Length: 60000000000000'],
    [507, 'Content-Length: 10000001'],
  ] as const) {
    const { status: got, text } = await send(...head(length))
    expect([got, text.toLowerCase()]).toEqual([
      status,
      expect.stringContaining(`access-control-allow-origin: ${APP}`),
    ])
  }
  expect((await ask('GET', '/big/doc')).status).toBe(404)
})

test('compares tags as RFC 9110 says: lists, weak ones, and *', async () => {
  const { headers } = await put('/tags/doc', 'one')
  const etag = headers.etag ?? ''
  const status = async (method: string, more: Record<string, string>) =>
    (await ask(method, '/tags/doc', more, method === 'PUT' ? 'one' : undefined)).status
  expect(etag).toMatch(/^"[^"]+"$/)
  for (const list of [etag, `W/${etag}`, `"a", ${etag}`, `"a",W/"b" , W/${etag}`, '*'])
    expect(await status('GET', { 'if-none-match': list })).toBe(304)
  expect(await status('HEAD', { 'if-none-match': etag })).toBe(304)
  expect(await status('GET', { 'if-none-match': '"a", W/"b"' })).toBe(200)
  const same = { 'content-type': 'text/plain' }
  expect(await status('PUT', { ...same, 'if-match': `W/${etag}` })).toBe(412)
  expect(await status('PUT', { ...same, 'if-match': '"a", "b"' })).toBe(412)
  expect(await status('PUT', { ...same, 'if-none-match': `"a", ${etag}` })).toBe(412)
  expect(await status('PUT', { ...same, 'if-none-match': `W/${etag}` })).toBe(412)
  expect(await status('PUT', { ...same, 'if-match': `"a", ${etag}` })).toBe(200)
  expect(await status('PUT', { ...same, 'if-match': '*' })).toBe(200)
  // Another type is another version.
  const typed = await put('/tags/doc', 'one', { 'content-type': 'text/html' })
  expect(typed.headers.etag).not.toBe(etag)
  const again = await put('/tags/doc', 'one')
  expect(again.headers.etag).toBe(etag)
  const list = await ask('GET', '/tags/')
  expect((await ask('GET', '/tags/', { 'if-none-match': `W/${list.headers.etag}` })).status).toBe(304)
  const deleted = await ask('DELETE', '/tags/doc', { 'if-match': `"a", ${etag}` })
  expect([deleted.status, deleted.headers.etag]).toEqual([200, etag])
})

test.each([
  ['bytes=0-3', 206, '0123', 'bytes 0-3/10'],
  ['bytes=8-', 206, '89', 'bytes 8-9/10'],
  ['bytes=-3', 206, '789', 'bytes 7-9/10'],
  ['bytes=-99', 206, '0123456789', 'bytes 0-9/10'],
  ['bytes=5-99', 206, '56789', 'bytes 5-9/10'],
  ['bytes=9-9', 206, '9', 'bytes 9-9/10'],
  ['bytes=10-', 416, '', 'bytes */10'],
  ['bytes=-0', 416, '', 'bytes */10'],
  ['bytes=3-1', 200, '0123456789', undefined],
  ['bytes=a-b', 200, '0123456789', undefined],
  ['lines=0-1', 200, '0123456789', undefined],
  ['bytes=0-1,4-5', 200, '0123456789', undefined],
])('Range: %s', async (range, status, text, where) => {
  await put('/range/doc', '0123456789')
  const answer = await ask('GET', '/range/doc', { range })
  expect([answer.status, answer.body.toString(), answer.headers['content-range']]).toEqual([
    status,
    text,
    where,
  ])
  expect(answer.headers['content-length']).toBe(String(text.length))
  // HEAD says what a whole GET would.
  const head = await ask('HEAD', '/range/doc', { range })
  expect([head.status, head.headers['content-length'], head.headers['accept-ranges']]).toEqual([
    200,
    '10',
    'bytes',
  ])
  const stale = await ask('GET', '/range/doc', { range, 'if-range': '"old"' })
  expect([stale.status, stale.body.toString()]).toEqual([200, '0123456789'])
  const fresh = await ask('GET', '/range/doc', { range, 'if-range': answer.headers.etag ?? '' })
  if (answer.headers.etag !== undefined) expect(fresh.status).toBe(status)
})

test('gives types back as they came, and shows documents to browsers without letting them act', async () => {
  const types = [
    'text/html',
    'image/svg+xml',
    'text/x; charset="a b";x=%41+/\\\\',
    'application/json;charset=UTF-8',
    'X-Odd/\u00e9',
  ]
  for (const [at, type] of types.entries()) {
    const path = `/public/types/${at}`
    // As bytes: with a text, Node would send the header as UTF-8.
    await ask('PUT', path, { 'content-type': type }, Buffer.from('<script>alert(1)</script>'))
    for (const method of ['GET', 'HEAD']) {
      const shown = await raw(running.url, method, `/storage/bob${path}`)
      expect([shown.status, shown.headers['content-type']]).toEqual([200, type])
      expect(shown.headers).toMatchObject({
        'content-security-policy': "sandbox; default-src 'none'; frame-ancestors 'none'",
        'x-content-type-options': 'nosniff',
        'cache-control': 'no-cache, public',
        'last-modified': expect.stringMatching(/GMT$/),
        'access-control-allow-origin': '*',
      })
      expect(shown.headers['set-cookie']).toBeUndefined()
    }
  }
  const untyped = await ask('PUT', '/types/none', {}, 'x')
  expect([untyped.status, (await ask('GET', '/types/none')).headers['content-type']]).toEqual([
    201,
    'application/octet-stream',
  ])
  // A type that would end a header never gets so far.
  const { status } = await send(
    ...['PUT /storage/bob/types/bad HTTP/1.1', 'Host: x', `Authorization: ${auth.authorization}`],
    ...['Content-Type: a/b\u0000c', 'Content-Length: 0'],
  )
  expect(status).toBe(400)
})

test('HEAD says what GET says, of folders too', async () => {
  await put('/head/doc', 'hello')
  for (const path of ['/head/doc', '/head/', '/', '/nothing/']) {
    const [get, head] = [await ask('GET', path), await ask('HEAD', path)]
    expect(head.body).toHaveLength(0)
    for (const name of ['etag', 'content-type', 'content-length', 'last-modified', 'cache-control'])
      expect([path, name, head.headers[name]]).toEqual([path, name, get.headers[name]])
    expect(head.status).toBe(200)
  }
})

test('takes a body in chunks', async () => {
  const chunked = await ask('PUT', '/chunks/doc', { 'transfer-encoding': 'chunked' }, 'in pieces')
  expect(chunked.status).toBe(201)
  expect((await ask('GET', '/chunks/doc')).body.toString()).toBe('in pieces')
})

test('10 000 wrong tokens: soon refused at once, while others go on', async () => {
  await put('/rate/doc', 'x')
  const agent = new Agent({ keepAlive: true, maxSockets: 64 })
  const { hostname, port } = new URL(running.url)
  const one = (n: number) =>
    new Promise<number>((resolve, reject) => {
      const authorization = `Bearer tmo_${String(n).padStart(43, 'A')}`
      const options = { hostname, port, agent, path: '/storage/bob/rate/doc', headers: { authorization } }
      httpRequest(options, (response) => {
        response.resume()
        response.once('end', () => resolve(response.statusCode ?? 0))
      })
        .once('error', reject)
        .end()
    })
  const counts = new Map<number, number>()
  for (let at = 0; at < 10_000; at += 200) {
    const some = await Promise.all(Array.from({ length: 200 }, (_, n) => one(at + n)))
    for (const status of some) counts.set(status, (counts.get(status) ?? 0) + 1)
    if (at === 5000) expect((await ask('GET', '/rate/doc')).status).toBe(200)
  }
  agent.destroy()
  // Some of the minute before count as well.
  expect([...counts.keys()].sort()).toEqual([401, 429])
  expect(counts.get(401)).toBeLessThanOrEqual(200)
  expect((await ask('GET', '/rate/doc')).status).toBe(200)
  const wrong = await ask('GET', '/rate/doc', { authorization: 'Bearer tmo_no' })
  expect([wrong.status, Number(wrong.headers['retry-after']) > 0]).toEqual([429, true])
}, 60_000)

test('nor can the names of public documents be guessed by the thousand', async () => {
  const codes: number[] = []
  for (let at = 0; at < 1100; at += 50)
    codes.push(
      ...(await Promise.all(
        Array.from({ length: 50 }, async (_, n) => {
          const path = `/storage/${n % 2 === 0 ? 'bob' : 'nobody'}/public/guess/${at + n}`
          return (await raw(running.url, 'GET', path)).status
        }),
      )),
    )
  expect([...new Set(codes)].sort()).toEqual([404, 429])
  await put('/public/guess/real', 'x')
  expect((await raw(running.url, 'GET', '/storage/bob/public/guess/real')).status).toBe(200)
}, 60_000)

describe('an origin of its own', () => {
  let apart: Running
  beforeAll(async () => {
    const root = join(folder, 'b')
    apart = await startOnFiles({ remoteStorage: { root, large: 65_536, quota: 1e6, origin: ORIGIN } })
  })
  afterAll(() => apart.stop())

  test('serves the storage and nothing else, and the other serves no storage', async () => {
    const token = await signIn(apart)
    const on = (host: string, path: string, method = 'GET', body?: string) =>
      raw(apart.url, method, path, { ...token, host, 'content-type': 'text/html' }, body)
    const { host } = new URL(apart.url)
    expect((await on('storage.example:8000', '/storage/bob/x/doc', 'PUT', 'x')).status).toBe(201)
    expect((await on('STORAGE.example:8000', '/storage/bob/x/doc')).status).toBe(200)
    for (const other of [host, 'storage.example', 'evil.example']) {
      const refused = await on(other, '/storage/bob/x/doc')
      expect([refused.status, refused.headers['access-control-allow-origin']]).toEqual([404, APP])
    }
    for (const path of ['/oauth/bob', '/account', '/auth/login', '/oauth/token', '/.well-known/webfinger'])
      expect((await on('storage.example:8000', path)).status).toBe(404)
    expect((await on(host, '/healthz')).status).toBe(200)
  })

  test('is where WebFinger leads; without sign-in there is no page to send people to', async () => {
    const { host } = new URL(apart.url)
    const response = await fetch(`${apart.url}/.well-known/webfinger?resource=acct:bob@${host}`)
    const { links } = (await response.json()) as { links: { href: string; properties: object }[] }
    expect(links[0]?.href).toBe(`${ORIGIN}/storage/bob`)
    expect(links[0]?.properties).toEqual({
      'http://remotestorage.io/spec/version': 'draft-dejong-remotestorage-26',
      'http://tools.ietf.org/html/rfc6749#section-4.2': null,
      'http://tools.ietf.org/html/rfc6750#section-2.3': null,
      'http://tools.ietf.org/html/rfc7233': 'GET',
    })
  })
})
