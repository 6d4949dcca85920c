import { once } from 'node:events'
import { connect } from 'node:net'
import { PassThrough, Readable } from 'node:stream'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { TimoneError } from '../../src/errors.ts'
import { nullLogger } from '../../src/log.ts'
import { createLogger } from '../../src/server/logger.ts'
import { VERSION } from '../../src/version.ts'
import { failureFaults } from '../lfs/batch-schema.ts'
import { fakeStore, post, type Running, raw, sample, startOnFiles, until } from './harness.ts'

const BATCH = '/foo/bar/info/lfs/objects/batch'
let running: Running
let authorization: string

beforeAll(async () => {
  running = await startOnFiles()
  authorization = await running.as('ada')
})
afterAll(() => running.stop())

function port(of: { url: string }): number {
  return Number(new URL(of.url).port)
}

/** A pinned latch: `wait` holds until `open` is called. */
function latch(): { wait: Promise<void>; open: () => void } {
  let open = (): void => {}
  const wait = new Promise<void>((resolve) => {
    open = resolve
  })
  return { wait, open }
}

describe('limits', () => {
  test('a body over 8 MiB is refused before it is parsed, announced or in chunks', async () => {
    const body = Buffer.alloc(8 * 2 ** 20 + 1, 0x20)
    const announced = await raw(running.url, 'POST', BATCH, { authorization }, body)
    expect(announced.status).toBe(413)
    expect(failureFaults(JSON.parse(announced.body.toString()))).toEqual([])
    const chunked = await fetch(running.url + BATCH, {
      method: 'POST',
      headers: { authorization },
      body: Readable.toWeb(Readable.from([body.subarray(0, 2 ** 20), body])) as ReadableStream,
      duplex: 'half',
    })
    expect(chunked.status).toBe(413)
    expect(failureFaults(await chunked.json())).toEqual([])
  })

  test('a body of nearly 8 MiB is read, in chunks too', async () => {
    const text = JSON.stringify({ operation: 'upload', objects: [], filler: 'x'.repeat(8_000_000) })
    expect((await post(running.url + BATCH, text, authorization)).status).toBe(200)
    const chunked = await fetch(running.url + BATCH, {
      method: 'POST',
      headers: { authorization },
      body: Readable.toWeb(Readable.from([Buffer.from(text)])) as ReadableStream,
      duplex: 'half',
    })
    expect(await chunked.json()).toMatchObject({ objects: [] })
  })

  test('too many at once are told when to come back', async () => {
    const held = latch()
    const store = fakeStore({
      head: async () => {
        await held.wait
        return undefined
      },
    })
    const other = await startOnFiles({ store })
    const auth = await other.as('ada')
    // 30 bodies of 5 MiB are more than the 128 MiB that may be under way.
    const object = { oid: 'a'.repeat(64), size: 1 }
    const body = JSON.stringify({ operation: 'upload', objects: [object], filler: 'x'.repeat(5 * 2 ** 20) })
    let refused = 0
    const answers = Array.from({ length: 30 }, async () => {
      const answer = await post(other.url + BATCH, body, auth)
      if (answer.status === 429) refused++
      return answer
    })
    await until(() => refused === 5)
    held.open()
    const done = await Promise.all(answers)
    expect(done.filter(({ status }) => status === 200).length).toBe(25)
    for (const { status, headers } of done) {
      if (status !== 200) expect([status, headers.get('retry-after')]).toEqual([429, '2'])
    }
    const small = { operation: 'upload', objects: [object] }
    expect((await post(other.url + BATCH, small, auth)).status).toBe(200)
    await other.stop()
  })

  test('connections that announce much and send nothing, signed in or not, are in nobody’s way', async () => {
    const head = `POST ${BATCH} HTTP/1.1\r\nHost: x\r\nContent-Length: ${8 * 2 ** 20}\r\n`
    const sockets = Array.from({ length: 32 }, (_, index) => {
      const socket = connect(port(running), '127.0.0.1')
      socket.on('error', () => {})
      socket.write(`${head}${index % 2 === 0 ? '' : `Authorization: ${authorization}\r\n`}\r\n{`)
      return socket
    })
    await Promise.all(sockets.map((socket) => once(socket, 'connect')))
    const body = { operation: 'upload', objects: [] }
    for (let turn = 0; turn < 20; turn++) {
      expect((await post(running.url + BATCH, body, authorization)).status).toBe(200)
    }
    for (const socket of sockets) socket.destroy()
  })

  test('who has not signed in cannot use up what is there for those who have', async () => {
    const other = await startOnFiles({ load: { requests: 1, bytes: 100_000 } })
    const head = `POST ${BATCH} HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n`
    const stranger = connect(port(other), '127.0.0.1')
    stranger.on('error', () => {})
    stranger.write(`${head}\r\n{${' '.repeat(900_000)}`)
    const body = { operation: 'upload', objects: [], filler: 'x'.repeat(90_000) }
    const auth = await other.as('ada')
    for (let turn = 0; turn < 20; turn++) {
      expect((await post(other.url + BATCH, body, auth)).status).toBe(200)
    }
    stranger.destroy()
    // And a token that is none is turned down before anything is sent.
    const forger = connect(port(other), '127.0.0.1')
    forger.write(`${head}Authorization: Bearer nonsense\r\n\r\n`)
    const [said] = await once(forger, 'data')
    expect(said.toString()).toContain('401')
    forger.destroy()
    await other.stop()
  })

  test('bytes count as they arrive, and no more once their sender has left', async () => {
    const other = await startOnFiles({ load: { requests: 10, bytes: 100_000 } })
    const auth = await other.as('ada')
    const holder = connect(port(other), '127.0.0.1')
    holder.on('error', () => {})
    holder.write(
      `POST ${BATCH} HTTP/1.1\r\nHost: x\r\nAuthorization: ${auth}\r\nContent-Length: 99999\r\n\r\n${' '.repeat(60_000)}`,
    )
    const body = { operation: 'upload', objects: [], filler: 'x'.repeat(90_000) }
    const status = async () => (await post(other.url + BATCH, body, auth)).status
    await until(async () => (await status()) === 429)
    holder.destroy()
    await until(async () => (await status()) === 200)
    await other.stop()
  })

  test.each([
    ['falls silent', { idle: 300 }, false],
    ['sends a byte now and then', { idle: 60_000, answer: 300 }, true],
  ])('a client that does not take its answer and %s is cut off', async (_name, limits, trickles) => {
    const logged: { complete?: boolean }[] = []
    const logger = { ...nullLogger, info: (fields: object) => void logged.push(fields) }
    const other = await startOnFiles({ load: { requests: 1, bytes: 8 * 2 ** 20 }, limits, logger })
    const auth = await other.as('ada')
    // More than the kernel keeps for a connection.
    const objects = Array.from({ length: 100_000 }, (_, index) => ({ oid: `${index}`.padStart(40, 'x') }))
    const text = JSON.stringify({ operation: 'download', objects })
    const reader = connect(port(other), '127.0.0.1').pause()
    reader.on('error', () => {})
    reader.write(
      `POST ${BATCH} HTTP/1.1\r\nHost: x\r\nAuthorization: ${auth}\r\nContent-Length: ${text.length}\r\n\r\n${text}`,
    )
    if (trickles) reader.write('GET /')
    const trickle = setInterval(() => trickles && reader.write('x'), 50)
    await until(() => logged.length === 1)
    expect(logged[0]).toMatchObject({ status: 200, complete: false })
    // Its place is free again.
    expect((await post(other.url + BATCH, { operation: 'upload', objects: [] }, auth)).status).toBe(200)
    clearInterval(trickle)
    reader.destroy()
    await other.stop()
  })

  test('a client that takes its answer slowly gets all of it', async () => {
    const other = await startOnFiles({ limits: { idle: 300 } })
    const objects = Array.from({ length: 50_000 }, (_, index) => ({ oid: `${index}`.padStart(40, 'x') }))
    const answer = await fetch(other.url + BATCH, {
      method: 'POST',
      headers: { authorization: await other.as('ada') },
      body: JSON.stringify({ operation: 'download', objects }),
    })
    let text = ''
    let pauses = 0
    for await (const piece of answer.body?.pipeThrough(new TextDecoderStream()) ?? []) {
      text += piece
      if (text.length > (pauses + 1) * 2 ** 20 && pauses < 5) {
        pauses++
        await new Promise((resolve) => setTimeout(resolve, 100))
      }
    }
    expect(JSON.parse(text).objects.length).toBe(50_000)
    await other.stop()
  })

  test.each([
    ['a head that never ends', 'POST / HTTP/1.1\r\nHost: x\r\nX-Slow: '],
    ['a body that never ends', `POST ${BATCH} HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{`],
  ])('%s is cut off', async (_name, beginning) => {
    const other = await startOnFiles({ limits: { headers: 200, body: 200 } })
    const socket = connect(port(other), '127.0.0.1')
    socket.on('error', () => {})
    socket.resume()
    socket.write(beginning)
    await once(socket, 'close')
    await other.stop()
  })

  test('a token that is too long for any', async () => {
    const long = await raw(running.url, 'POST', BATCH, { authorization: `Bearer ${'a'.repeat(40_000)}` })
    expect(long.status).toBe(401)
    const endless = connect(port(running), '127.0.0.1')
    endless.on('error', () => {})
    endless.write(`POST ${BATCH} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ${'a'.repeat(100_000)}`)
    const [said] = await once(endless, 'data')
    expect(said.toString()).toContain('431')
    endless.destroy()
  })
})

