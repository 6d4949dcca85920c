import http from 'node:http'
import https from 'node:https'
import type { Readable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import { systemCode, TimoneError } from '../errors.ts'

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
  body?: string | Buffer | (() => Readable)
  signal?: AbortSignal
  /** Milliseconds without a byte in either direction after which the request fails with `timeout`. */
  idleTimeout?: number
}

export interface HttpResponse {
  status: number
  headers: http.IncomingHttpHeaders
  /** Must be consumed or destroyed. */
  body: http.IncomingMessage
}

/** Sends one request; answers as soon as the response's headers are there, whatever their status. */
export type HttpSend = (request: HttpRequest) => Promise<HttpResponse>

/** No byte for this long, milliseconds, and a connection counts as dead. */
export const IDLE_TIMEOUT = 30_000

/**
 * The agent's HTTP client on node:http, one keep-alive pool for each origin.
 *
 * Own code instead of a library because it is the hot path: body bytes go from the socket to their consumer untouched.
 * `settingsFor` is asked once for each origin. Never follows redirects: credentials go to the named host only.
 *
 * Errors: `dns`, `connection`, `tls`, `proxy`, `timeout`, `cancelled`; each names the host.
 */
export class HttpClient {
  readonly #settingsFor: (origin: URL) => Promise<ConnectionSettings>
  readonly #agents = new Map<string, Promise<http.Agent>>()

  constructor(settingsFor: (origin: URL) => Promise<ConnectionSettings>) {
    this.#settingsFor = settingsFor
  }

  /** See {@link HttpSend}. */
  readonly send: HttpSend = async (request) => {
    const { url, signal } = request
    throwIfAborted(signal)
    const agent = await this.#agentFor(url)
    return new Promise<HttpResponse>((resolve, reject) => {
      let settled = false
      const fail = (error: unknown): void => {
        if (settled) return
        settled = true
        signal?.removeEventListener('abort', onAbort)
        reject(signal?.aborted === true ? cancelled(signal) : describeFailure(error, url))
      }
      const outgoing = (url.protocol === 'https:' ? https : http).request(url, {
        method: request.method,
        headers: request.headers,
        agent,
        timeout: request.idleTimeout ?? IDLE_TIMEOUT,
      })
      const onAbort = (): void => {
        outgoing.destroy(cancelled(signal as AbortSignal))
      }
      signal?.addEventListener('abort', onAbort, { once: true })
      outgoing.on('timeout', () => {
        const seconds = Math.round((request.idleTimeout ?? IDLE_TIMEOUT) / 1000)
        outgoing.destroy(
          new TimoneError('timeout', `no byte from ${url.host} for ${seconds} s`, { host: url.host }),
        )
      })
      outgoing.on('error', fail)
      outgoing.on('response', (body) => {
        // From here on failures reach the reader of the body. An early answer (403 before the body is sent) ends here too.
        settled = true
        body.once('close', () => {
          signal?.removeEventListener('abort', onAbort)
          // Refused before all was sent: the rest of the body has no reader.
          if (!outgoing.writableFinished) outgoing.destroy()
        })
        resolve({ status: body.statusCode ?? 0, headers: body.headers, body })
      })
      if (typeof request.body === 'function') {
        const source = request.body()
        pipeline(source, outgoing).catch((error: unknown) => {
          source.destroy()
          fail(error)
        })
      } else {
        outgoing.end(request.body)
      }
    })
  }

  /** Closes what is idle; the process may end. */
  async close(): Promise<void> {
    for (const agent of await Promise.allSettled(this.#agents.values())) {
      if (agent.status === 'fulfilled') agent.value.destroy()
    }
  }

  #agentFor(url: URL): Promise<http.Agent> {
    const known = this.#agents.get(url.origin)
    if (known !== undefined) return known
    const made = this.#makeAgent(url)
    this.#agents.set(url.origin, made)
    made.catch(() => this.#agents.delete(url.origin))
    return made
  }

  async #makeAgent(url: URL): Promise<http.Agent> {
    const settings = await this.#settingsFor(url)
    const options: https.AgentOptions = {
      keepAlive: true,
      maxSockets: 256,

      scheduling: 'lifo',
    }
    if (settings.proxy !== undefined) {
      options.proxyEnv = { HTTP_PROXY: settings.proxy, HTTPS_PROXY: settings.proxy }
    }
    if (url.protocol !== 'https:') return new http.Agent(options)
    if (settings.ca !== undefined) options.ca = settings.ca
    if (settings.verify === false) options.rejectUnauthorized = false
    if (settings.cert !== undefined) options.cert = settings.cert
    if (settings.key !== undefined) options.key = settings.key
    return new https.Agent(options)
  }
}

/** Reads a response's body as text, at most `limit` bytes; what is longer is cut and the connection dropped. */
export async function readText(response: HttpResponse, limit: number = 2 ** 20): Promise<string> {
  const chunks: Buffer[] = []
  let length = 0
  try {
    for await (const chunk of response.body as AsyncIterable<Buffer>) {
      chunks.push(chunk)
      length += chunk.length
      if (length > limit) break
    }
  } catch (error) {
    throw new TimoneError('connection', 'the connection broke in the middle of an answer', { cause: error })
  }
  return Buffer.concat(chunks).subarray(0, limit).toString('utf8')
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

const TLS_CODE =
  /^(CERT_|ERR_TLS_|ERR_SSL_|UNABLE_TO_|DEPTH_ZERO|SELF_SIGNED|EPROTO|HOSTNAME_MISMATCH|ERR_OSSL)/

/** A connection-level failure in words: on which host, and what to look at. */
export function describeFailure(error: unknown, url: URL): TimoneError {
  if (error instanceof TimoneError) return error
  const code = systemCode(error) ?? 'unknown error'
  const host = url.host
  const details = { cause: error, host }
  if (code === 'ENOTFOUND' || code === 'EAI_AGAIN') {
    return new TimoneError('dns', `cannot look up ${host} (${code}): check the name and the network`, details)
  }
  if (code.startsWith('ERR_PROXY')) {
    return new TimoneError(
      'proxy',
      `the proxy refused to connect to ${host} (${code}): check HTTPS_PROXY, NO_PROXY and git's http.proxy`,
      details,
    )
  }
  if (TLS_CODE.test(code)) {
    return new TimoneError(
      'tls',
      `the TLS certificate of ${host} is not accepted (${code}): set git's http.sslCAInfo to your CA's certificate`,
      details,
    )
  }
  if (code === 'ETIMEDOUT' || code === 'ERR_SOCKET_CONNECTION_TIMEOUT') {
    return new TimoneError(
      'timeout',
      `connecting to ${host} timed out: check the network and proxy settings`,
      details,
    )
  }
  if (code === 'ENOSPC' || code === 'EDQUOT' || code === 'EIO') {
    return new TimoneError('disk_full', `reading or writing a file failed (${code})`, details)
  }
  return new TimoneError('connection', `the connection to ${host} failed (${code})`, details)
}
