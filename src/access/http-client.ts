import http from 'node:http'
import https from 'node:https'
import type { Socket } from 'node:net'
import type { Readable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import { isTimoneError, TimoneError } from '../errors.ts'
import type { Bandwidth } from './bandwidth.ts'
import { describeFailure, proxyRefused } from './connection-failure.ts'
import { type Pace, paceBody, pacedChunks, paceOf } from './paced-body.ts'
import { type DirectBody, tapOf, tapped } from './socket-tap.ts'

/** How to reach one origin: what git's configuration says about proxies and certificates. */
export interface ConnectionSettings {
  /** URL of an HTTP proxy; undefined: go straight. */
  proxy?: string
  /** Trusted certificates in PEM; undefined: the usual ones. */
  ca?: string[]
  /** False accepts any certificate (`http.sslVerify=false`). */
  verify?: boolean
  /** Client certificate and key in PEM. */
  cert?: string
  key?: string
}

export interface HttpRequest {
  method: string
  url: URL
  headers: Record<string, string>
  /** Whole body, or a stream made anew for each call; `content-length` must be among the headers then. */
  body?: string | Buffer | (() => Buffer | Readable)
  /** Told how many more bytes of a body that is a buffer have gone to the kernel. */
  onSent?: ((bytes: number) => void) | undefined
  signal?: AbortSignal
  /** Milliseconds without a byte in either direction after which the request fails with `timeout`. */
  idleTimeout?: number
  /**
   * Asks before the body is sent (RFC 9110, section 10.1.1). A server that refuses early and hangs up makes its own
   * answer unreadable for whoever is still sending: the next try with this sees what it says.
   */
  expectContinue?: boolean
  /** The reader of a body that is a stored object's takes {@link HttpResponse.direct} where there is one. */
  direct?: boolean
}

export interface HttpResponse {
  status: number
  headers: http.IncomingHttpHeaders
  /** Must be consumed or destroyed. */
  body: http.IncomingMessage
  /** Where the bytes are to be had from; `body` has none of them then, but ends, breaks and is destroyed as ever. */
  direct?: DirectBody | undefined
}

/** Sends one request; answers as soon as the response's headers are there, whatever their status. */
export type HttpSend = (request: HttpRequest) => Promise<HttpResponse>

/** How long to wait for whom, milliseconds. */
export interface HttpTimeouts {
  /** No byte for this long, and a connection counts as dead; a request's own `idleTimeout` goes before it. */
  idle: number
  /** From the end of the request to the end of the answer's headers, however steadily their bytes drip. */
  headers: number
  /** With `expectContinue`: an old server does not know it, so the body is sent unasked after this. */
  expect: number
}

export const HTTP_TIMEOUTS: HttpTimeouts = { idle: 30_000, headers: 120_000, expect: 1000 }

/** One origin's connections, and whose they are. */
interface Route {
  agent: http.Agent
  /** Host and port of the proxy, for messages. */
  proxy: string | undefined
}

/**
 * The agent's HTTP client on node:http, one keep-alive pool for each origin.
 *
 * Own code instead of a library because it is the hot path: body bytes go from the socket to their consumer untouched.
 * `settingsFor` is asked once for each origin. With a `bandwidth`, bodies keep to it in both directions. Never follows redirects: credentials go to the named host only.
 *
 * Errors: `dns`, `connection`, `tls`, `proxy`, `timeout`, `cancelled`; each names the host.
 */
export class HttpClient {
  readonly #settingsFor: (origin: URL) => Promise<ConnectionSettings>
  readonly #timeouts: HttpTimeouts
  readonly #bandwidth: Bandwidth | undefined
  readonly #routes = new Map<string, Promise<Route>>()

  constructor(
    settingsFor: (origin: URL) => Promise<ConnectionSettings>,
    timeouts: Partial<HttpTimeouts> = {},
    bandwidth?: Bandwidth,
  ) {
    this.#bandwidth = bandwidth
    this.#settingsFor = settingsFor
    this.#timeouts = { ...HTTP_TIMEOUTS, ...timeouts }
  }

  /** See {@link HttpSend}. */
  readonly send: HttpSend = async (request) => {
    throwIfAborted(request.signal)
    return this.#sendOn(await this.#routeFor(request.url), request)
  }

  #sendOn({ agent, proxy }: Route, request: HttpRequest): Promise<HttpResponse> {
    const { url, signal } = request
    const idle = request.idleTimeout ?? this.#timeouts.idle
    const pace = this.#bandwidth === undefined ? undefined : paceOf(this.#bandwidth)
    const expecting = request.expectContinue === true && request.body !== undefined
    throwIfAborted(signal)
    return new Promise<HttpResponse>((resolve, reject) => {
      let settled = false
      let answer: http.IncomingMessage | undefined
      const outgoing = (url.protocol === 'https:' ? https : http).request(url, {
        method: request.method,
        headers: expecting ? { ...request.headers, expect: '100-continue' } : request.headers,
        agent,
        timeout: idle,
      })
      // Once there is an answer its reader must be told, in our words: destroying the request would say ECONNRESET.
      const stop = (error: TimoneError): void => {
        ;(answer ?? outgoing).destroy(error)
      }
      const onAbort = (): void => stop(cancelled(signal as AbortSignal))
      const fail = (error: unknown): void => {
        if (settled) return
        settled = true
        clearTimeout(headers)
        signal?.removeEventListener('abort', onAbort)
        reject(signal?.aborted === true ? cancelled(signal) : describeFailure(error, url, proxy))
      }
      signal?.addEventListener('abort', onAbort, { once: true })
      const silent = (ms: number, what: string): void => {
        const { host } = url
        const via = proxy === undefined ? '' : ` through the proxy ${proxy}`
        stop(new TimoneError('timeout', `${what} ${host}${via} for ${Math.ceil(ms / 1000)} s`, { host }))
      }
      outgoing.on('timeout', () => {
        // Silence of our own making: the time-out begins anew.
        if (pace?.isWaiting) outgoing.socket?.setTimeout(idle)
        else silent(idle, 'no byte from')
      })

      // Each byte sets the idle time-out back, so headers that drip need a bound of their own.
      const limit = Math.max(this.#timeouts.headers, idle)
      let written = 0
      const headers = setTimeout(() => {
        const now = outgoing.socket?.bytesWritten ?? 0
        if (outgoing.writableFinished || (now === written && pace?.isWaiting !== true)) {
          silent(limit, 'no answer from')
          return
        }
        written = now
        headers.refresh()
      }, limit)
      outgoing.once('finish', () => {
        if (!settled) headers.refresh()
      })

      outgoing.once('socket', (socket) => tapOf(socket)?.begin(request.direct === true && pace === undefined))
      outgoing.on('error', fail)
      outgoing.on('response', (body) => {
        clearTimeout(headers)
        if (body.statusCode === 407) {
          fail(proxyRefused(url, proxy, '407', undefined))
          outgoing.destroy()
          return
        }
        // From here on failures reach the reader of the body. An early answer (403 before the body is sent) ends here too.
        settled = true
        answer = body
        if (pace !== undefined) paceBody(body, pace)
        body.once('close', () => {
          signal?.removeEventListener('abort', onAbort)
          // Refused before all was sent: the rest of the body has no reader.
          if (!outgoing.writableFinished) outgoing.destroy()
        })
        const { headers: fields, statusCode: status = 0 } = body
        const direct = tapOf(body.socket)
        if (direct?.length === undefined) resolve({ status, headers: fields, body })
        else {
          resolve({ status, headers: { ...fields, 'content-length': String(direct.length) }, body, direct })
        }
      })
      let begun = false
      const begin = (): void => {
        if (begun || settled) return
        begun = true
        const source = typeof request.body === 'function' ? request.body() : request.body
        if (source === undefined || typeof source === 'string') {
          outgoing.end(source)
          return
        }
        if (Buffer.isBuffer(source)) {
          sendBuffer(outgoing, source, request.onSent, pace)
          return
        }
        const sending =
          pace === undefined
            ? pipeline(source, outgoing)
            : pipeline(source, (chunks: AsyncIterable<Buffer>) => pacedChunks(chunks, pace), outgoing)
        sending.catch((error: unknown) => {
          source.destroy()
          fail(error)
        })
      }
      if (!expecting) return begin()
      outgoing.flushHeaders()
      outgoing.once('continue', begin)
      outgoing.once('socket', () => {
        const timer = setTimeout(begin, this.#timeouts.expect)
        outgoing.once('close', () => clearTimeout(timer))
      })
    })
  }

  /** Closes what is idle; the process may end. */
  async close(): Promise<void> {
    for (const route of await Promise.allSettled(this.#routes.values())) {
      if (route.status === 'fulfilled') route.value.agent.destroy()
    }
  }

  #routeFor(url: URL): Promise<Route> {
    const known = this.#routes.get(url.origin)
    if (known !== undefined) return known
    const made = this.#settingsFor(url).then((settings) => ({
      agent: makeAgent(url, settings),
      proxy: settings.proxy === undefined ? undefined : new URL(settings.proxy).host,
    }))
    this.#routes.set(url.origin, made)
    made.catch(() => this.#routes.delete(url.origin))
    return made
  }
}