describe('paths', () => {
  test.each([
    '/foo/../bar/info/lfs/objects/batch',
    '/foo/x/../bar/info/lfs/objects/batch',
    '/./foo/bar/info/lfs/objects/batch',
    '/foo//bar/info/lfs/objects/batch',
    '//foo/bar/info/lfs/objects/batch',
    '/foo/%2e%2e/info/lfs/objects/batch',
    '/foo/%2E%2e/bar/info/lfs/objects/batch',
    '/foo/..%2fbar/info/lfs/objects/batch',
    '/foo%2fbar/baz/info/lfs/objects/batch',
    '/foo%5cbar/baz/info/lfs/objects/batch',
    '/foo\\bar/baz/info/lfs/objects/batch',
    '/foo/bar%00/info/lfs/objects/batch',
    '/foo/bar%zz/info/lfs/objects/batch',
    '/foo/bar%c0%ae/info/lfs/objects/batch',
    '/foo/.bar/info/lfs/objects/batch',
    '/foo/bar%20baz/info/lfs/objects/batch',
    `/foo/${'r'.repeat(101)}/info/lfs/objects/batch`,
    `/foo/${'r'.repeat(3000)}/info/lfs/objects/batch`,
    '/api/bar/info/lfs/objects/batch',
    '/healthz/bar/info/lfs/objects/batch',
    '/foo/.git/info/lfs/objects/batch',
    '/foo/bar.git.git/info/lfs/objects/batch',
    '/foo/bar.git.git.git/info/lfs/objects/batch',
    '/foo/bar/info/lfs/objects/',
    '/foo/bar/info/lfs/objects/batch/',
    '/foo/bar',
    '/',
    '*',
  ])('%s is not there', async (path) => {
    const body = JSON.stringify({ operation: 'upload', objects: [] })
    const answer = await raw(running.url, 'POST', path, { authorization }, body)
    expect(answer.status).toBe(404)
    expect(failureFaults(JSON.parse(answer.body.toString()))).toEqual([])
  })

  test('the absolute form, as proxies send it', async () => {
    const body = JSON.stringify({ operation: 'upload', objects: [] })
    const answer = await raw(running.url, 'POST', `${running.url}${BATCH}`, { authorization }, body)
    expect(answer.status).toBe(200)
  })

  test('GET on a route for POST is not there', async () => {
    expect((await raw(running.url, 'GET', BATCH, { authorization })).status).toBe(404)
  })
})

