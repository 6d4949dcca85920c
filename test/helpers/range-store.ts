import { once } from 'node:events'
import http from 'node:http'
import type { AddressInfo } from 'node:net'
import { HttpClient, type HttpTimeouts } from '../../src/access/http-client.ts'
import type { GetRequest, ObjectAccess } from '../../src/agent/object-access.ts'
import { rangeHeaders } from '../../src/agent/range-answer.ts'
import { s3Error } from '../../src/agent/s3-response.ts'
import type { GovernedDownload, Governor } from '../../src/agent/stream-governor.ts'
import { parseByteRange } from '../../src/server/byte-range.ts'

export interface Fetched {
  /** How many requests were seen before this one. */
  index: number
  start: number
  /** Excluded. */
  end: number
  ranged: boolean
  ifMatch: string | undefined
}

/** A server over HTTP with one object, that serves ranges of it as RFC 9110 says, or as it is told. */
export class RangeStore {
  readonly requests: Fetched[] = []
  content: Buffer
  etag: string | undefined = '"one"'
  /** Bytes of the object that went out. */
  sent = 0
  /** Requests that are being answered, and the most there ever were at once. */
  open = 0
  mostOpen = 0
  /** Takes an answer over, or changes its bytes; undefined: nothing special. */
  spoil: (fetched: Fetched, response: http.ServerResponse, bytes: Buffer) => Buffer | 'taken' | undefined =
    () => undefined
  /** Waits before each block of an answer. */
  pace: (() => Promise<void>) | undefined
  /** Whether bodies are taken directly from the socket. */
  direct = true
  /** Answers whose bodies could be taken so. */
  directly = 0
  readonly #server: http.Server
  readonly #clients: HttpClient[] = []

  constructor(content: Buffer) {
    this.content = content
    this.#server = http.createServer((request, response) => void this.#answer(request, response))
  }

  static async start(content: Buffer): Promise<RangeStore> {
    const store = new RangeStore(content)
    store.#server.listen(0, '127.0.0.1')
    await once(store.#server, 'listening')
    return store
  }

  async close(): Promise<void> {
    for (const client of this.#clients) await client.close()
    this.#server.closeAllConnections()
    this.#server.close()
    await once(this.#server, 'close')
  }

  /** The way to the object, as from a process of its own. */
  access(timeouts: Partial<HttpTimeouts> = {}): ObjectAccess {
    const client = new HttpClient(async () => ({}), timeouts)
    this.#clients.push(client)
    const { port } = this.#server.address() as AddressInfo
    const url = new URL(`http://127.0.0.1:${port}/object`)
    return {
      host: url.host,
      get: async (_oid, size, request: GetRequest) => {
        const headers = rangeHeaders(request, size)
        const { direct } = this
        const response = await client.send({ method: 'GET', url, headers, signal: request.signal, direct })
        if (response.direct !== undefined) this.directly++
        if (response.status < 300) return response
        throw (await s3Error(response, url.host, 'GET')).error
      },
      openUpload: () => Promise.reject(new TypeError('not for downloads')),
    }
  }

  async #answer(request: http.IncomingMessage, response: http.ServerResponse): Promise<void> {
    const { content } = this
    const range = parseByteRange(request.headers.range, content.length)
    const ifMatch = request.headers['if-match']
    const [start, end] = typeof range === 'string' ? [0, content.length] : [range.start, range.end + 1]
    const fetched = { index: this.requests.length, start, end, ranged: range !== 'whole', ifMatch }
    this.requests.push(fetched)
    this.open++
    this.mostOpen = Math.max(this.mostOpen, this.open)
    response.on('close', () => this.open--)
    response.on('error', () => {})
    const spoilt = this.spoil(fetched, response, content.subarray(start, end))
    if (spoilt === 'taken') return
    if (ifMatch !== undefined && ifMatch !== this.etag) {
      response.writeHead(412).end()
      return
    }
    if (range === 'unsatisfiable') {
      response.writeHead(416).end()
      return
    }
    const bytes = spoilt ?? content.subarray(start, end)
    response.writeHead(range === 'whole' ? 200 : 206, {
      'content-length': end - start,
      ...(this.etag === undefined ? {} : { etag: this.etag }),
      ...(range === 'whole' ? {} : { 'content-range': `bytes ${start}-${end - 1}/${content.length}` }),
    })
    for (let at = 0; at < bytes.length && !response.destroyed; at += BLOCK) {
      await this.pace?.()
      const block = bytes.subarray(at, at + BLOCK)
      this.sent += block.length
      await new Promise<void>((resolve) => void response.write(block, () => resolve()))
    }
    // Behind what was sent, so that it arrives.
    if (bytes.length < end - start) response.socket?.end()
    else response.end()
  }
}

/** Bytes that go out at a time. */
const BLOCK = 64 * 1024

/** Gives each download all the streams that it can use, at once. */
export class EagerGovernor implements Governor {
  readonly told: string[] = []
  /** The most streams that one download ever had. */
  most = 0
  readonly #timers = new Map<GovernedDownload, NodeJS.Timeout>()

  join(download: GovernedDownload): void {
    const grow = (): void => {
      while (download.growable) download.grow()
      this.most = Math.max(this.most, download.streams)
    }
    this.#timers.set(download, setInterval(grow, 1))
  }
  leave(download: GovernedDownload): void {
    clearInterval(this.#timers.get(download))
  }
  keeps(): boolean {
    return true
  }
  throttled(): void {
    this.told.push('throttled')
  }
  refused(): void {
    this.told.push('refused')
  }
}
