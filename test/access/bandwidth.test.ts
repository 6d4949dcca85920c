import { once } from 'node:events'
import http from 'node:http'
import { Readable } from 'node:stream'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { Bandwidth } from '../../src/access/bandwidth.ts'
import { HttpClient } from '../../src/access/http-client.ts'

describe('Bandwidth', () => {
  test('who comes later waits behind who came before; a pause is worth a quarter of a second', () => {
    let now = 1000
    const bandwidth = new Bandwidth(1000, () => now)
    expect(bandwidth.spend(250)).toBe(0)
    expect(bandwidth.spend(100)).toBe(100)
    expect(bandwidth.spend(100)).toBe(200)
    now += 200
    expect(bandwidth.spend(100)).toBe(100)
    now += 60_000
    expect(bandwidth.spend(250)).toBe(0)
    expect(bandwidth.spend(1)).toBe(1)
  })

  test('bytes go in slices small enough to share', () => {
    expect([1000, 100_000, 2 ** 20, 10 ** 9].map((rate) => new Bandwidth(rate).slice)).toEqual([
      1024, 5000, 52_429, 1_048_576,
    ])
  })
})

const RATE = 4 * 2 ** 20
/** What may go at once, and what is on its way: generous. */
const BURST = RATE / 4 + 2 ** 20

describe('HttpClient with a bandwidth', () => {
  let server: http.Server
  let url: URL
  let client: HttpClient
  let came: { at: number; bytes: number }[]
  const blob = Buffer.alloc(6 * 2 ** 20, 'x')
  beforeEach(async () => {
    came = []
    server = http.createServer((request, response) => {
      let body = 0
      request.on('data', (chunk: Buffer) => {
        body += chunk.length
        came.push({ at: performance.now(), bytes: chunk.length })
      })
      request.on('end', () => response.end(request.method === 'GET' ? blob : String(body)))
    })
    server.listen(0, '127.0.0.1')
    await once(server, 'listening')
    url = new URL(`http://127.0.0.1:${(server.address() as { port: number }).port}/`)
  })
  afterEach(async () => {
    await client.close()
    server.closeAllConnections()
    server.close()
    await once(server, 'close')
  })

  /** Fails when more than the rate allows came by any moment. */
  function expectBounded(): void {
    const [first] = came
    let bytes = 0
    for (const one of came) {
      bytes += one.bytes
      const seconds = (one.at - (first?.at ?? 0)) / 1000
      expect(bytes).toBeLessThanOrEqual(1.2 * RATE * seconds + BURST)
    }
  }
  async function read(body: Readable): Promise<number> {
    let bytes = 0
    for await (const chunk of body as AsyncIterable<Buffer>) {
      bytes += chunk.length
      came.push({ at: performance.now(), bytes: chunk.length })
    }
    return bytes
  }
  const put = async (body: () => Buffer | Readable, size = blob.length, onSent?: (bytes: number) => void) => {
    const { body: answer } = await client.send({
      method: 'PUT',
      url,
      headers: { 'content-length': String(size) },
      body,
      onSent,
    })
    let text = ''
    for await (const chunk of answer.setEncoding('utf8')) text += String(chunk)
    return Number(text)
  }

  test('uploads, of buffers and of streams together, keep to it and arrive whole', async () => {
    client = new HttpClient(async () => ({}), {}, new Bandwidth(RATE))
    let sent = 0
    const got = await Promise.all([
      put(
        () => blob,
        blob.length,
        (bytes) => {
          sent += bytes
        },
      ),
      put(() => Readable.from([blob.subarray(0, 10), blob.subarray(10)], { objectMode: false })),
    ])
    expect(got).toEqual([blob.length, blob.length])
    expect(sent).toBe(blob.length)
    expectBounded()
  })

  test('downloads keep to it and arrive whole', async () => {
    client = new HttpClient(async () => ({}), {}, new Bandwidth(RATE))
    const get = async () => (await client.send({ method: 'GET', url, headers: {} })).body
    const bodies = await Promise.all([get(), get()])
    expect(await Promise.all(bodies.map(read))).toEqual([blob.length, blob.length])
    expectBounded()
  })

  test('a limit so low that a connection rests longer than the idle time-out is no time-out', async () => {
    // 64 KiB at 100 KiB/s: chunks are 0.6 s apart on each connection.
    client = new HttpClient(async () => ({}), { idle: 100, headers: 100 }, new Bandwidth(100 * 1024))
    const small = blob.subarray(0, 100 * 1024)
    const got = await Promise.all([1, 2, 3].map(() => put(() => small, small.length)))
    expect(got).toEqual([small.length, small.length, small.length])
  })

  test('a reader that gives up in the middle leaves nothing running', async () => {
    client = new HttpClient(async () => ({}), {}, new Bandwidth(RATE))
    const { body } = await client.send({ method: 'GET', url, headers: {} })
    await once(body, 'readable')
    body.destroy()
    await once(body, 'close')
    expect(await put(() => blob.subarray(0, 10), 10)).toBe(10)
  })
})