describe('health', () => {
  test('alive and ready', async () => {
    const alive = await fetch(`${running.url}/healthz`)
    expect(await alive.json()).toEqual({ status: 'ok', version: VERSION })
    const ready = await fetch(`${running.url}/readyz`)
    expect(ready.status).toBe(200)
    expect(await ready.json()).toEqual({ status: 'ok', checks: { storage: 'ok', database: 'ok' } })
  })

  test('not ready says only what kind of thing, remembers it for two seconds, and is alive all the same', async () => {
    const logged: object[] = []
    const logger = { ...nullLogger, warn: (fields: object) => void logged.push(fields) }
    let checks = 0
    let now = Date.now()
    let works = false
    const store = fakeStore({
      check: async () => {
        checks++
        if (!works) throw new TimoneError('no_such_bucket', 'the bucket lfs does not exist')
      },
    })
    const other = await startOnFiles({ store, logger, now: () => now })
    const answers = await Promise.all([1, 2, 3].map(() => fetch(`${other.url}/readyz`)))
    for (const answer of answers) {
      expect(answer.status).toBe(503)
      expect(await answer.json()).toEqual({
        status: 'unavailable',
        checks: { storage: 'no_such_bucket', database: 'ok' },
      })
    }
    expect(logged).toMatchObject([{ check: 'storage', error: 'the bucket lfs does not exist' }])
    expect(checks).toBe(1)
    works = true
    expect((await fetch(`${other.url}/readyz`)).status).toBe(503)
    now += 2001
    expect((await fetch(`${other.url}/readyz`)).status).toBe(200)
    expect((await fetch(`${other.url}/healthz`)).status).toBe(200)
    await other.stop()
  })
})

