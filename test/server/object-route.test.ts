import { once } from 'node:events'
import { mkdir, readdir, writeFile } from 'node:fs/promises'
import { request as httpRequest } from 'node:http'
import { connect } from 'node:net'
import { dirname, join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { keyOf } from '../../src/access/object-location.ts'
import { type ObjectGrant, SignedUrls } from '../../src/access/signed-urls.ts'
import { TimoneError } from '../../src/errors.ts'
import type { Oid } from '../../src/oid.ts'
import {
  fakeStore,
  filesIn,
  type Running,
  raw,
  type Sample,
  SECRET,
  sample,
  startOnFiles,
  until,
} from './harness.ts'

const repository = { org: 'foo', repo: 'bar' }
let running: Running & { root: string }
let stored: Sample

const inAMinute = () => Math.floor(Date.now() / 1000) + 60

function sign(
  object: Sample,
  method: 'GET' | 'PUT',
  more: Partial<ObjectGrant> = {},
  server = running,
): string {
  const { oid, size } = object
  const urls = new SignedUrls({ url: server.url, secret: SECRET })
  return urls.sign({ method, repository, oid: oid as Oid, size, expires: inAMinute(), ...more })
}

const pathOf = (object: Sample): string =>
  join(running.root, keyOf('', { repository, oid: object.oid as Oid }))
const put = (href: string, bytes: Buffer) => fetch(href, { method: 'PUT', body: new Uint8Array(bytes) })
const temporaries = async () => (await filesIn(running.root)).filter((path) => path.includes('.timone'))

/** File descriptors that this process holds below the store's folder. */
async function openFiles(): Promise<number> {
  const { readlink } = await import('node:fs/promises')
  const links = await Promise.all(
    (await readdir('/proc/self/fd')).map((fd) => readlink(`/proc/self/fd/${fd}`).catch(() => '')),
  )
  return links.filter((path) => path.startsWith(running.root)).length
}

beforeAll(async () => {
  running = await startOnFiles({ limits: { idle: 300 } })
  stored = sample(100_000)
  await mkdir(dirname(pathOf(stored)), { recursive: true })
  await writeFile(pathOf(stored), stored.bytes)
})
afterAll(() => running.stop())

describe('PUT', () => {
  test.each([0, 1, 3_000_000])('%i bytes are stored under their oid', async (size) => {
    const object = sample(size)
    const answer = await put(sign(object, 'PUT'), object.bytes)
    expect(answer.status).toBe(200)
    expect(await running.store.head(keyOf('', { repository, oid: object.oid as Oid }))).toMatchObject({
      size,
    })
  })

  test('other bytes are refused and leave nothing', async () => {
    const object = sample(2_000_000)
    const answer = await put(sign(object, 'PUT'), sample(2_000_000).bytes)
    expect(answer.status).toBe(422)
    expect(await answer.json()).toMatchObject({ code: 'hash_mismatch', request_id: expect.any(String) })
    expect(await running.store.head(keyOf('', { repository, oid: object.oid as Oid }))).toBeUndefined()
    expect(await temporaries()).toEqual([])
  })

  test('another length is refused before anything is read', async () => {
    const object = sample(1000)
    const answer = await put(sign(object, 'PUT'), object.bytes.subarray(1))
    expect(answer.status).toBe(422)
    expect(await answer.json()).toMatchObject({ code: 'size_mismatch' })
    const { pathname, search } = new URL(sign(object, 'PUT'))
    const headers = { 'transfer-encoding': 'chunked' }
    expect((await raw(running.url, 'PUT', pathname + search, headers, object.bytes)).status).toBe(422)
  })

  test('an object that is there: at once, whatever is sent, and the connection goes on', async () => {
    const path = new URL(sign(stored, 'PUT')).pathname + new URL(sign(stored, 'PUT')).search
    const socket = connect(Number(new URL(running.url).port), '127.0.0.1')
    let said = ''
    socket.on('data', (chunk) => {
      said += chunk.toString()
    })
    const request = `PUT ${path} HTTP/1.1\r\nHost: x\r\nContent-Length: ${stored.size}\r\n\r\n`
    socket.write(request)
    // Answered before a byte of the body was sent: a repeated push costs nothing.
    await until(() => said.startsWith('HTTP/1.1 200'))
    socket.write(stored.bytes)
    socket.write('GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n')
    await once(socket, 'close')
    expect(said).toContain('{"status":"ok",')
  })

  test('100-continue', async () => {
    const object = sample(5000)
    const { hostname, port, pathname, search } = new URL(sign(object, 'PUT'))
    const headers = { expect: '100-continue', 'content-length': '5000' }
    const request = httpRequest({ hostname, port, method: 'PUT', path: pathname + search, headers })
    request.flushHeaders()
    await once(request, 'continue')
    request.end(object.bytes)
    const [response] = await once(request, 'response')
    expect(response.statusCode).toBe(200)
    response.resume()
    await once(response, 'end')
  })

  test('a client that goes away leaves no file, no descriptor and no connection', async () => {
    const object = sample(3_000_000)
    const { hostname, port, pathname, search } = new URL(sign(object, 'PUT'))
    const headers = { 'content-length': String(object.size) }
    const request = httpRequest({ hostname, port, method: 'PUT', path: pathname + search, headers })
    request.on('error', () => {})
    request.write(object.bytes.subarray(0, 2_000_000))
    await until(async () => (await temporaries()).length > 0)
    request.destroy()
    await until(async () => (await temporaries()).length === 0)
    await until(async () => (await openFiles()) === 0)
    expect((await put(sign(object, 'PUT'), object.bytes)).status).toBe(200)
  })

  test('a client that falls silent is cut off and leaves nothing', async () => {
    const object = sample(3_000_000)
    const { hostname, port, pathname, search } = new URL(sign(object, 'PUT'))
    const headers = { 'content-length': String(object.size) }
    const request = httpRequest({ hostname, port, method: 'PUT', path: pathname + search, headers })
    const failed = once(request, 'error')
    request.write(object.bytes.subarray(0, 100))
    const started = Date.now()
    await expect(failed).resolves.toMatchObject([{ code: 'ECONNRESET' }])
    expect(Date.now() - started).toBeGreaterThan(200)
    await until(async () => (await temporaries()).length === 0 && (await openFiles()) === 0)
  })

  test('a store that fails in the middle: the client, still sending, gets to read why', async () => {
    const store = fakeStore({
      head: async () => undefined,
      put: async (_key, body) => {
        await once(body, 'data')
        body.pause()
        throw new TimoneError('disk_full', 'no space left on /srv/objects')
      },
    })
    const other = { ...(await startOnFiles({ store })), root: '' }
    const object = sample(30_000_000)
    const answer = await put(sign(object, 'PUT', {}, other), object.bytes)
    expect(answer.status).toBe(507)
    expect(await answer.json()).toMatchObject({
      code: 'disk_full',
      message: 'the disk of the server is full',
    })
    await other.stop()
  })
})

describe('GET and HEAD', () => {
  test('the whole, with what a cache and a resumed download need', async () => {
    const answer = await fetch(sign(stored, 'GET'))
    expect(answer.status).toBe(200)
    expect(answer.headers.get('etag')).toMatch(/^".+"$/)
    expect(answer.headers.get('accept-ranges')).toBe('bytes')
    expect(answer.headers.get('x-content-type-options')).toBe('nosniff')
    expect(answer.headers.get('content-type')).toBe('application/octet-stream')
    expect(answer.headers.get('content-length')).toBe('100000')
    expect(Buffer.from(await answer.arrayBuffer()).equals(stored.bytes)).toBe(true)
    const head = await fetch(sign(stored, 'GET'), { method: 'HEAD' })
    expect(head.status).toBe(200)
    expect(head.headers.get('content-length')).toBe('100000')
    expect(head.headers.get('etag')).toBe(answer.headers.get('etag'))
  })

  test.each<[string, number, string | null, [number, number]]>([
    ['bytes=0-9', 206, 'bytes 0-9/100000', [0, 10]],
    ['bytes=99990-', 206, 'bytes 99990-99999/100000', [99_990, 100_000]],
    ['bytes=99990-200000', 206, 'bytes 99990-99999/100000', [99_990, 100_000]],
    ['bytes=-10', 206, 'bytes 99990-99999/100000', [99_990, 100_000]],
    ['bytes=-200000', 206, 'bytes 0-99999/100000', [0, 100_000]],
    ['bytes=100000-', 416, 'bytes */100000', [0, 0]],
    ['bytes=-0', 416, 'bytes */100000', [0, 0]],
    ['bytes=0-1,5-6', 200, null, [0, 100_000]],
    ['bytes=9-1', 200, null, [0, 100_000]],
    ['items=0-1', 200, null, [0, 100_000]],
    ['bytes=', 200, null, [0, 100_000]],
  ])('Range: %s', async (range, status, contentRange, [from, to]) => {
    const answer = await fetch(sign(stored, 'GET'), { headers: { range } })
    expect(answer.status).toBe(status)
    expect(answer.headers.get('content-range')).toBe(contentRange)
    expect(Buffer.from(await answer.arrayBuffer()).equals(stored.bytes.subarray(from, to))).toBe(true)
  })

  test('a range of an empty object', async () => {
    const object = sample(0)
    await put(sign(object, 'PUT'), object.bytes)
    const answer = await fetch(sign(object, 'GET'), { headers: { range: 'bytes=0-' } })
    expect(answer.status).toBe(416)
    expect((await fetch(sign(object, 'GET'))).headers.get('content-length')).toBe('0')
  })

  test('If-Match and If-Range', async () => {
    const href = sign(stored, 'GET')
    const etag = (await fetch(href, { method: 'HEAD' })).headers.get('etag') ?? ''
    const status = async (headers: Record<string, string>) => {
      const answer = await fetch(href, { headers: { range: 'bytes=1-', ...headers } })
      await answer.body?.cancel()
      return answer.status
    }
    expect(await status({ 'if-match': etag })).toBe(206)
    expect(await status({ 'if-match': `"x", ${etag}` })).toBe(206)
    expect(await status({ 'if-match': '*' })).toBe(206)
    expect(await status({ 'if-match': '"x"' })).toBe(412)
    expect(await status({ 'if-range': etag })).toBe(206)
    expect(await status({ 'if-range': '"x"' })).toBe(200)
  })

  test('absent', async () => {
    const answer = await fetch(sign(sample(20), 'GET'))
    expect(answer.status).toBe(404)
    expect(await answer.json()).toMatchObject({ code: 'not_found' })
  })

  test('a client that stops reading is cut off, and one that leaves leaves nothing open', async () => {
    const object = sample(20)
    await mkdir(dirname(pathOf(object)), { recursive: true })
    const bytes = Buffer.alloc(40_000_000, 7)
    await writeFile(pathOf(object), bytes)
    const path = new URL(sign(object, 'GET')).pathname + new URL(sign(object, 'GET')).search
    const slow = connect(Number(new URL(running.url).port), '127.0.0.1')
    slow.on('error', () => {})
    slow.write(`GET ${path} HTTP/1.1\r\nHost: x\r\n\r\n`)
    slow.pause()
    await until(async () => (await openFiles()) === 1)
    await until(async () => (await openFiles()) === 0)
    slow.destroy()
    const gone = await fetch(sign(object, 'GET'))
    await gone.body?.getReader().read()
    await until(async () => (await openFiles()) === 1)
    await gone.body?.cancel().catch(() => {})
    await until(async () => (await openFiles()) === 0)
  })

  test('a store that breaks off: the client sees a short body, never a whole one', async () => {
    const { Readable } = await import('node:stream')
    const store = fakeStore({
      head: async () => ({ size: 10, etag: '"e"' }),
      get: async () => ({
        size: 10,
        etag: '"e"',
        body: Readable.from(
          (async function* () {
            yield Buffer.from('12345')
            throw new TimoneError('size_mismatch', 'it became shorter')
          })(),
        ),
      }),
    })
    const logged: object[] = []
    const log = (fields: object) => void logged.push(fields)
    const other = {
      ...(await startOnFiles({ store, logger: { debug: log, info: log, warn: log, error: log } })),
      root: '',
    }
    const answer = await fetch(sign(stored, 'GET', {}, other))
    await expect(answer.arrayBuffer()).rejects.toThrow()
    await until(() => logged.some((fields) => 'code' in fields && fields.code === 'size_mismatch'))
    await other.stop()
  })
})

describe('parts', () => {
  test('each has its own link and length; the object appears with the last step only', async () => {
    const object = sample(6 * 2 ** 20)
    const key = keyOf('', { repository, oid: object.oid as Oid })
    const partSize = 5 * 2 ** 20
    const uploadId = await running.store.createUpload(key, { size: object.size, partSize })
    const link = (number: number, size: number) =>
      sign({ ...object, size }, 'PUT', { part: { uploadId, number } })
    const first = await put(link(1, partSize), object.bytes.subarray(0, partSize))
    expect(first.status).toBe(200)
    expect(first.headers.get('etag')).toMatch(/".+"/)
    expect((await put(link(2, 2 ** 20), object.bytes.subarray(0, 10))).status).toBe(422)
    expect((await put(link(2, 2 ** 20), object.bytes.subarray(partSize))).status).toBe(200)
    expect(await running.store.head(key)).toBeUndefined()
    const parts = await running.store.listParts(key, uploadId)
    expect(parts.map(({ size }) => size)).toEqual([partSize, 2 ** 20])
    await running.store.abortUpload(key, uploadId)
    const late = await put(link(1, partSize), object.bytes.subarray(0, partSize))
    expect(late.status).toBe(404)
    expect(await late.json()).toMatchObject({ code: 'no_such_upload' })
  })
})

describe('what is refused', () => {
  test('no signature, another one, another method, another object, an old one', async () => {
    const good = sign(stored, 'GET')
    const change = (from: string | RegExp, to: string): string => good.replace(from, to)
    const other = sample(20)
    const links: [string, string][] = [
      ['GET', change(/&signature=.*/, '')],
      ['GET', change(/signature=.*/, `signature=${'0'.repeat(64)}`)],
      ['GET', change(/\?.*/, '')],
      ['GET', change(stored.oid, other.oid)],
      ['GET', change('/foo/bar/', '/foo/baz/')],
      ['PUT', good],
      ['GET', sign(stored, 'PUT')],
      ['GET', sign(stored, 'GET', { expires: Math.floor(Date.now() / 1000) - 1 })],
    ]
    for (const [method, href] of links) {
      const answer = await fetch(href, { method, ...(method === 'PUT' ? { body: 'x' } : {}) })
      expect(answer.status, `${method} ${href}`).toBe(403)
      expect(await answer.json()).toMatchObject({ code: 'forbidden' })
    }
  })

  test.each(['DELETE', 'POST', 'PATCH', 'OPTIONS'])('%s', async (method) => {
    expect((await fetch(sign(stored, 'GET'), { method })).status).toBe(404)
  })

  test('all of it where objects live in a bucket', async () => {
    const other = await startOnFiles({ store: fakeStore({ driver: 's3' }) })
    expect((await fetch(sign(stored, 'GET', {}, { ...other, root: '' }))).status).toBe(404)
    await other.stop()
  })

  test('the oid is checked before it is looked for', async () => {
    const oids = [
      'A'.repeat(64),
      'a'.repeat(63),
      '..%2f..%2fetc%2fpasswd',
      '%00',
      stored.oid.replace(/^./, '%61'),
    ]
    for (const oid of oids) {
      expect((await raw(running.url, 'GET', `/foo/bar/object/${oid}?size=1`)).status, oid).toBe(404)
    }
  })
})
