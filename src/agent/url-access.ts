import { performance } from 'node:perf_hooks'
import { type HeldCredentials, parseHref, postJson } from '../access/client.ts'
import type { SignedPart, SignedRequest, TransferAnswer, TransferRequest } from '../access/credentials.ts'
import { type HttpResponse, type HttpSend, readText } from '../access/http-client.ts'
import type { PlannedPart } from '../access/part-plan.ts'
import { askFirstAfterFailure, type Retrier } from '../access/retry.ts'
import { isTimoneError, TimoneError } from '../errors.ts'
import type { Logger } from '../log.ts'
import type { Oid } from '../oid.ts'
import type { GetRequest, ObjectAccess, OpenUploadOptions, PartBody, Upload } from './object-access.ts'
import { rangeHeaders } from './range-answer.ts'
import type { CredentialsSource } from './s3-access.ts'
import { s3Error } from './s3-response.ts'
import { type SignedDownload, SignedDownloads } from './signed-downloads.ts'

export interface UrlAccessOptions {
  send: HttpSend
  retrier: Retrier
  credentials: CredentialsSource
  /** Absolute URL of the transfers route. */
  transfers: string
  log: Logger
}

/** Completing makes the server read the whole object once more, to check its hash. */
const COMPLETE_TIMEOUT = 600_000
/** Signed URLs are asked for anew when they have less than this left, milliseconds. */
const MARGIN = 30_000

type UploadAnswer = Extract<TransferAnswer, { operation: 'upload' }>

/** Asks the server for signed URLs, object by object: for the file store, and for S3 stores without STS. */
export class UrlAccess implements ObjectAccess {
  readonly host: string
  readonly #options: UrlAccessOptions
  readonly #transfers: URL
  readonly #downloads = new SignedDownloads()

  constructor(options: UrlAccessOptions) {
    this.#options = options
    this.#transfers = parseHref(options.transfers)
    this.host = this.#transfers.host
  }

