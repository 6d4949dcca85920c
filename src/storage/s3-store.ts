import { PassThrough, type Readable } from 'node:stream'
import {
  AbortMultipartUploadCommand,
  CompleteMultipartUploadCommand,
  CreateMultipartUploadCommand,
  DeleteObjectCommand,
  GetObjectCommand,
  HeadObjectCommand,
  ListMultipartUploadsCommand,
  ListObjectsV2Command,
  ListPartsCommand,
  type Part,
  PutObjectCommand,
  type S3Client,
  UploadPartCommand,
} from '@aws-sdk/client-s3'
import { isTimoneError, TimoneError } from '../errors.ts'
import type {
  GetOptions,
  ListedObject,
  ListedObjects,
  ObjectBody,
  ObjectInfo,
  ObjectStore,
  PutOptions,
  PutResult,
  StoredPart,
  UnfinishedUpload,
} from './object-store.ts'
import { abortError } from './pour.ts'
import { createS3Client, type S3ClientOptions } from './s3-client.ts'
import { deliver, HELD_IN_MEMORY, pinPayloadHash } from './s3-delivery.ts'
import { s3Error, s3ErrorName } from './s3-errors.ts'
import { type S3Location, s3Location } from './s3-location.ts'
import { S3LookUp } from './s3-look-up.ts'

export interface S3StoreOptions extends S3ClientOptions {
  /** A client to use instead of an own one; `credentials` are its business then. */
  client?: S3Client
  /** Absolute URL of the store; AWS when absent. */
  url?: string
  region: string
  bucket: string
  forcePathStyle: boolean
  /**
   * `when_supported`: objects are sent with `x-amz-checksum-sha256` too and answers with a checksum are checked;
   * `when_required`: neither, for stores that do not know such headers.
   */
  checksums: 'when_required' | 'when_supported'
  /** A key that {@link ObjectStore.check} may ask for; it need not exist, but the credentials must open it. */
  checkKey?: string
}

/** An {@link ObjectStore} in a bucket. */
export interface S3Store extends ObjectStore {
  readonly driver: 's3'
  readonly location: S3Location
}

/**
 * Objects in an S3 bucket. The hash of a whole object is signed with the request, so the store itself refuses other
 * bytes. A part of a multipart upload has no hash of its own here: its size is checked, and TLS guards its bytes.
 * The credentials need `s3:ListBucket`; without it S3 answers "denied" for objects that do not exist.
 */
export function createS3Store(options: S3StoreOptions): S3Store {
  const location = s3Location(options)
  return new BucketStore(options.client ?? createS3Client(location, options), location, options)
}

class BucketStore implements S3Store {
  readonly driver = 's3' as const
  readonly location: S3Location
  readonly #client: S3Client
  readonly #lookUp: S3LookUp
  readonly #host: string
  readonly #checksums: boolean
  readonly #checkKey: string
  /** False once the store has said that it does not know `If-None-Match`. */
  #conditional = true
  /** A look-up that finds nothing means little until the bucket is known to exist. */
  #bucketSeen = false

  constructor(client: S3Client, location: S3Location, options: S3StoreOptions) {
    this.#client = client
    this.#lookUp = new S3LookUp(client, location)
    this.location = location
    this.#host = new URL(location.endpoint).host
    this.#checksums = options.checksums === 'when_supported'
    this.#checkKey = options.checkKey ?? '.timone/check'
  }

