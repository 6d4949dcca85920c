import { once } from 'node:events'
import { type AddressInfo, createServer, type Server, type Socket } from 'node:net'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { HttpClient, type HttpResponse, readText } from '../../src/access/http-client.ts'

/** What the server writes in answer to a request, one write after the other. */
let script: (string | Buffer | 'end')[][]
let server: Server
let sockets: Socket[]
let client: HttpClient
let url: URL

beforeEach(async () => {
  script = []
  sockets = []
  server = createServer({ noDelay: true }, (socket) => {
    sockets.push(socket)
    socket.on('error', () => {})
    let text = ''
    socket.on('data', async (bytes) => {
      text += bytes.toString('latin1')
      if (!text.endsWith('\r\n\r\n')) return
      text = ''
      for (const step of script.shift() ?? []) {
        if (step === 'end') socket.end()
        else socket.write(step)
        await new Promise((resolve) => setTimeout(resolve, 5))
      }
    })
  }).listen(0, '127.0.0.1')
  await once(server, 'listening')
  url = new URL(`http://127.0.0.1:${(server.address() as AddressInfo).port}/`)
  client = new HttpClient(async () => ({}), { idle: 2000 })
})
afterEach(async () => {
  await client.close()
  for (const socket of sockets) socket.destroy()
  server.close()
})

const get = (direct = true): Promise<HttpResponse> => client.send({ method: 'GET', url, headers: {}, direct })

/** Reads a direct body into rooms of `size` bytes, pausing after each where `pausing`. */
async function readDirect({ body, direct }: HttpResponse, size = 7, pausing = false): Promise<Buffer> {
  const pieces: Buffer[] = []
  let room: Buffer
  direct?.attach({
    room: () => (room = Buffer.alloc(size)),
    arrived: (count) => {
      pieces.push(room.subarray(0, count))
      if (pausing) setTimeout(() => direct.resume(), 1)
      return !pausing
    },
  })
  for await (const _ of body.map(() => 0)) {
    // The stand-in.
  }
  return Buffer.concat(pieces)
}

const ok = (body: string, more = ''): string =>
  `HTTP/1.1 200 OK\r\nContent-Length: ${body.length}\r\n${more}\r\n${body}`

describe('a body that is taken from the socket', () => {
  test.each([
    ['in one piece', [ok('hello world')]],
    ['byte by byte', [...ok('hello world')]],
    ['its head apart', ['HTTP/1.1 206 x\r\nA: b\r\ncontent-length:11 \r\n\r\n', 'hello', ' world']],
    ['after an interim answer, the usual way', ['HTTP/1.1 100 Continue\r\n\r\n', ok('hello world')]],
  ])('%s', async (_, steps) => {
    script = [steps]
    const response = await get()
    expect(response.headers['content-length']).toBe('11')
    const read = response.direct === undefined ? await readText(response) : String(await readDirect(response))
    expect(read).toBe('hello world')
  })

  test('of many megabytes, through a reader that pauses', async () => {
    const content = Buffer.alloc(3 * 2 ** 20 + 5, 'abcdefghijklm')
    script = [[`HTTP/1.1 200 OK\r\nContent-Length: ${content.length}\r\n\r\n`, content]]
    const read = await readDirect(await get(), 40_000, true)
    expect(read.equals(content)).toBe(true)
  })

  test('leaves the connection good for the next request, direct or not', async () => {
    script = [[ok('one')], [ok('two')], [ok('three')]]
    expect(String(await readDirect(await get()))).toBe('one')
    expect(await readText(await get(false))).toBe('two')
    expect(String(await readDirect(await get()))).toBe('three')
    expect(sockets).toHaveLength(1)
  })

  test('can be read as text, up to a limit', async () => {
    script = [[ok('hello world')], [ok('hello world')], [ok('hello world')]]
    expect(await readText(await get())).toBe('hello world')
    expect(await readText(await get(), 11)).toBe('hello world')
    expect(sockets).toHaveLength(1)
    expect(await readText(await get(), 5)).toBe('hello')
  })

  test('that breaks off is an error of its stream', async () => {
    script = [['HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n', 'hello', 'end']]
    const response = await get()
    await expect(readDirect(response)).rejects.toThrow(/aborted/)
  })

  test('that falls silent runs into the time-out', async () => {
    script = [['HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n', 'hello']]
    const response = await get()
    await expect(readDirect(response)).rejects.toMatchObject({ code: 'timeout' })
  })
})

describe('left to node:http', () => {
  test.each([
    ['chunks', 'Transfer-Encoding: chunked\r\n', '5\r\nhello\r\n0\r\n\r\n'],
    ['a length of nothing', 'Content-Length: 0\r\n', ''],
    ['another status', 'Content-Length: 5\r\n', 'hello', 'HTTP/1.1 404 Not Found'],
    ['an old version', 'Content-Length: 5\r\n', 'hello', 'HTTP/1.0 200 OK'],
  ])('%s', async (_, fields, body, status = 'HTTP/1.1 200 OK') => {
    script = [[`${status}\r\n${fields}\r\n${body}`]]
    const response = await get()
    expect(response.direct).toBeUndefined()
    expect(await readText(response)).toBe(body === '' ? '' : 'hello')
  })

  test.each([
    ['two lengths', 'Content-Length: 5\r\nContent-Length: 6\r\n'],
    ['a list of lengths', 'Content-Length: 5, 5\r\n'],
    ['a signed length', 'Content-Length: +5\r\n'],
    ['a length and chunks', 'Content-Length: 5\r\nTransfer-Encoding: chunked\r\n'],
    ['a name with a space behind it', 'Content-Length : 5\r\n'],
  ])('%s: which refuses it', async (_, fields) => {
    script = [[`HTTP/1.1 200 OK\r\n${fields}\r\nhello`, 'end']]
    await expect(get().then((response) => readText(response))).rejects.toMatchObject({ code: 'connection' })
  })
})

test('bytes that nobody has asked for never become the next answer', async () => {
  script = [[ok('one')], [ok('two')]]
  expect(String(await readDirect(await get()))).toBe('one')
  const first = sockets[0] as Socket
  first.write(ok('planted'))
  // Hung up on.
  await once(first, 'close')
  expect(String(await readDirect(await get()))).toBe('two')
  expect(sockets).toHaveLength(2)
})

test('bytes behind a body do not reach its reader, nor the next one', async () => {
  script = [[`${ok('one')}planted`], [ok('two')]]
  const first = await get()
  const read = first.direct === undefined ? readText(first) : readDirect(first).then(String)
  const closed = once(sockets[0] as Socket, 'close')
  expect(await read.catch(() => 'refused')).not.toContain('planted')
  await closed
  expect(String(await readDirect(await get()))).toBe('two')
  expect(sockets).toHaveLength(2)
})
