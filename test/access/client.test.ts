import { once } from 'node:events'
import http from 'node:http'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { CredentialsClient, type HeldCredentials, parseHref, postJson } from '../../src/access/client.ts'
import { HttpClient } from '../../src/access/http-client.ts'
import { Retrier } from '../../src/access/retry.ts'
import { nullLogger } from '../../src/log.ts'

const HOUR = 3_600_000

interface Asked {
  path: string
  authorization: string | undefined
  body: unknown
}

type Reply = { status: number; body: unknown; headers?: Record<string, string> }

/** A server of credentials whose answers each test writes. */
let server: http.Server
let origin: string
let asked: Asked[]
let reply: (request: Asked) => Reply | Promise<Reply>
let client: HttpClient
/** This machine's clock, and the server's. */
let clock: number
let serverClock: number

beforeEach(async () => {
  asked = []
  clock = Date.parse('2026-05-05T12:00:00Z')
  serverClock = clock
  server = http.createServer(async (request, response) => {
    let text = ''
    for await (const chunk of request) text += chunk
    const one = {
      path: request.url ?? '',
      authorization: request.headers.authorization,
      body: JSON.parse(text),
    }
    asked.push(one)
    const { status, body, headers } = await reply(one)
    response.sendDate = false
    response.writeHead(status, {
      'content-type': 'application/json',
      date: new Date(serverClock).toUTCString(),
      ...headers,
    })
    response.end(typeof body === 'string' ? body : JSON.stringify(body))
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  origin = `http://127.0.0.1:${(server.address() as { port: number }).port}`
  client = new HttpClient(async () => ({}))
  reply = () => ({ status: 200, body: s3() })
})
afterEach(async () => {
  await client.close()
  server.closeAllConnections()
  server.close()
})

let issued = 0
/** A right answer, each with another key. `life` in milliseconds, by the server's clock. */
function s3(life = HOUR): Record<string, unknown> {
  issued++
  return {
    driver: 's3',
    endpoint: 'https://s3.example',
    region: 'eu-west-1',
    bucket: 'lfs',
    prefix: 'org/repo/',
    force_path_style: true,
    access_key_id: `key-${issued}`,
    secret_access_key: 'secret',
    session_token: 'session',
    expires_at: new Date(serverClock + life).toISOString(),
    renew: {
      href: `${origin}/renew`,
      token: `renewal-${issued}`,
      expires_at: new Date(serverClock + 12 * HOUR).toISOString(),
    },
  }
}

const url = (): Record<string, unknown> => ({
  driver: 'url',
  transfers: `${origin}/transfers`,
  token: 'a token',
  expires_at: new Date(serverClock + HOUR).toISOString(),
})

function credentials(): CredentialsClient {
  return new CredentialsClient({
    send: client.send,
    retrier: new Retrier({ retries: 2, maxDelay: 0.01 }),
    log: nullLogger,
    now: () => clock,
  })
}

const action = (path = '/credentials') => ({
  href: `${origin}${path}`,
  header: { Authorization: 'Bearer of-the-action' },
})
const keyOf = ({ answer }: HeldCredentials): string => (answer as { access_key_id: string }).access_key_id

describe('CredentialsClient', () => {
  test('fifty at once make one request', async () => {
    const subject = credentials()
    const held = await Promise.all(Array.from({ length: 50 }, () => subject.get(action(), 'upload')))
    expect(asked).toEqual([
      { path: '/credentials', authorization: 'Bearer of-the-action', body: { operation: 'upload' } },
    ])
    expect(new Set(held.map(keyOf)).size).toBe(1)
  })

  test('another direction or repository has credentials of its own', async () => {
    const subject = credentials()
    await Promise.all([
      subject.get(action(), 'upload'),
      subject.get(action(), 'download'),
      subject.get(action('/other'), 'upload'),
    ])
    expect(asked).toHaveLength(3)
  })

  test('a failure is not kept: the next one asks again', async () => {
    const subject = credentials()
    reply = () => ({ status: 403, body: { message: 'not yours' } })
    await expect(subject.get(action(), 'upload')).rejects.toMatchObject({ code: 'forbidden' })
    reply = () => ({ status: 200, body: s3() })
    expect(keyOf(await subject.get(action(), 'upload'))).toMatch(/^key-/)
  })

  test('whoever waits with one who is interrupted still gets credentials', async () => {
    const subject = credentials()
    const stop = new AbortController()
    let answer: (reply: Reply) => void = () => {}
    reply = () =>
      new Promise((resolve) => {
        answer = resolve
        if (asked.length > 1) resolve({ status: 200, body: s3() })
      })
    const gone = subject.get(action(), 'upload', { signal: stop.signal })
    const waiting = subject.get(action(), 'upload')
    await expect.poll(() => asked.length).toBe(1)
    stop.abort()
    await expect(gone).rejects.toMatchObject({ code: 'cancelled' })
    expect(keyOf(await waiting)).toMatch(/^key-/)
    answer({ status: 200, body: s3() })
  })

  test('are kept while a fifth of their life is left, then renewed by the renewal, by all at once', async () => {
    const subject = credentials()
    const first = await subject.get(action(), 'upload')
    clock += 0.79 * HOUR
    expect(await subject.get(action(), 'upload')).toBe(first)
    clock += 0.02 * HOUR
    serverClock = clock
    const renewed = await Promise.all(Array.from({ length: 50 }, () => subject.get(action(), 'upload')))
    expect(new Set(renewed.map(keyOf))).toEqual(new Set([`key-${issued}`]))
    expect(asked).toHaveLength(2)
    expect(asked[1]).toEqual({
      path: '/renew',
      authorization: `Bearer renewal-${issued - 1}`,
      body: { operation: 'upload' },
    })
  })

  test.each([
    ['ahead', HOUR],
    ['behind', -HOUR],
  ])('a clock that is an hour %s of the server changes nothing', async (_where, offset) => {
    clock += offset
    const subject = credentials()
    const held = await subject.get(action(), 'upload')
    expect(held.expiresAt).toBe(clock + HOUR)
    expect(held.clockOffset).toBe(-offset)
    clock += 0.79 * HOUR
    expect(await subject.get(action(), 'upload')).toBe(held)
    clock += 0.02 * HOUR
    serverClock += 0.81 * HOUR
    expect(await subject.get(action(), 'upload')).not.toBe(held)
  })

  test('what the store has refused is never given again, and fetched anew once for all who saw it', async () => {
    const subject = credentials()
    const stale = await subject.get(action(), 'upload')
    const fresh = await Promise.all(
      Array.from({ length: 8 }, () => subject.get(action(), 'upload', { stale })),
    )
    for (const held of fresh) expect(held).not.toBe(stale)
    expect(new Set(fresh).size).toBe(1)
    expect(asked).toHaveLength(2)
    // One who comes late with the old ones gets the new ones without a request.
    expect(await subject.get(action(), 'upload', { stale })).toBe(fresh[0])
    expect(asked).toHaveLength(2)
  })

  test.each([401, 403])('a renewal that is refused with %i: the action’s token, once', async (status) => {
    const subject = credentials()
    const stale = await subject.get(action(), 'upload')
    reply = ({ path }) =>
      path === '/renew' ? { status, body: { message: 'over' } } : { status: 200, body: s3() }
    const held = await subject.get(
      { ...action(), header: { Authorization: 'Bearer later-batch' } },
      'upload',
      {
        stale,
      },
    )
    expect(keyOf(held)).not.toBe(keyOf(stale))
    expect(asked.map(({ path, authorization }) => [path, authorization]).slice(1)).toEqual([
      ['/renew', expect.stringMatching(/^Bearer renewal-/)],
      ['/credentials', 'Bearer later-batch'],
    ])
  })

  test('both refused: one error that says to sign in, no loop', async () => {
    const subject = credentials()
    const stale = await subject.get(action(), 'upload')
    reply = () => ({ status: 401, body: { message: 'the token has expired', request_id: 'r-1' } })
    await expect(subject.get(action(), 'upload', { stale })).rejects.toMatchObject({
      code: 'unauthorized',
      message: expect.stringMatching(/the token has expired: sign in again.*\(request r-1\)/),
    })
    expect(asked).toHaveLength(3)
  })

  test('401 at first: one request, one error, no token in it', async () => {
    reply = () => ({ status: 401, body: { message: 'bad token' } })
    const error = await credentials()
      .get(action(), 'upload')
      .catch((reason: unknown) => reason)
    expect(error).toMatchObject({ code: 'unauthorized', host: new URL(origin).host })
    expect(String(error)).not.toContain('of-the-action')
    expect(asked).toHaveLength(1)
  })

  test('a renewal that leads to another host is not used: its token would be told to a stranger', async () => {
    const subject = credentials()
    reply = () => {
      const body = s3()
      return {
        status: 200,
        body: { ...body, renew: { ...(body.renew as object), href: 'http://127.0.0.1:9/x' } },
      }
    }
    const stale = await subject.get(action(), 'upload')
    await subject.get(action(), 'upload', { stale })
    expect(asked.map(({ path }) => path)).toEqual(['/credentials', '/credentials'])
  })

  test.each([500, 502, 503, 429])('%i is tried again', async (status) => {
    reply = () => (asked.length < 3 ? { status, body: 'down for the moment' } : { status: 200, body: s3() })
    expect(keyOf(await credentials().get(action(), 'upload'))).toMatch(/^key-/)
    expect(asked).toHaveLength(3)
  })

  const cases: [string, () => unknown, RegExp][] = [
    ['null', () => null, /bad shape/],
    ['a text', () => '"s3"', /bad shape/],
    ['a list', () => [], /bad expires_at/],
    ['another driver', () => ({ ...s3(), driver: 'ftp' }), /bad driver/],
    ['no expiry', () => ({ ...s3(), expires_at: undefined }), /bad expires_at/],
    ['an expiry that is a number', () => ({ ...s3(), expires_at: 1764000000 }), /bad expires_at/],
    ['an expiry that is no time', () => ({ ...s3(), expires_at: 'soon' }), /bad expires_at/],
    ...[
      'endpoint',
      'region',
      'bucket',
      'prefix',
      'access_key_id',
      'secret_access_key',
      'session_token',
    ].flatMap((name): [string, () => unknown, RegExp][] => [
      [`s3 without ${name}`, () => ({ ...s3(), [name]: undefined }), new RegExp(`bad ${name}`)],
      [`s3 with an empty ${name}`, () => ({ ...s3(), [name]: '' }), new RegExp(`bad ${name}`)],
      [`s3 with a number as ${name}`, () => ({ ...s3(), [name]: 7 }), new RegExp(`bad ${name}`)],
    ]),
    ['an endpoint that is no URL', () => ({ ...s3(), endpoint: 's3.example' }), /bad endpoint/],
    ['an endpoint that is a file', () => ({ ...s3(), endpoint: 'file:///etc' }), /bad endpoint/],
    ['a prefix without a slash', () => ({ ...s3(), prefix: 'org/repo' }), /bad prefix/],
    ['a path style that is a text', () => ({ ...s3(), force_path_style: 'false' }), /bad force_path_style/],
    ['a renewal that is null', () => ({ ...s3(), renew: null }), /bad renew/],
    ['a renewal that is a text', () => ({ ...s3(), renew: 'x' }), /bad renew/],
    ['a renewal without a token', () => ({ ...s3(), renew: { href: origin } }), /bad renew/],
    ['url without transfers', () => ({ ...url(), transfers: undefined }), /bad transfers/],
    ['url with a relative transfers', () => ({ ...url(), transfers: '/transfers' }), /bad transfers/],
    ['url without token', () => ({ ...url(), token: '' }), /bad token/],
  ]
  test.each(cases)('%s: one error that names the host and the field', async (_what, body, message) => {
    reply = () => ({ status: 200, body: body() })
    await expect(credentials().get(action(), 'upload')).rejects.toMatchObject({
      code: 'invalid',
      message: expect.stringMatching(message),
      host: new URL(origin).host,
    })
    expect(asked).toHaveLength(1)
  })

  test('a page of HTML: is this a timone server?', async () => {
    reply = () => ({
      status: 200,
      body: '<html>Welcome</html>',
      headers: { 'content-type': 'text/html' },
    })
    await expect(credentials().get(action(), 'upload')).rejects.toMatchObject({
      code: 'invalid',
      message: expect.stringMatching(/not JSON: is this a timone server\?/),
    })
  })

  test.each([301, 302, 303, 307, 308])('a redirect (%i) is not followed', async (status) => {
    reply = ({ path }) =>
      path === '/credentials'
        ? { status, body: '', headers: { location: `${origin}/elsewhere` } }
        : { status: 200, body: s3() }
    await expect(credentials().get(action(), 'upload')).rejects.toMatchObject({
      code: 'config',
      message: expect.stringMatching(/redirects elsewhere.*lfs\.url/),
    })
    expect(asked.map(({ path }) => path)).toEqual(['/credentials'])
  })

  test.each(['', 'x', '/relative', 'ftp://host/x', 'javascript:alert(1)'])(
    'the href %j is refused before anything is asked',
    async (href) => {
      await expect(credentials().get({ href, header: {} }, 'upload')).rejects.toMatchObject({
        code: 'invalid',
      })
      expect(asked).toHaveLength(0)
      expect(() => parseHref(href)).toThrow(/usable URL/)
    },
  )
})

describe('postJson', () => {
  test.each([
    [400, undefined, 'invalid'],
    [404, undefined, 'not_found'],
    [404, 'no_such_upload', 'no_such_upload'],
    [408, undefined, 'unavailable'],
    [409, undefined, 'conflict'],
    [413, undefined, 'too_large'],
    [422, undefined, 'invalid'],
    [422, 'hash_mismatch', 'hash_mismatch'],
    [422, 'size_mismatch', 'size_mismatch'],
    [429, undefined, 'throttled'],
    [500, undefined, 'unavailable'],
    [507, undefined, 'disk_full'],
  ])('%i %s means %s', async (status, code, meaning) => {
    reply = () => ({ status, body: { message: 'the reason', code }, headers: { 'retry-after': '3' } })
    await expect(postJson(client.send, new URL(origin), {}, {}, undefined)).rejects.toMatchObject({
      code: meaning,
      status,
      retryAfter: 3,
      message: expect.stringContaining('the reason'),
    })
  })
})