  async head(key: string, options: { signal?: AbortSignal } = {}): Promise<ObjectInfo | undefined> {
    const quick = await this.#lookUp.head(key, options.signal)
    if (typeof quick === 'object') {
      this.#bucketSeen = true
      return quick
    }
    const doing = `look up ${key}`
    if (quick === 'absent') {
      // The answer to a HEAD has no body and so no reason: it may be the bucket that is absent.
      if (!this.#bucketSeen) await this.#explain(key, doing, options.signal)
      return undefined
    }
    try {
      const found = await this.#client.send(new HeadObjectCommand(this.#at(key)), sendOptions(options.signal))
      this.#bucketSeen = true
      return { size: found.ContentLength ?? 0, etag: found.ETag ?? '""' }
    } catch (error) {
      const plain = this.#error(error, doing, options.signal)
      const absent = plain.code === 'not_found'
      // The answer to a HEAD has no body and so no reason: ask again for one, unless it is plain that the object is
      // absent.
      if ((absent && !this.#bucketSeen) || plain.status === 400 || plain.status === 403) {
        await this.#explain(key, doing, options.signal)
      }
      if (absent) return undefined
      throw plain
    }
  }

  async list(prefix: string, options: { after?: string; signal?: AbortSignal }): Promise<ListedObjects> {
    const { after, signal } = options
    try {
      const page = await this.#client.send(
        new ListObjectsV2Command({
          Bucket: this.location.bucket,
          Prefix: prefix,
          ...(after === undefined ? {} : { StartAfter: after }),
        }),
        sendOptions(signal),
      )
      const objects = (page.Contents ?? []).map(({ Key = '', Size = 0 }) => ({ key: Key, size: Size }))
      return { objects, more: page.IsTruncated === true && objects.length > 0 }
    } catch (error) {
      throw this.#error(error, `list objects in bucket ${this.location.bucket}`, signal)
    }
  }

  async get(key: string, options: GetOptions = {}): Promise<ObjectBody> {
    const { range, ifMatch, signal } = options
    const doing = `read ${key}`
    try {
      const found = await this.#client.send(
        new GetObjectCommand({
          ...this.#at(key),
          ...(range === undefined ? {} : { Range: `bytes=${range.start}-${range.end}` }),
          ...(ifMatch === undefined ? {} : { IfMatch: ifMatch }),
        }),
        sendOptions(signal),
      )
      // `bytes 0-9/1234` (RFC 9110, section 14.4)
      const whole = found.ContentRange?.split('/')[1] ?? found.ContentLength
      const body = this.#mapped(found.Body as Readable, doing, signal)
      return { size: Number(whole), etag: found.ETag ?? '""', body }
    } catch (error) {
      throw this.#error(error, doing, signal)
    }
  }