/** `settings` as a pool of connections. */
function makeAgent(url: URL, settings: ConnectionSettings): http.Agent {
  const options: https.AgentOptions = { keepAlive: true, maxSockets: 256, scheduling: 'lifo' }
  if (settings.proxy !== undefined) {
    options.proxyEnv = { HTTP_PROXY: settings.proxy, HTTPS_PROXY: settings.proxy }
  }
  const direct = settings.proxy === undefined
  if (url.protocol !== 'https:') return direct ? new TappedAgent(options) : new http.Agent(options)
  if (settings.ca !== undefined) options.ca = settings.ca
  if (settings.verify === false) options.rejectUnauthorized = false
  if (settings.cert !== undefined) options.cert = settings.cert
  if (settings.key !== undefined) options.key = settings.key
  return direct ? new TappedTlsAgent(options) : new https.Agent(options)
}

// The option is net.connect's and tls.connect's; the declared types know only some of those.
class TappedAgent extends http.Agent {
  override createConnection: http.Agent['createConnection'] = (options, callback) =>
    tapped((onread) => super.createConnection(Object.assign({}, options, { onread }), callback) as Socket)
}

class TappedTlsAgent extends https.Agent {
  override createConnection: https.Agent['createConnection'] = (options, callback) =>
    tapped((onread) => super.createConnection(Object.assign({}, options, { onread }), callback) as Socket)
}

