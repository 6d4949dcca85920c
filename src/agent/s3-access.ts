import type { HeldCredentials } from '../access/client.ts'
import type { HttpResponse, HttpSend } from '../access/http-client.ts'
import { readText } from '../access/http-client.ts'
import { type PlannedPart, partSizeFor, planParts } from '../access/part-plan.ts'
import { askFirstAfterFailure, type Retrier } from '../access/retry.ts'
import { isTimoneError, TimoneError } from '../errors.ts'
import type { Logger } from '../log.ts'
import type { Oid } from '../oid.ts'
import { objectKey } from '../storage/object-key.ts'
import type { StoredPart } from '../storage/object-store.ts'
import { objectUrl } from '../storage/s3-location.ts'
import { EMPTY_SHA256, SigningKeyCache, signHeaders, UNSIGNED_PAYLOAD } from '../storage/sigv4.ts'
import type { GetRequest, ObjectAccess, OpenUploadOptions, PartBody, Upload } from './object-access.ts'
import { rangeHeaders } from './range-answer.ts'
import { type Call, completionXml, discard, locationOf, s3Of } from './s3-request.ts'
import { s3Error, s3ErrorFromText, xmlAll, xmlText } from './s3-response.ts'

/** Credentials good right now; `stale` are some that the store has refused. */
export type CredentialsSource = (
  stale: HeldCredentials | undefined,
  signal: AbortSignal,
) => Promise<HeldCredentials>

export interface S3AccessOptions {
  send: HttpSend
  retrier: Retrier
  credentials: CredentialsSource
  endpoint: string
  /** Asks the server whether the object is there whole; storage credentials for uploads cannot read. */
  isPresent: (oid: Oid, size: number, uploadId: string, signal: AbortSignal) => Promise<boolean>
  log: Logger
}

/** Completing an upload of 10 000 parts can take a store minutes. */
const COMPLETE_TIMEOUT = 300_000
/** S3 names the right region at most this often before we stop believing it. */
const MAX_REDIRECTS = 2

/** Signs each request here, with storage credentials from the server's broker. */
export class S3Access implements ObjectAccess {
  readonly host: string
  readonly #options: S3AccessOptions
  readonly #keys = new SigningKeyCache()
  #region: string | undefined
  /** Correction of the clock that a store asked for, milliseconds; on top of the server's. */
  #clockOffset: number | undefined
  /** False after a store said that it does not know conditional writes. */
  #conditional = true

  constructor(options: S3AccessOptions) {
    this.#options = options
    this.host = new URL(options.endpoint).host
  }