  async put(key: string, body: Readable, options: PutOptions): Promise<PutResult> {
    const { size, sha256, replace = false, signal } = options
    const doing = `store ${key}`
    // Where the store cannot refuse by itself, and before much is sent for nothing.
    if (!replace && (!this.#conditional || size > HELD_IN_MEMORY) && (await this.#isThere(key, size, signal)))
      return 'exists'
    const send = (content: Readable | Buffer, stop: AbortSignal | undefined): Promise<unknown> => {
      const command = new PutObjectCommand({
        ...this.#at(key),
        Body: content,
        ContentLength: size,
        ...(this.#checksums ? { ChecksumSHA256: Buffer.from(sha256, 'hex').toString('base64') } : {}),
        ...(this.#conditional && !replace ? { IfNoneMatch: '*' } : {}),
      })
      pinPayloadHash(command, sha256)
      return this.#client.send(command, sendOptions(stop))
    }
    try {
      return await deliver(body, { size, sha256 }, signal, async (content, stop) => {
        try {
          await send(content, stop)
        } catch (error) {
          if (!this.#refusesConditions(error)) throw error
          if (!Buffer.isBuffer(content)) {
            throw new TimoneError(
              'unavailable',
              `cannot ${doing}: the store knows no conditions; try once more`,
              {
                host: this.#host,
              },
            )
          }
          if (await this.#isThere(key, size, signal)) return 'exists'
          await send(content, stop)
        }
        return 'created'
      })
    } catch (error) {
      return this.#settle(error, key, size, doing, signal)
    }
  }

  async createUpload(key: string): Promise<string> {
    const doing = `start an upload of ${key}`
    try {
      const { UploadId } = await this.#client.send(new CreateMultipartUploadCommand(this.#at(key)))
      if (UploadId === undefined)
        throw new TimoneError('unavailable', `cannot ${doing}: no upload id in the answer`)
      return UploadId
    } catch (error) {
      throw this.#error(error, doing)
    }
  }

  async putPart(
    key: string,
    uploadId: string,
    number: number,
    body: Readable,
    options: { size: number; signal?: AbortSignal },
  ): Promise<StoredPart> {
    const { size, signal } = options
    const doing = `store part ${number} of ${key}`
    const upload = { ...this.#at(key), UploadId: uploadId, PartNumber: number, ContentLength: size }
    try {
      const stored = await deliver(body, { size }, signal, (content, stop) =>
        this.#client.send(new UploadPartCommand({ ...upload, Body: content }), sendOptions(stop)),
      )
      return { number, size, etag: stored.ETag ?? '""' }
    } catch (error) {
      throw this.#uploadError(error, doing, signal)
    }
  }

  async listParts(key: string, uploadId: string): Promise<StoredPart[]> {
    try {
      return (await this.#parts(key, uploadId)).map((part) => ({
        number: part.PartNumber ?? 0,
        size: part.Size ?? 0,
        etag: part.ETag ?? '""',
      }))
    } catch (error) {
      throw this.#uploadError(error, `list the parts of ${key}`)
    }
  }

  async completeUpload(
    key: string,
    uploadId: string,
    options: { size: number; sha256: string; replace?: boolean },
  ): Promise<PutResult> {
    const { size, replace = false } = options
    const doing = `complete the upload of ${key}`
    try {
      const parts = await this.#parts(key, uploadId)
      const sum = parts.reduce((total, part) => total + (part.Size ?? 0), 0)
      const gap = parts.findIndex((part, index) => part.PartNumber !== index + 1)
      if (gap !== -1 || parts.length === 0 || sum !== size) {
        throw new TimoneError(
          'size_mismatch',
          gap === -1 && parts.length > 0
            ? `cannot ${doing}: its parts have ${sum} bytes, not ${size}`
            : `cannot ${doing}: part ${gap === -1 ? 1 : gap + 1} is missing`,
        )
      }
      if (!replace && (await this.#isThere(key, size))) {
        await this.abortUpload(key, uploadId)
        return 'exists'
      }
      return await this.#complete(key, uploadId, parts, size, replace)
    } catch (error) {
      const failed = this.#uploadError(error, doing)
      // The answer to the first call may have been lost on its way.
      if (failed.code === 'no_such_upload' && (await this.head(key))?.size === size) return 'exists'
      throw failed
    }
  }

  async abortUpload(key: string, uploadId: string): Promise<void> {
    try {
      await this.#client.send(new AbortMultipartUploadCommand({ ...this.#at(key), UploadId: uploadId }))
    } catch (error) {
      const failed = this.#uploadError(error, `drop an upload of ${key}`)
      if (failed.code !== 'no_such_upload') throw failed
    }
  }

  async remove(key: string): Promise<void> {
    try {
      await this.#client.send(new DeleteObjectCommand(this.#at(key)))
    } catch (error) {
      throw this.#error(error, `remove ${key}`)
    }
  }

  async *listObjects(prefix: string): AsyncGenerator<ListedObject> {
    let after: string | undefined
    for (;;) {
      const { objects, more } = await this.list(prefix, after === undefined ? {} : { after })
      yield* objects
      const last = objects.at(-1)?.key
      if (!more || last === after) return
      after = last
    }
  }

  async *listUploads(prefix: string): AsyncGenerator<UnfinishedUpload> {
    let marker: { KeyMarker?: string; UploadIdMarker?: string } = {}
    for (;;) {
      const request = { Bucket: this.location.bucket, Prefix: prefix, ...marker }
      const page = await this.#client
        .send(new ListMultipartUploadsCommand(request))
        .catch((error: unknown) => {
          throw this.#error(error, `list the unfinished uploads in bucket ${this.location.bucket}`)
        })
      for (const { Key, UploadId, Initiated } of page.Uploads ?? []) {
        if (Key !== undefined && UploadId !== undefined)
          yield { key: Key, uploadId: UploadId, startedAt: Initiated ?? new Date() }
      }
      const { NextKeyMarker: key, NextUploadIdMarker: id } = page
      // A store that says "more" and gives no way on must not keep us here for ever.
      if (!page.IsTruncated || !key || (key === marker.KeyMarker && id === marker.UploadIdMarker)) return
      marker = { KeyMarker: key, ...(id === undefined ? {} : { UploadIdMarker: id }) }
    }
  }

  async check(options: { signal?: AbortSignal } = {}): Promise<void> {
    await this.#explain(this.#checkKey, `use bucket ${this.location.bucket}`, options.signal)
  }

  #at(key: string): { Bucket: string; Key: string } {
    return { Bucket: this.location.bucket, Key: key }
  }

  #error(error: unknown, doing: string, signal?: AbortSignal): TimoneError {
    if (isTimoneError(error)) return error
    if (signal?.aborted) return abortError(signal)
    return s3Error(error, { doing, host: this.#host, region: this.location.region })
  }

  /** In calls that name an upload, Ceph answers `NoSuchKey` where S3 has `NoSuchUpload`. */
  #uploadError(error: unknown, doing: string, signal?: AbortSignal): TimoneError {
    const failed = this.#error(error, doing, signal)
    if (failed.code !== 'not_found') return failed
    const { status = 404, requestId } = failed
    const details = { host: this.#host, status, ...(requestId === undefined ? {} : { requestId }) }
    return new TimoneError('no_such_upload', `cannot ${doing}: the upload was completed or dropped`, details)
  }

  /** Reads the first byte of `key`, so that the store says in words what is wrong. An absent object is all right. */
  async #explain(key: string, doing: string, signal: AbortSignal | undefined): Promise<void> {
    try {
      const { Body } = await this.#client.send(
        new GetObjectCommand({ ...this.#at(key), Range: 'bytes=0-0' }),
        sendOptions(signal),
      )
      ;(Body as Readable).destroy()
    } catch (error) {
      const failed = this.#error(error, doing, signal)
      // 416: it is there and empty.
      if (failed.code !== 'not_found' && failed.status !== 416) throw failed
    }
    this.#bucketSeen = true
  }

  /** True: an object of that size is there. @throws `conflict` when one of another size is */
  async #isThere(key: string, size: number, signal?: AbortSignal): Promise<boolean> {
    const there = await this.head(key, signal === undefined ? {} : { signal })
    if (there === undefined) return false
    if (there.size === size) return true
    throw new TimoneError(
      'conflict',
      `${key} is there with ${there.size} bytes instead of ${size}: it is damaged`,
    )
  }

  /** What a conditional create that failed comes to. @throws what it failed with, unless the object is there */
  async #settle(
    error: unknown,
    key: string,
    size: number,
    doing: string,
    signal?: AbortSignal,
  ): Promise<PutResult> {
    const failed = this.#error(error, doing, signal)
    if (failed.code !== 'precondition_failed' && failed.code !== 'conflict') throw failed
    if (await this.#isThere(key, size, signal)) return 'exists'
    throw new TimoneError('unavailable', `cannot ${doing}: another upload of it was under way`, {
      host: this.#host,
      cause: failed,
    })
  }

  /** True when `error` says that the store knows no conditional requests; from then on none are made. */
  #refusesConditions(error: unknown): boolean {
    const { name, status } = s3ErrorName(error)
    if (!this.#conditional || (name !== 'NotImplemented' && status !== 501)) return false
    this.#conditional = false
    return true
  }

  async #parts(key: string, uploadId: string): Promise<Part[]> {
    const parts: Part[] = []
    let marker: string | undefined
    for (;;) {
      const page = await this.#client.send(
        new ListPartsCommand({
          ...this.#at(key),
          UploadId: uploadId,
          ...(marker === undefined ? {} : { PartNumberMarker: marker }),
        }),
      )
      parts.push(...(page.Parts ?? []))
      // A store that says "more" and gives no way on must not keep us here for ever.
      if (!page.IsTruncated || !page.NextPartNumberMarker || page.NextPartNumberMarker === marker)
        return parts
      marker = page.NextPartNumberMarker
    }
  }

  async #complete(
    key: string,
    uploadId: string,
    parts: Part[],
    size: number,
    replace: boolean,
  ): Promise<PutResult> {
    const listed = parts.map(({ PartNumber, ETag }) => ({ PartNumber, ETag }))
    const send = (): Promise<unknown> =>
      this.#client.send(
        new CompleteMultipartUploadCommand({
          ...this.#at(key),
          UploadId: uploadId,
          MultipartUpload: { Parts: listed },
          ...(this.#conditional && !replace ? { IfNoneMatch: '*' } : {}),
        }),
      )
    try {
      await send().catch((error: unknown) => {
        if (this.#refusesConditions(error)) return send()
        throw error
      })
      return 'created'
    } catch (error) {
      const result = await this.#settle(error, key, size, `complete the upload of ${key}`)
      await this.abortUpload(key, uploadId)
      return result
    }
  }

  /** `raw` with errors that say what failed. */
  #mapped(raw: Readable, doing: string, signal: AbortSignal | undefined): Readable {
    const body = new PassThrough({ highWaterMark: 256 * 1024 })
    raw.on('error', (error) => body.destroy(this.#error(error, doing, signal)))
    body.once('close', () => raw.destroy())
    return raw.pipe(body)
  }
}

function sendOptions(signal: AbortSignal | undefined): { abortSignal?: AbortSignal } {
  return signal === undefined ? {} : { abortSignal: signal }
}