describe('the log', () => {
  test('has one line for each request, with its id, and no secret', async () => {
    const destination = new PassThrough()
    let text = ''
    destination.on('data', (chunk) => {
      text += chunk
    })
    const other = await startOnFiles({ logger: createLogger({ level: 'debug', destination }) })
    const auth = await other.as('ada')
    const object = sample(5)
    const { json } = await post(
      other.url + BATCH,
      { operation: 'upload', objects: [{ oid: object.oid, size: 5 }] },
      auth,
    )
    const { upload } = json.objects[0].actions
    await fetch(upload.href, { method: 'PUT', body: new Uint8Array(object.bytes) })
    const refused = await fetch(`${other.url}/foo/bar/info/lfs/credentials`, {
      method: 'POST',
      headers: { authorization: 'Bearer not.a.token', 'x-request-id': 'from-the-proxy-1' },
      body: '{}',
    })
    expect(refused.headers.get('x-request-id')).toBe('from-the-proxy-1')
    expect(await refused.json()).toMatchObject({ request_id: 'from-the-proxy-1' })
    const odd = await fetch(`${other.url}/nothing?secret=1`, { headers: { 'x-request-id': 'a b{"}' } })
    expect(odd.headers.get('x-request-id')).toMatch(/^[0-9a-f-]{36}$/)
    const lines = () =>
      text
        .trim()
        .split('\n')
        .map((line) => JSON.parse(line))
        .filter(({ msg }) => msg === 'request')
    await until(() => lines().length === 4)
    const [batch, put, credentials] = lines()
    expect(batch).toMatchObject({
      level: 'info',
      method: 'POST',
      path: BATCH,
      status: 200,
      subject: 'ada',
      complete: true,
      request_id: expect.any(String),
      ms: expect.any(Number),
      bytes_in: expect.any(Number),
      bytes_out: expect.any(Number),
    })
    expect(put).toMatchObject({ method: 'PUT', path: `/foo/bar/object/${object.oid}`, bytes_in: 5 })
    expect(credentials).toMatchObject({ status: 401, request_id: 'from-the-proxy-1' })
    for (const secret of [
      auth.slice(7),
      new URL(upload.href).searchParams.get('signature') ?? 'x',
      '?',
      'not.a.token',
    ]) {
      expect(text).not.toContain(secret)
    }
    await other.stop()
  })

  test('has the path of an absolute target, not the password before it, and no more of it than 500 characters', async () => {
    const logged: { path?: string }[] = []
    const logger = { ...nullLogger, info: (fields: object) => void logged.push(fields) }
    const other = await startOnFiles({ logger })
    const long = `/${'x'.repeat(1000)}`
    for (const target of [
      `http://ada:hunter2@example.org${BATCH}?signature=s`,
      'ftp://ada:hunter2@example.org/x',
      long,
    ]) {
      await raw(other.url, 'GET', target)
    }
    expect(logged.map(({ path }) => path)).toEqual([BATCH, '', long.slice(0, 500)])
    expect(JSON.stringify(logged)).not.toContain('hunter2')
    await other.stop()
  })

  test('hides fields that are secrets by name', () => {
    const destination = new PassThrough()
    const logger = createLogger({ level: 'info', destination })
    logger.info({ token: 's1', upstream: { secret_access_key: 's2', session_token: 's3' } }, 'x')
    const line = destination.read().toString()
    expect(line).not.toMatch(/s[123]/)
    expect(line).toContain('[redacted]')
  })
})

describe('stopping', () => {
  test('requests under way end, new connections are refused, idle ones closed', async () => {
    const held = latch()
    const entered = latch()
    const store = fakeStore({
      head: async () => {
        entered.open()
        await held.wait
        return undefined
      },
    })
    const other = await startOnFiles({ store })
    const idle = connect(port(other), '127.0.0.1')
    idle.on('error', () => {})
    idle.resume()
    await once(idle, 'connect')
    const pending = post(
      other.url + BATCH,
      { operation: 'upload', objects: [{ oid: 'a'.repeat(64), size: 1 }] },
      await other.as('ada'),
    )
    await entered.wait
    const closed = other.server.close()
    await once(idle, 'close')
    await expect(fetch(`${other.url}/healthz`)).rejects.toThrow()
    held.open()
    expect((await pending).status).toBe(200)
    expect(await closed).toBe(true)
    await other.stop()
  })

  test('what takes too long is cut off', async () => {
    const entered = latch()
    const store = fakeStore({
      head: () => {
        entered.open()
        return new Promise(() => {})
      },
    })
    const other = await startOnFiles({ store, limits: { drain: 100 } })
    const pending = post(
      other.url + BATCH,
      { operation: 'upload', objects: [{ oid: 'a'.repeat(64), size: 1 }] },
      await other.as('ada'),
    )
    const failed = expect(pending).rejects.toThrow()
    await entered.wait
    expect(await other.server.close()).toBe(false)
    await failed
    await other.stop()
  })
})