  async get(oid: Oid, size: number, request: GetRequest): Promise<HttpResponse> {
    const { offset, end = size, signal } = request
    const ask = (): Promise<SignedDownload> => this.#askDownload(oid, size, signal)
    const get = ({ request: { href, header } }: SignedDownload): Promise<HttpResponse> => {
      const headers = { ...header, ...rangeHeaders(request, size) }
      return this.#once('GET', { href, header }, headers, undefined, 'GET', signal)
    }
    // In one go: the URL is used once.
    if (offset === 0 && end >= size) return get(await ask())
    const { signed, isNew } = await this.#downloads.get(oid, signal, ask)
    try {
      return await get(signed)
    } catch (error) {
      // A signed URL that has run out is answered with 403: one fresh one, then it is a real refusal.
      if (!isTimoneError(error, 'denied', 'credentials_expired') || isNew) throw error
      await this.#downloads.refuse(oid, signed)
      return get((await this.#downloads.get(oid, signal, ask)).signed)
    }
  }

  async openUpload(oid: Oid, size: number, options: OpenUploadOptions): Promise<Upload> {
    const wanted: TransferRequest = { operation: 'upload', oid, size, part_size: options.partSize }
    if (options.resumeId !== undefined) wanted.upload_id = options.resumeId
    let { answer, until } = await this.#askUpload(wanted, options.signal)
    const id = answer.upload_id
    const renewable: TransferRequest = {
      operation: 'upload',
      oid,
      size,
      part_size: answer.part_size,
      upload_id: id,
    }
    let renewing: Promise<void> | undefined
    const renew = (signal: AbortSignal): Promise<void> => {
      renewing ??= this.#askUpload(renewable, signal)
        .then((fresh) => {
          ;({ answer, until } = fresh)
        })
        .finally(() => {
          renewing = undefined
        })
      return renewing
    }
    const single = answer.parts.length <= 1 && answer.part_size >= size
    // Our own server hashes the whole object itself; a store gets a checksum with each part.
    const ownServer = answer.parts.every((part) => parseHref(part.href).host === this.host)
    return {
      id: single ? undefined : id,
      partSize: answer.part_size,
      missing: answer.parts.map(({ number, offset, size }) => ({ number, offset, size })),
      digest: single || ownServer ? 'none' : 'md5',
      putPart: async (part, body, signal) => {
        let forced = false
        const attempt = askFirstAfterFailure(async (ask) => {
          if (forced || until - MARGIN < Date.now()) await renew(signal)
          const signed = answer.parts.find(({ number }) => number === part.number)
          // After a renewal the list holds only what is missing: this part has arrived after all.
          if (signed === undefined) return
          try {
            await this.#putPart(part, signed, body, signal, ask)
          } catch (error) {
            // A signed URL that has run out is answered with 403: one fresh one, then it is a real refusal.
            if (!isTimoneError(error, 'denied', 'credentials_expired') || forced || single) throw error
            forced = true
            await renew(signal)
            const fresh = answer.parts.find(({ number }) => number === part.number)
            if (fresh !== undefined) await this.#putPart(part, fresh, body, signal, ask)
          }
        })
        await this.#retried(signal, attempt)
      },
      complete: async (signal) => {
        await this.#retried(signal, async () => {
          if (until - MARGIN < Date.now() && !single) await renew(signal)
          const { href, header } = answer.complete
          await postJson(this.#options.send, parseHref(href), header, {}, signal, COMPLETE_TIMEOUT)
        })
        return false
      },
      abort: async () => single || this.#abort(oid, size, id),
    }
  }

  async #putPart(
    part: PlannedPart,
    signed: SignedPart,
    body: PartBody,
    signal: AbortSignal,
    ask: boolean,
  ): Promise<void> {
    if (signed.size !== part.size || signed.offset !== part.offset) throw badAnswer(this.host)
    const headers: Record<string, string> = { ...signed.header, 'content-length': String(part.size) }
    if (body.digest !== undefined) headers['content-md5'] = Buffer.from(body.digest, 'hex').toString('base64')
    const what = `PUT of part ${part.number}`
    await readText(await this.#once('PUT', signed, headers, body, what, signal, ask), 64 * 1024)
  }

  async #abort(oid: Oid, size: number, id: string): Promise<boolean> {
    // Not the transfer's signal: it has often fired by now, and this is short.
    const signal = AbortSignal.timeout(10_000)
    try {
      await this.#retried(signal, () =>
        this.#post(
          new URL(`${this.#transfers.href}/abort`),
          { operation: 'upload', oid, size, upload_id: id },
          signal,
        ),
      )
      return true
    } catch (error) {
      if (isTimoneError(error, 'no_such_upload')) return true
      this.#options.log.warn(
        { oid, error: String(error) },
        'could not abort an upload; the server will sweep it',
      )
      return false
    }
  }

  /** One request to a signed URL, any status but 2xx thrown. */
  async #once(
    method: string,
    signed: SignedRequest,
    headers: Record<string, string>,
    body: PartBody | undefined,
    what: string,
    signal: AbortSignal,
    expectContinue = false,
  ): Promise<HttpResponse> {
    const url = parseHref(signed.href)
    const response = await this.#options.send({
      method,
      url,
      headers,
      signal,
      expectContinue,
      direct: method === 'GET',
      ...(body === undefined ? {} : { body: body.open, onSent: body.onSent }),
    })
    if (response.status >= 200 && response.status < 300) return response
    throw (await s3Error(response, url.host, what)).error
  }

  async #askUpload(
    request: TransferRequest,
    signal: AbortSignal,
  ): Promise<{ answer: UploadAnswer; until: number }> {
    const answer = await this.#retried(signal, () => this.#ask(request, signal))
    if (answer.operation !== 'upload') throw badAnswer(this.host)
    if (!Array.isArray(answer.parts) || typeof answer.part_size !== 'number') throw badAnswer(this.host)
    return { answer, until: Date.now() + answer.lifetime }
  }

  async #askDownload(oid: Oid, size: number, signal: AbortSignal): Promise<SignedDownload> {
    const answer = await this.#ask({ operation: 'download', oid, size }, signal)
    if (answer.operation !== 'download') throw badAnswer(this.host)
    const { href, header } = answer
    return { request: { href, header }, until: performance.now() + answer.lifetime }
  }

  /** One request to the transfers route. */
  async #ask(request: TransferRequest, signal: AbortSignal): Promise<TransferAnswer & { lifetime: number }> {
    const { answer, serverTime } = await this.#post(this.#transfers, request, signal)
    const transfer = answer as TransferAnswer
    // By the server's own clock, so that ours may be wrong.
    const lifetime = Date.parse(transfer.expires_at) - (serverTime ?? Date.now())
    return { ...transfer, lifetime: Number.isNaN(lifetime) ? 0 : lifetime }
  }

  /** One request to the server; with fresh credentials once when the token is no longer good. */
  async #post(url: URL, request: TransferRequest, signal: AbortSignal): ReturnType<typeof postJson> {
    let stale: HeldCredentials | undefined
    for (;;) {
      const held = await this.#options.credentials(stale, signal)
      if (held.answer.driver !== 'url') {
        throw new TimoneError('config', 'the server has changed its kind of storage: try again')
      }
      const header = { Authorization: `Bearer ${held.answer.token}` }
      try {
        return await postJson(this.#options.send, url, header, request, signal)
      } catch (error) {
        if (!isTimoneError(error, 'unauthorized') || stale !== undefined) throw error
        stale = held
      }
    }
  }

  #retried<T>(signal: AbortSignal, attempt: () => Promise<T>): Promise<T> {
    return this.#options.retrier.run(this.host, attempt, {
      signal,
      onRetry: (error, delay) =>
        this.#options.log.warn(
          { host: this.host, code: error.code, delay: Math.round(delay * 10) / 10 },
          error.message,
        ),
    })
  }
}

function badAnswer(host: string): TimoneError {
  return new TimoneError('invalid', `${host} answered the transfers request with another shape than expected`)
}
