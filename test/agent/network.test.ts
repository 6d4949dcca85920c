import { execFileSync } from 'node:child_process'
import { createHash, randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { readFile } from 'node:fs/promises'
import http, { type IncomingMessage, type RequestListener } from 'node:http'
import https from 'node:https'
import net, { type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Readable } from 'node:stream'
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest'
import { HttpClient, type HttpRequest, type HttpTimeouts, readText } from '../../src/access/http-client.ts'
import { askFirstAfterFailure, Retrier } from '../../src/access/retry.ts'
import { downloadObject } from '../../src/agent/download.ts'
import { GitEnvironment } from '../../src/agent/git-environment.ts'
import type { ObjectAccess } from '../../src/agent/object-access.ts'
import { Progress } from '../../src/agent/progress.ts'
import { ResumeStore } from '../../src/agent/resume-store.ts'
import { StreamGovernors } from '../../src/agent/stream-governor.ts'
import type { TimoneError } from '../../src/errors.ts'
import { nullLogger } from '../../src/log.ts'
import type { Oid } from '../../src/oid.ts'
import { AgentProcess } from '../helpers/agent.ts'

const KIB = 1024

/** A folder with a CA, a certificate of it for 127.0.0.1 and localhost, and one for another name. */
let folder: string
let tls: { cert: Buffer; key: Buffer }
let otherName: { cert: Buffer; key: Buffer }
const caFile = (): string => join(folder, 'ca.pem')

beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'timone-network-'))
  const openssl = (...args: string[]): void => {
    execFileSync('openssl', args, { cwd: folder, stdio: ['ignore', 'ignore', 'pipe'] })
  }
  const key = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes']
  openssl('req', '-x509', ...key, '-keyout', 'ca.key', '-out', 'ca.pem', '-subj', '/CN=Test CA', '-days', '2')
  const sign = (name: string, san: string): { cert: Buffer; key: Buffer } => {
    writeFileSync(join(folder, `${name}.ext`), `subjectAltName=${san}`)
    openssl('req', ...key, '-keyout', `${name}.key`, '-out', `${name}.csr`, '-subj', `/CN=${name}`)
    openssl(
      ...['x509', '-req', '-in', `${name}.csr`, '-CA', 'ca.pem', '-CAkey', 'ca.key', '-CAcreateserial'],
      ...['-days', '2', '-extfile', `${name}.ext`, '-out', `${name}.pem`],
    )
    return { cert: readFileSync(join(folder, `${name}.pem`)), key: readFileSync(join(folder, `${name}.key`)) }
  }
  tls = sign('server', 'IP:127.0.0.1,DNS:localhost')
  otherName = sign('other', 'DNS:elsewhere.example')
})
afterAll(() => rmSync(folder, { recursive: true, force: true }))

const closers: (() => unknown)[] = []
afterEach(async () => {
  for (const close of closers.splice(0).reverse()) await close()
})