  async get(oid: Oid, size: number, request: GetRequest): Promise<HttpResponse> {
    return this.#call({
      method: 'GET',
      key: await this.#keyOf(oid, request.signal),
      headers: rangeHeaders(request, size),
      what: 'GET',
      direct: true,
      signal: request.signal,
    })
  }

  async openUpload(oid: Oid, size: number, options: OpenUploadOptions): Promise<Upload> {
    const key = await this.#keyOf(oid, options.signal)
    const partSize = partSizeFor(size, options.partSize)
    const parts = planParts(size, partSize)
    const object = { key, oid, size, replace: options.replace }
    if (parts.length === 1) return this.#single(object, parts)
    const stored = new Map<number, StoredPart>()
    let id = options.resumeId
    if (id === undefined) {
      id = await this.#create(key, options.signal)
    } else {
      for (const part of await this.#listParts(key, id, options.signal)) stored.set(part.number, part)
    }
    return this.#multipart(object, id, partSize, parts, stored)
  }

  /** The whole object in one PUT whose signed payload hash is the oid: the store itself refuses other bytes. */
  #single({ key, oid, size, replace }: TargetObject, parts: PlannedPart[]): Upload {
    const put = async (
      body: PartBody,
      signal: AbortSignal,
      headers: Record<string, string>,
    ): Promise<void> => {
      const what = 'PUT'
      await this.#retried(
        { method: 'PUT', key, headers, payloadHash: oid, body, size, what, signal },
        (response) => discard(response),
      )
    }
    let created = false
    return {
      id: undefined,
      partSize: size,
      missing: parts,
      digest: 'none',
      putPart: async (_part, body, signal) => {
        created = await this.#createOnly(replace, (headers) => put(body, signal, headers))
      },
      complete: async () => created,
      abort: async () => true,
    }
  }

  #multipart(
    { key, oid, size, replace }: TargetObject,
    id: string,
    partSize: number,
    parts: PlannedPart[],
    stored: Map<number, StoredPart>,
  ): Upload {
    // A part of another size is from another plan: send it again, the store keeps the last.
    const missing = parts.filter((part) => stored.get(part.number)?.size !== part.size)
    return {
      id,
      partSize,
      missing,
      digest: 'sha256',
      putPart: async (part, body, signal) => {
        const call: Call = {
          method: 'PUT',
          key,
          query: { partNumber: String(part.number), uploadId: id },
          payloadHash: body.digest ?? UNSIGNED_PAYLOAD,
          body,
          size: part.size,
          what: `PUT of part ${part.number}`,
          signal,
        }
        await this.#retried(call, async (response) => {
          await discard(response)
          const etag = response.headers.etag
          if (etag === undefined)
            throw new TimoneError('unavailable', `${this.host} stored a part without an ETag`)
          stored.set(part.number, { number: part.number, size: part.size, etag })
        })
      },
      complete: async (signal) => {
        const list = parts.map((part) => {
          const etag = stored.get(part.number)?.etag
          if (etag === undefined) throw new TypeError(`part ${part.number} was never sent`)
          return { number: part.number, etag }
        })
        const body = completionXml(list)
        try {
          const complete = (headers: Record<string, string>): Promise<void> =>
            this.#complete(key, id, body, headers, signal)
          if (!(await this.#createOnly(replace, complete))) await this.#abort(key, id)
        } catch (error) {
          // Completed by another process, or by us before an answer was lost: only the server may look.
          if (!isTimoneError(error, 'no_such_upload')) throw error
          if (!(await this.#options.isPresent(oid, size, id, signal))) throw error
        }
        return false
      },
      abort: () => this.#abort(key, id),
    }
  }

  /**
   * Writes on condition that nothing is there, unless a damaged object is to be replaced. What has appeared meanwhile
   * is success: its name is its hash, and git-lfs has the server verify it. Gives false in that case.
   */
  async #createOnly(
    replace: boolean,
    write: (headers: Record<string, string>) => Promise<void>,
  ): Promise<boolean> {
    const conditional = this.#conditional && !replace
    try {
      await write(conditional ? { 'if-none-match': '*' } : {})
      return true
    } catch (error) {
      if (conditional && isTimoneError(error, 'precondition_failed')) return false
      if (!conditional || !isTimoneError(error) || error.status !== 501) throw error
      this.#options.log.info({ host: this.host }, 'the store has no conditional writes')
      this.#conditional = false
      await write({})
      return true
    }
  }

  async #create(key: string, signal: AbortSignal): Promise<string> {
    const call: Call = {
      method: 'POST',
      key,
      query: { uploads: '' },
      headers: { 'content-type': 'application/octet-stream', 'content-length': '0' },
      what: 'start of a multipart upload',
      signal,
    }
    return this.#retried(call, async (response) => {
      const id = xmlText(await readText(response), 'UploadId')
      if (id === undefined || id === '')
        throw new TimoneError('unavailable', `${this.host} gave no upload id`)
      return id
    })
  }

  async #listParts(key: string, uploadId: string, signal: AbortSignal): Promise<StoredPart[]> {
    const parts: StoredPart[] = []
    let marker: string | undefined = '0'
    while (marker !== undefined) {
      const call: Call = {
        method: 'GET',
        key,
        query: { uploadId, 'part-number-marker': marker, 'max-parts': '1000' },
        what: 'list of parts',
        signal,
      }
      const xml: string = await this.#retried(call, (response) => readText(response, 16 * 2 ** 20))
      for (const part of xmlAll(xml, 'Part')) {
        const number = Number(xmlText(part, 'PartNumber'))
        const etag = xmlText(part, 'ETag')
        if (Number.isInteger(number) && etag !== undefined)
          parts.push({ number, size: Number(xmlText(part, 'Size')), etag })
      }
      const next: string | undefined = xmlText(xml, 'NextPartNumberMarker')
      // Only ever forward: a store that goes in circles must not keep us.
      marker = xmlText(xml, 'IsTruncated') === 'true' && Number(next) > Number(marker) ? next : undefined
    }
    return parts
  }

  async #complete(
    key: string,
    uploadId: string,
    body: string,
    headers: Record<string, string>,
    signal: AbortSignal,
  ): Promise<void> {
    const call: Call = {
      method: 'POST',
      key,
      query: { uploadId },
      headers: {
        ...headers,
        'content-type': 'application/xml',
        'content-length': String(Buffer.byteLength(body)),
      },
      payloadHash: UNSIGNED_PAYLOAD,
      body,
      what: 'completion of the upload',
      idleTimeout: COMPLETE_TIMEOUT,
      signal,
    }
    await this.#retried(call, async (response) => {
      const text = await readText(response)
      // S3 may fail after it has sent status 200 (API reference, CompleteMultipartUpload).
      if (/<Error[\s>]/.test(text)) throw s3ErrorFromText(response, text, this.host, call.what).error
      // Neither yes nor no (a proxy's page, an empty answer): asking again tells.
      if (!text.includes('CompleteMultipartUploadResult'))
        throw new TimoneError('unavailable', `${this.host} gave no result for the ${call.what}`)
    })
  }

  async #abort(key: string, uploadId: string): Promise<boolean> {
    // Not the transfer's signal: it has often fired by now, and this is short.
    const signal = AbortSignal.timeout(10_000)
    try {
      const query = { uploadId }
      const call: Call = { method: 'DELETE', key, query, what: 'abort of an upload', signal }
      await this.#retried(call, (response) => discard(response))
      return true
    } catch (error) {
      if (isTimoneError(error, 'no_such_upload')) return true
      this.#options.log.warn(
        { key, error: String(error) },
        'could not abort an upload; the bucket’s lifecycle rule will',
      )
      return false
    }
  }

  /** A call that is tried again while that can help; `use` must read the response and may ask for another try too. */
  #retried<T>(call: Call, use: (response: HttpResponse) => Promise<T>): Promise<T> {
    const attempt = askFirstAfterFailure(async (expectContinue) =>
      use(await this.#call({ ...call, expectContinue })),
    )
    return this.#options.retrier.run(this.host, attempt, {
      signal: call.signal,
      onRetry: (error, delay) =>
        this.#options.log.warn(
          { host: this.host, code: error.code, delay: Math.round(delay * 10) / 10 },
          error.message,
        ),
    })
  }

  /**
   * One call, with the corrections that a store may ask for: fresh credentials once, its clock once, its region twice.
   */
  async #call(call: Call): Promise<HttpResponse> {
    let stale: HeldCredentials | undefined
    let redirects = 0
    let skewed = false
    for (;;) {
      const held = await this.#options.credentials(stale, call.signal)
      const sentAt = Date.now()
      const response = await this.#send(call, held)
      if (response.status >= 200 && response.status < 300) return response
      const { error: said, failure } = await s3Error(response, this.host, call.what)
      // Ceph says NoSuchKey where S3 says NoSuchUpload.
      const lost = said.code === 'not_found' && call.query?.uploadId !== undefined
      const error = lost
        ? new TimoneError('no_such_upload', said.message, { cause: said, status: 404 })
        : said
      const expired =
        error.code === 'credentials_expired' || (error.code === 'denied' && held.expiresAt <= Date.now())
      if (expired && stale === undefined) {
        stale = held
        continue
      }
      if (error.code === 'clock_skew' && !skewed) {
        const storeTime = Date.parse(response.headers.date ?? '')
        if (!Number.isNaN(storeTime)) {
          skewed = true
          this.#clockOffset = storeTime - sentAt
          this.#options.log.warn(
            { seconds: Math.round(this.#clockOffset / 1000) },
            'clock is off, using the store’s',
          )
          continue
        }
      }
      const region = failure.region
      if (
        error.code === 'wrong_region' &&
        region !== undefined &&
        region !== this.#region &&
        redirects < MAX_REDIRECTS
      ) {
        redirects++
        this.#region = region
        this.#options.log.warn({ region }, 'the bucket is in another region')
        continue
      }
      throw error
    }
  }

  async #send(call: Call, held: HeldCredentials): Promise<HttpResponse> {
    const credentials = s3Of(held)
    const url = objectUrl(locationOf(credentials), call.key)
    for (const [name, value] of Object.entries(call.query ?? {})) url.searchParams.set(name, value)
    const headers: Record<string, string> = { ...call.headers }
    if (call.size !== undefined) headers['content-length'] = String(call.size)
    const payloadHash = call.payloadHash ?? EMPTY_SHA256
    const signed = signHeaders(call.method, url, headers, payloadHash, {
      keys: {
        accessKeyId: credentials.access_key_id,
        secretAccessKey: credentials.secret_access_key,
        sessionToken: credentials.session_token === '' ? undefined : credentials.session_token,
      },
      region: this.#region ?? credentials.region,
      date: new Date(Date.now() + (this.#clockOffset ?? held.clockOffset)),
      cache: this.#keys,
    })
    const { body } = call
    return this.#options.send({
      method: call.method,
      url,
      headers: signed,
      signal: call.signal,
      ...(body === undefined
        ? {}
        : typeof body === 'string'
          ? { body }
          : { body: body.open, onSent: body.onSent }),
      ...(call.idleTimeout === undefined ? {} : { idleTimeout: call.idleTimeout }),
      ...(call.expectContinue === undefined ? {} : { expectContinue: call.expectContinue }),
      ...(call.direct === undefined ? {} : { direct: call.direct }),
    })
  }

  async #keyOf(oid: Oid, signal: AbortSignal): Promise<string> {
    return objectKey(s3Of(await this.#options.credentials(undefined, signal)).prefix, oid)
  }
}

interface TargetObject {
  key: string
  oid: Oid
  size: number
  replace: boolean
}
