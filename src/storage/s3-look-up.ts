import http from 'node:http'
import https from 'node:https'
import type { S3Client } from '@aws-sdk/client-s3'
import { objectUrl, type S3Location } from './s3-location.ts'
import { EMPTY_SHA256, SigningKeyCache, signHeaders } from './sigv4.ts'

/** What a look-up found out: the object, that there is none, or nothing that can be relied on. */
export type Found = { size: number; etag: string } | 'absent' | 'unclear'

/** Connections to the store for look-ups. */
const MAX_SOCKETS = 128
/** Milliseconds without a byte, after which the answer is unclear. */
const IDLE_TIMEOUT = 20_000

/**
 * HeadObject without the SDK's machinery. Each Batch of 100 objects asks for 100 of them and each upload for one more:
 * the SDK takes three times the CPU time for it, and that was most of what the server does. Whatever is not a plain
 * yes or no is `unclear`, and for the SDK to ask again, with its retries and its reasons.
 */
export class S3LookUp {
  readonly #client: S3Client
  readonly #location: S3Location
  readonly #agent: http.Agent
  readonly #keys = new SigningKeyCache()

  /** The client's credentials and its idea of the clock are used. */
  constructor(client: S3Client, location: S3Location) {
    this.#client = client
    this.#location = location
    const { Agent } = location.endpoint.startsWith('https:') ? https : http
    this.#agent = new Agent({ keepAlive: true, maxSockets: MAX_SOCKETS, scheduling: 'lifo' })
  }

  /** Never rejects, but leaves failures and stopping to whoever asks next. */
  async head(key: string, signal: AbortSignal | undefined): Promise<Found> {
    try {
      const { config } = this.#client
      const keys = await config.credentials()
      const url = objectUrl(this.#location, key)
      const date = new Date(Date.now() + config.systemClockOffset)
      const headers = signHeaders('HEAD', url, {}, EMPTY_SHA256, {
        keys,
        region: this.#location.region,
        date,
        cache: this.#keys,
      })
      return await this.#send(url, headers, signal)
    } catch {
      return 'unclear'
    }
  }

  #send(url: URL, headers: Record<string, string>, signal: AbortSignal | undefined): Promise<Found> {
    return new Promise((resolve, reject) => {
      const request = (url.protocol === 'https:' ? https : http).request(url, {
        method: 'HEAD',
        headers,
        agent: this.#agent,
        timeout: IDLE_TIMEOUT,
        ...(signal === undefined ? {} : { signal }),
      })
      request.on('timeout', () => request.destroy())
      request.on('error', reject)
      request.on('response', (answer) => {
        answer.resume()
        resolve(read(answer))
      })
      request.end()
    })
  }
}

function read({ statusCode, headers }: http.IncomingMessage): Found {
  if (statusCode === 404) return 'absent'
  const { 'content-length': length, etag } = headers
  if (statusCode !== 200 || length === undefined || etag === undefined) return 'unclear'
  const size = Number(length)
  return Number.isSafeInteger(size) && size >= 0 ? { size, etag } : 'unclear'
}