/** Starts a server on loopback; it and its connections are gone after the test. Gives its port. */
async function listen(server: net.Server): Promise<number> {
  const sockets = new Set<Socket>()
  server.on('connection', (socket: Socket) => {
    sockets.add(socket)
    socket.on('error', () => {})
    socket.on('close', () => sockets.delete(socket))
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  closers.push(() => {
    for (const socket of sockets) socket.destroy()
    server.close()
  })
  return (server.address() as { port: number }).port
}

const web = async (handler: RequestListener): Promise<string> =>
  `http://127.0.0.1:${await listen(http.createServer(handler))}`
const secureWeb = async (handler: RequestListener, certificate = tls): Promise<string> =>
  `https://127.0.0.1:${await listen(https.createServer(certificate, handler))}`
const hello: RequestListener = (_request, response) => response.end('hello')

interface Proxy {
  port: number
  /** What it was asked for, with the credentials that came along. */
  asked: { target: string; authorization: string | undefined }[]
}

/** A proxy that passes on what `refuse` has no answer for. */
async function proxyServer(refuse: () => string | 'hang' | undefined = () => undefined): Promise<Proxy> {
  const asked: Proxy['asked'] = []
  const note = (request: IncomingMessage): void => {
    asked.push({ target: request.url ?? '', authorization: request.headers['proxy-authorization'] })
  }
  const server = http.createServer((request, response) => {
    note(request)
    const refusal = refuse()
    if (refusal === 'hang') return
    if (refusal !== undefined) {
      const [status = '', ...words] = refusal.split(' ')
      response.writeHead(Number(status), words.join(' ')).end('told by the proxy')
      return
    }
    request.pipe(
      http.request(request.url ?? '', { method: request.method, headers: request.headers }, (answer) => {
        response.writeHead(answer.statusCode ?? 502, answer.headers)
        answer.pipe(response)
      }),
    )
  })
  server.on('connect', (request: IncomingMessage, socket: Socket) => {
    note(request)
    const refusal = refuse()
    if (refusal === 'hang') return
    if (refusal !== undefined) {
      socket.end(`HTTP/1.1 ${refusal}\r\n\r\n`)
      return
    }
    const [host, port] = (request.url ?? '').split(':')
    const through = net.connect(Number(port), host, () => {
      socket.write('HTTP/1.1 200 Connection established\r\n\r\n')
      through.pipe(socket).pipe(through)
    })
    through.on('error', () => socket.destroy())
    socket.on('close', () => through.destroy())
  })
  return { port: await listen(server), asked }
}

/** A client that reads git's configuration and environment as the agent does. */
function client(
  config: string[] = [],
  env: NodeJS.ProcessEnv = {},
  timeouts: Partial<HttpTimeouts> = {},
): HttpClient {
  const git = new GitEnvironment({
    cwd: folder,
    env: {
      PATH: process.env.PATH,
      HOME: folder,
      GIT_CONFIG_NOSYSTEM: '1',
      GIT_CONFIG_PARAMETERS: config.map((pair) => `'${pair}'`).join(' '),
      ...env,
    },
  })
  const made = new HttpClient((origin) => git.connectionSettings(origin), timeouts)
  closers.push(() => made.close())
  return made
}

async function get(subject: HttpClient, url: string, more: Partial<HttpRequest> = {}): Promise<string> {
  return readText(await subject.send({ method: 'GET', url: new URL(url), headers: {}, ...more }))
}

/** The error of something that must fail, and how long it took, milliseconds. */
async function failure(work: Promise<unknown>): Promise<TimoneError & { took: number }> {
  const start = Date.now()
  const error = await work.then(
    () => {
      throw new Error('it did not fail')
    },
    (reason: unknown) => reason,
  )
  return Object.assign(error as TimoneError, { took: Date.now() - start })
}

describe('proxy', () => {
  const ways: [string, (port: number) => { config?: string[]; env?: NodeJS.ProcessEnv }][] = [
    ['http_proxy', (port) => ({ env: { http_proxy: `http://127.0.0.1:${port}` } })],
    ['HTTP_PROXY', (port) => ({ env: { HTTP_PROXY: `127.0.0.1:${port}` } })],
    ['http.proxy', (port) => ({ config: [`http.proxy=http://127.0.0.1:${port}`] })],
    ['http.<url>.proxy', (port) => ({ config: [`http.http://127.0.0.1.proxy=http://127.0.0.1:${port}`] })],
  ]
  test.each(ways)('%s for http', async (name, way) => {
    const origin = await web(hello)
    const proxy = await proxyServer()
    const { config = [], env } = way(proxy.port)
    if (name === 'http.<url>.proxy') config[0] = `http.${origin}.proxy=http://127.0.0.1:${proxy.port}`
    expect(await get(client(config, env), `${origin}/a`)).toBe('hello')
    expect(proxy.asked).toEqual([{ target: `${origin}/a`, authorization: undefined }])
  })

  test.each([
    ['https_proxy', (url: string) => ({ env: { https_proxy: url } })],
    ['HTTPS_PROXY', (url: string) => ({ env: { HTTPS_PROXY: url } })],
    ['ALL_PROXY', (url: string) => ({ env: { ALL_PROXY: url } })],
    ['http.proxy', (url: string) => ({ config: [`http.proxy=${url}`] })],
  ])('%s for https: a tunnel, with the certificate of the host itself checked', async (_name, way) => {
    const origin = await secureWeb(hello)
    const proxy = await proxyServer()
    const { config = [], env } = way(`http://127.0.0.1:${proxy.port}`) as {
      config?: string[]
      env?: NodeJS.ProcessEnv
    }
    expect(await get(client([...config, `http.sslCAInfo=${caFile()}`], env), origin)).toBe('hello')
    expect(proxy.asked.map(({ target }) => target)).toEqual([new URL(origin).host])
    expect((await failure(get(client(config, env), origin))).code).toBe('tls')
  })

  test('user and password of the proxy’s URL are sent, decoded', async () => {
    const [plain, secure] = [await web(hello), await secureWeb(hello)]
    const proxy = await proxyServer()
    const subject = client([
      `http.proxy=http://us%40er:p%3Ass%20w@127.0.0.1:${proxy.port}`,
      `http.sslCAInfo=${caFile()}`,
    ])
    await get(subject, plain)
    await get(subject, secure)
    const expected = `Basic ${Buffer.from('us@er:p:ss w').toString('base64')}`
    expect(proxy.asked.map(({ authorization }) => authorization)).toEqual([expected, expected])
  })

  test('NO_PROXY goes straight', async () => {
    const [plain, secure] = [await web(hello), await secureWeb(hello)]
    const proxy = await proxyServer()
    const env = {
      http_proxy: `http://127.0.0.1:${proxy.port}`,
      https_proxy: `http://127.0.0.1:${proxy.port}`,
      NO_PROXY: 'x.example,127.0.0.1',
    }
    const subject = client([`http.sslCAInfo=${caFile()}`], env)
    expect(await get(subject, plain)).toBe('hello')
    expect(await get(subject, secure)).toBe('hello')
    expect(proxy.asked).toEqual([])
  })

  test.each([
    ['407 Proxy Authentication Required', /asks for a user and password.*http\.proxy/],
    ['403 Forbidden', /check HTTPS_PROXY, NO_PROXY/],
  ])('a tunnel refused with %s', async (answer, advice) => {
    const origin = await secureWeb(hello)
    const proxy = await proxyServer(() => answer)
    const error = await failure(get(client([`http.proxy=http://ada:secret@127.0.0.1:${proxy.port}`]), origin))
    expect(error).toMatchObject({ code: 'proxy', retryable: false })
    expect(error.message).toMatch(advice)
    expect(error.message).toContain(`the proxy 127.0.0.1:${proxy.port} refused`)
    expect(error.message).toContain(new URL(origin).host)
    expect(error.message).not.toContain('secret')
  })

  test('407 to a request without a tunnel', async () => {
    const origin = await web(hello)
    const proxy = await proxyServer(() => '407 Proxy Authentication Required')
    const error = await failure(get(client([`http.proxy=http://127.0.0.1:${proxy.port}`]), origin))
    expect(error).toMatchObject({
      code: 'proxy',
      message: expect.stringMatching(/asks for a user and password/),
    })
  })

  test('a proxy that cannot reach the host may be asked again', async () => {
    const proxy = await proxyServer(() => '502 Bad Gateway')
    const error = await failure(
      get(client([`http.proxy=http://127.0.0.1:${proxy.port}`]), 'https://somewhere.example'),
    )
    expect(error).toMatchObject({ code: 'connection', retryable: true })
    expect(error.message).toMatch(
      /cannot reach somewhere\.example through the proxy 127\.0\.0\.1:\d+ \(502\)/,
    )
  })

  test.each(['http', 'https'])('a proxy that never answers (%s): a time-out', async (scheme) => {
    const proxy = await proxyServer(() => 'hang')
    const subject = client([`http.proxy=http://127.0.0.1:${proxy.port}`], {}, { idle: 300 })
    const error = await failure(get(subject, `${scheme}://somewhere.example`))
    expect(error).toMatchObject({ code: 'timeout', retryable: true })
    expect(error.message).toContain(`somewhere.example through the proxy 127.0.0.1:${proxy.port}`)
    expect(error.took).toBeLessThan(5000)
  })

  test.each(['http', 'https'])('a proxy that is not there (%s) is named', async (scheme) => {
    const server = net.createServer()
    const port = await listen(server)
    server.close()
    const subject = client([`http.proxy=http://ada:secret@127.0.0.1:${port}`])
    const error = await failure(get(subject, `${scheme}://somewhere.example`))
    expect(error).toMatchObject({ code: 'connection', retryable: true })
    expect(error.message).toContain(`127.0.0.1:${port}`)
    expect(error.message).not.toContain('secret')
  })
})

describe('TLS', () => {
  test('a certificate of an unknown CA is refused, and what to set is said', async () => {
    const origin = await secureWeb(hello)
    const error = await failure(get(client(), origin))
    expect(error).toMatchObject({ code: 'tls', retryable: false, host: new URL(origin).host })
    expect(error.message).toMatch(/UNABLE_TO.*http\.sslCAInfo/)
  })

  test('http.sslCAInfo, http.<url>.sslCAInfo and GIT_SSL_CAINFO make it known', async () => {
    const origin = await secureWeb(hello)
    expect(await get(client([`http.sslCAInfo=${caFile()}`]), origin)).toBe('hello')
    expect(await get(client([`http.${origin}.sslCAInfo=${caFile()}`]), origin)).toBe('hello')
    expect(await get(client([], { GIT_SSL_CAINFO: caFile() }), origin)).toBe('hello')
  })

  test('http.sslVerify=false accepts it, for its URL only', async () => {
    const origin = await secureWeb(hello)
    expect(await get(client(['http.sslVerify=false']), origin)).toBe('hello')
    expect(await get(client([`http.${origin}.sslVerify=false`]), origin)).toBe('hello')
    expect((await failure(get(client(['http.https://a.example.sslVerify=false']), origin))).code).toBe('tls')
  })

  test('a certificate of a known CA for another name is refused', async () => {
    const origin = await secureWeb(hello, otherName)
    const error = await failure(get(client([`http.sslCAInfo=${caFile()}`]), origin))
    expect(error).toMatchObject({ code: 'tls', message: expect.stringMatching(/ALTNAME/) })
  })

  test('a port that does not speak TLS', async () => {
    const port = await listen(http.createServer(hello))
    const error = await failure(get(client(), `https://127.0.0.1:${port}`))
    expect(error).toMatchObject({
      code: 'tls',
      message: expect.stringMatching(/does not speak TLS.*check the URL/),
    })
  })

  test('NODE_EXTRA_CA_CERTS, in the agent as a process; without it the object’s error says tls', async () => {
    const content = randomBytes(100_000)
    const oid = createHash('sha256').update(content).digest('hex')
    const origin = await secureWeb((request, response) => {
      const json = (body: object): unknown => response.end(JSON.stringify(body))
      const expires_at = new Date(Date.now() + 600_000).toISOString()
      request.resume()
      if (request.url === '/credentials')
        json({ driver: 'url', transfers: `${origin}/transfers`, token: 't', expires_at })
      else if (request.url === '/transfers')
        json({ operation: 'download', href: `${origin}/object`, header: {}, expires_at })
      else response.end(content)
    })
    execFileSync('git', ['init', '-q', 'work'], { cwd: folder })
    const env = { PATH: process.env.PATH, HOME: folder, GIT_CONFIG_NOSYSTEM: '1' }
    for (const trusted of [true, false]) {
      const agent = new AgentProcess(
        join(folder, 'work'),
        trusted ? { ...env, NODE_EXTRA_CA_CERTS: caFile() } : env,
      )
      closers.push(() => agent.kill('SIGKILL'))
      await agent.init('download')
      const answer = await agent.transfer('download', {
        oid,
        size: content.length,
        actions: { download: { href: `${origin}/credentials` } },
      })
      if (trusted) expect((await readFile(answer.path as string)).equals(content)).toBe(true)
      else
        expect(answer.error).toMatchObject({ code: 495, message: expect.stringMatching(/http\.sslCAInfo/) })
      expect(await agent.terminate()).toBe(0)
    }
  })
})

describe('a server that is not as it should be', () => {
  test('nobody listens', async () => {
    const server = net.createServer()
    const port = await listen(server)
    server.close()
    const error = await failure(get(client(), `http://127.0.0.1:${port}`))
    expect(error).toMatchObject({
      code: 'connection',
      retryable: true,
      message: `the connection to 127.0.0.1:${port} failed (ECONNREFUSED)`,
    })
  })

  test('the name does not exist', async () => {
    const error = await failure(get(client(), 'http://storage.timone.invalid'))
    expect(error).toMatchObject({ code: 'dns', retryable: true, host: 'storage.timone.invalid' })
    expect(error.message).toMatch(/cannot look up storage\.timone\.invalid/)
  })

  test.each(['http', 'https'])('it accepts and never says a word (%s)', async (scheme) => {
    const port = await listen(net.createServer())
    const error = await failure(get(client([], {}, { idle: 300 }), `${scheme}://127.0.0.1:${port}`))
    expect(error).toMatchObject({
      code: 'timeout',
      retryable: true,
      message: expect.stringMatching(/no byte from/),
    })
    expect(error.took).toBeGreaterThanOrEqual(290)
    expect(error.took).toBeLessThan(3000)
  })

  test('it never reads the body', async () => {
    const port = await listen(net.createServer((socket) => socket.pause()))
    const body = Buffer.alloc(64 * KIB * KIB)
    const error = await failure(
      get(client([], {}, { idle: 300 }), `http://127.0.0.1:${port}`, {
        method: 'PUT',
        headers: { 'content-length': String(body.length) },
        body: () => Readable.from([body]),
      }),
    )
    expect(error.code).toBe('timeout')
    expect(error.took).toBeLessThan(5000)
  })

  /** Sends a byte of the answer's headers every 20 ms, for ever. */
  const loris = (): net.Server =>
    net.createServer((socket) => {
      socket.write('HTTP/1.1 200 OK\r\nX-Slow: ')
      const timer = setInterval(() => socket.write('x'), 20)
      socket.on('close', () => clearInterval(timer))
      socket.resume()
    })

  test('its headers drip: the idle time-out never fires, the bound for the headers does', async () => {
    const port = await listen(loris())
    const error = await failure(get(client([], {}, { idle: 200, headers: 600 }), `http://127.0.0.1:${port}`))
    expect(error).toMatchObject({ code: 'timeout', message: expect.stringMatching(/no answer from 127/) })
    expect(error.took).toBeGreaterThanOrEqual(550)
    expect(error.took).toBeLessThan(3000)
  })

  test('its headers drip while it does not read the body', async () => {
    const port = await listen(
      net.createServer((socket) => {
        socket.pause()
        socket.write('HTTP/1.1 200 OK\r\nX-Slow: ')
        const timer = setInterval(() => socket.write('x'), 20)
        socket.on('close', () => clearInterval(timer))
      }),
    )
    const body = Buffer.alloc(64 * KIB * KIB)
    const error = await failure(
      get(client([], {}, { idle: 200, headers: 500 }), `http://127.0.0.1:${port}`, {
        method: 'PUT',
        headers: { 'content-length': String(body.length) },
        body: () => Readable.from([body]),
      }),
    )
    expect(error.code).toBe('timeout')
    expect(error.took).toBeLessThan(4000)
  })

  test('a long body that moves is not mistaken for silence', async () => {
    const origin = await web((request, response) => {
      let bytes = 0
      request.on('data', (chunk: Buffer) => {
        bytes += chunk.length
        request.pause()
        setTimeout(() => request.resume(), 4)
      })
      request.on('end', () => response.end(String(bytes)))
    })
    const size = 48 * KIB * KIB
    const start = Date.now()
    const subject = client([], {}, { idle: 1000, headers: 1000 })
    const answer = await get(subject, origin, {
      method: 'PUT',
      headers: { 'content-length': String(size) },
      // In pieces, as the agent reads its files.
      body: () => Readable.from(Array.from({ length: 192 }, () => Buffer.alloc(size / 192))),
    })
    expect(answer).toBe(String(size))
    expect(Date.now() - start).toBeGreaterThan(1100)
  })

  test('an answer that is read as a whole and drips has a bound', async () => {
    const origin = await web((_request, response) => {
      const timer = setInterval(() => response.write('x'), 20)
      response.on('close', () => clearInterval(timer))
    })
    const response = await client().send({ method: 'GET', url: new URL(origin), headers: {} })
    const error = await failure(readText(response, 1000, 300))
    expect(error).toMatchObject({ code: 'timeout', retryable: true })
  })

  test('an interruption ends a request at once, and one in the middle of its answer too', async () => {
    const silent = await listen(net.createServer())
    const stop = new AbortController()
    const waiting = failure(get(client(), `http://127.0.0.1:${silent}`, { signal: stop.signal }))
    const origin = await web((_request, response) => void response.write('begun'))
    const response = await client().send({
      method: 'GET',
      url: new URL(origin),
      headers: {},
      signal: stop.signal,
    })
    stop.abort()
    expect((await waiting).code).toBe('cancelled')
    expect((await failure(readText(response))).code).toBe('cancelled')
  })

  test('a redirect is given as it is: nothing is sent to the other host', async () => {
    let visits = 0
    const other = await web((_request, response) => {
      visits++
      response.end()
    })
    const origin = await web((_request, response) => response.writeHead(307, { location: other }).end())
    const response = await client().send({
      method: 'GET',
      url: new URL(origin),
      headers: { authorization: 'x' },
    })
    await readText(response)
    expect(response.status).toBe(307)
    expect(visits).toBe(0)
  })
})

describe('asking before the body is sent', () => {
  const REFUSAL = 'HTTP/1.1 403 Forbidden\r\nContent-Length: 7\r\nConnection: close\r\n\r\nrefused'

  /** Refuses as some stores do: one answer right after the headers, and the connection is gone. */
  function refuser(heads: string[]): net.Server {
    return net.createServer((socket) => {
      let head = ''
      const listener = (chunk: Buffer): void => {
        head += chunk.toString('latin1')
        if (!head.includes('\r\n\r\n')) return
        heads.push(head.slice(0, head.indexOf('\r\n\r\n')))
        socket.off('data', listener)
        if (/expect: 100-continue/i.test(head)) socket.end(REFUSAL)
        else socket.resetAndDestroy()
      }
      socket.on('data', listener)
    })
  }
  const body = Buffer.alloc(8 * KIB * KIB, 7)
  const put = (url: string, ask: boolean, opened: () => void = () => {}): HttpRequest => ({
    method: 'PUT',
    url: new URL(url),
    headers: { 'content-length': String(body.length) },
    body: () => {
      opened()
      return Readable.from([body])
    },
    expectContinue: ask,
  })

  test('a refusal that is lost in a reset is understood at the second try, without a byte of the body', async () => {
    const heads: string[] = []
    const url = `http://127.0.0.1:${await listen(refuser(heads))}`
    const subject = client()
    let opened = 0
    const attempt = askFirstAfterFailure(async (ask) => {
      const response = await subject.send(put(url, ask, () => opened++))
      return { status: response.status, text: await readText(response) }
    })
    const result = await new Retrier({ retries: 4, maxDelay: 0.01 }).run('host', attempt)
    expect(result).toEqual({ status: 403, text: 'refused' })
    expect(heads.map((head) => /expect:/i.test(head))).toEqual([false, true])
    expect(opened).toBe(1)
  })

  test('the body goes out on 100 Continue', async () => {
    let continued = 0
    const server = http.createServer()
    server.on('checkContinue', (request: IncomingMessage, response: http.ServerResponse) => {
      continued++
      response.writeContinue()
      let bytes = 0
      request.on('data', (chunk: Buffer) => {
        bytes += chunk.length
      })
      request.on('end', () => response.end(String(bytes)))
    })
    const url = `http://127.0.0.1:${await listen(server)}`
    const subject = client([], {}, { expect: 60_000 })
    for (let number = 0; number < 3; number++)
      expect(await readText(await subject.send(put(url, true)))).toBe(String(body.length))
    expect(continued).toBe(3)
  })

  test('a text as body waits too', async () => {
    const server = http.createServer()
    server.on('checkContinue', (request: IncomingMessage, response: http.ServerResponse) => {
      response.writeContinue()
      request.pipe(response)
    })
    const url = `http://127.0.0.1:${await listen(server)}`
    const subject = client([], {}, { expect: 60_000 })
    const request = { method: 'POST', url: new URL(url), headers: { 'content-length': '4' }, body: 'text' }
    expect(await readText(await subject.send({ ...request, expectContinue: true }))).toBe('text')
  })

  test('a server that does not know it gets the body after a moment', async () => {
    const server = net.createServer((socket) => {
      let bytes = 0
      let head = ''
      let start = 0
      socket.on('data', (chunk: Buffer) => {
        if (start === 0) {
          head += chunk.toString('latin1')
          start = head.indexOf('\r\n\r\n') + 4
          if (start < 4) start = 0
          else bytes = head.length - start
        } else {
          bytes += chunk.length
        }
        if (bytes === body.length) socket.end('HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok')
      })
    })
    const url = `http://127.0.0.1:${await listen(server)}`
    expect(await readText(await client([], {}, { expect: 100 }).send(put(url, true)))).toBe('ok')
  })

  test('a request without a body asks nothing', async () => {
    const seen: (string | undefined)[] = []
    const origin = await web((request, response) => {
      seen.push(request.headers.expect)
      response.end()
    })
    await get(client(), origin, { expectContinue: true })
    expect(seen).toEqual([undefined])
  })
})

describe('a download over a bad line', () => {
  const content = randomBytes(600 * KIB)
  const oid = createHash('sha256').update(content).digest('hex') as Oid

  /** Serves ranges of the content; `spoil` may take an answer over. */
  async function download(
    spoil: (number: number, from: number, response: http.ServerResponse) => boolean,
    timeouts: Partial<HttpTimeouts> = {},
  ): Promise<{ result: Buffer; ranges: number[] }> {
    const ranges: number[] = []
    const origin = await web((request, response) => {
      const from = Number(/bytes=(\d+)-/.exec(request.headers.range ?? '')?.[1] ?? 0)
      ranges.push(from)
      const headers: Record<string, string> = {
        etag: '"one"',
        'content-length': String(content.length - from),
      }
      if (from > 0) headers['content-range'] = `bytes ${from}-${content.length - 1}/${content.length}`
      response.writeHead(from > 0 ? 206 : 200, headers)
      if (!spoil(ranges.length, from, response)) response.end(content.subarray(from))
    })
    const subject = client([], {}, timeouts)
    const access: ObjectAccess = {
      host: new URL(origin).host,
      get: (_oid, _size, { offset, etag, signal }) =>
        subject.send({
          method: 'GET',
          url: new URL(origin),
          headers: {
            ...(offset > 0 ? { range: `bytes=${offset}-` } : {}),
            ...(etag === undefined ? {} : { 'if-match': etag }),
          },
          signal,
        }),
      openUpload: () => Promise.reject(new TypeError('not for downloads')),
    }
    const storage = mkdtempSync(join(folder, 'lfs-'))
    const path = await downloadObject(
      oid,
      content.length,
      {
        access,
        resume: new ResumeStore(storage),
        retrier: new Retrier({ retries: 3, maxDelay: 0.01 }),
        log: nullLogger,
        mode: undefined,
        source: 'here',
        parallelParts: 4,
        governors: new StreamGovernors(4),
      },
      new Progress(content.length, () => true),
      new AbortController().signal,
    )
    return { result: await readFile(path), ranges }
  }

  test('a body shorter than its Content-Length: the rest is asked for', async () => {
    const { result, ranges } = await download((number, from, response) => {
      if (number > 2) return false
      response.write(content.subarray(from, from + 100 * KIB), () => response.socket?.end())
      return true
    })
    expect(result.equals(content)).toBe(true)
    // What was still in the pipe when the connection ended may be lost; nothing that was stored is fetched again.
    expect(ranges).toHaveLength(3)
    expect(ranges[1]).toBeGreaterThan(0)
    expect(ranges[1]).toBeLessThanOrEqual(100 * KIB)
    expect(ranges[2]).toBeGreaterThan(ranges[1] as number)
    expect(ranges[2]).toBeLessThanOrEqual(200 * KIB)
  })

  test('a body that stalls: another connection takes over where it stopped', async () => {
    const { result, ranges } = await download(
      (number, from, response) => {
        if (number > 1) return false
        response.write(content.subarray(from, from + 300 * KIB))
        return true
      },
      { idle: 300 },
    )
    expect(result.equals(content)).toBe(true)
    expect(ranges).toEqual([0, 300 * KIB])
  })

  test('a body that stalls at every try ends in a time-out, within its bound', async () => {
    const error = await failure(download(() => true, { idle: 200 }))
    expect(error).toMatchObject({
      code: 'timeout',
      message: expect.stringMatching(/no byte from .*\(4 tries\)/),
    })
    expect(error.took).toBeLessThan(5000)
  })
})