/** An answer that is read as a whole (a list of parts, an error) has arrived by then, milliseconds. */
const READ_TIMEOUT = 300_000

/**
 * Reads a response's body as text, at most `limit` bytes; what is longer is cut and the connection dropped.
 * @throws `connection` when it breaks, `timeout` when it has not ended after `within` milliseconds, `cancelled`
 */
export async function readText(
  response: HttpResponse,
  limit: number = 2 ** 20,
  within: number = READ_TIMEOUT,
): Promise<string> {
  const { body, direct } = response
  const chunks: Buffer[] = []
  let length = 0
  const timer = setTimeout(() => {
    body.destroy(new TimoneError('timeout', 'an answer did not come to its end'))
  }, within)
  const take = (chunk: Buffer): boolean => {
    chunks.push(chunk)
    length += chunk.length
    return length <= limit
  }
  const text = (): string => Buffer.concat(chunks).subarray(0, limit).toString('utf8')
  let room: Buffer
  direct?.attach({
    room: () => (room = Buffer.alloc(Math.min(limit + 1, 64 * 1024))),
    arrived: (count) => {
      const more = take(room.subarray(0, count))
      if (!more) body.destroy()
      return more
    },
  })
  try {
    for await (const chunk of body as AsyncIterable<Buffer>) {
      if (direct === undefined && !take(chunk)) break
    }
  } catch (error) {
    const isCutHere = length > limit
    if (isCutHere) return text()
    if (isTimoneError(error)) throw error
    throw new TimoneError('connection', 'the connection broke in the middle of an answer', { cause: error })
  } finally {
    clearTimeout(timer)
  }
  return text()
}

/** `Retry-After` in seconds (RFC 9110, section 10.2.3: seconds or a date); undefined when absent or unreadable. */
export function retryAfter(headers: http.IncomingHttpHeaders, now: number = Date.now()): number | undefined {
  const value = headers['retry-after']
  if (value === undefined) return undefined
  if (/^\d+$/.test(value)) return Number(value)
  const date = Date.parse(value)
  return Number.isNaN(date) ? undefined : Math.max(0, Math.ceil((date - now) / 1000))
}

/** Throws the signal's reason as `cancelled` when it has fired. */
export function throwIfAborted(signal: AbortSignal | undefined): void {
  if (signal?.aborted === true) throw cancelled(signal)
}

function cancelled(signal: AbortSignal): TimoneError {
  return signal.reason instanceof TimoneError
    ? signal.reason
    : new TimoneError('cancelled', 'interrupted', { cause: signal.reason })
}

/** Bytes that are handed to the kernel at a time, so that what has gone can be told. */
const SLICE = 2 ** 20

/** Sends a buffer slice by slice, without copying it, and ends the request. */
function sendBuffer(
  outgoing: http.ClientRequest,
  bytes: Buffer,
  onSent: ((bytes: number) => void) | undefined,
  pace: Pace | undefined,
): void {
  const size = pace?.slice ?? SLICE
  if (pace === undefined && bytes.length <= size) {
    // One system call for headers and body.
    outgoing.end(bytes, () => onSent?.(bytes.length))
    return
  }
  let at = 0
  const next = (): void => {
    if (at >= bytes.length) {
      outgoing.end()
      return
    }
    if (pace === undefined) send()
    else pace.before(Math.min(size, bytes.length - at), send)
  }
  const send = (): void => {
    if (outgoing.destroyed) return
    const slice = bytes.subarray(at, at + size)
    at += slice.length
    outgoing.write(slice, (error) => {
      // The request's own error event says why.
      if (error !== null && error !== undefined) return
      onSent?.(slice.length)
      next()
    })
  }
  next()
}
