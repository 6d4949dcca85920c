import type { Readable } from 'node:stream'

/** What is known of a stored object without reading it. */
export interface ObjectInfo {
  /** Bytes. */
  size: number
  /** Strong entity tag, with its quotes; it changes when the bytes change. */
  etag: string
}

/** A range of bytes, both ends included, as HTTP counts (RFC 9110, section 14.1.2). */
export interface ByteRange {
  start: number
  end: number
}

export interface GetOptions {
  range?: ByteRange
  /** Fail with `precondition_failed` when the object's entity tag is another one. */
  ifMatch?: string
  signal?: AbortSignal
}

/** An object that is being read. The caller must consume or destroy `body`. */
export interface ObjectBody extends ObjectInfo {
  body: Readable
}

export interface PutOptions {
  /** Exact number of bytes that `body` yields. */
  size: number
  /** SHA-256 of the bytes, hexadecimal: the store refuses others (`hash_mismatch`). */
  sha256: string
  /** Put it in place of a damaged object; otherwise an object that is there is left alone. */
  replace?: boolean
  signal?: AbortSignal
}

/** A part that the store has durably. */
export interface StoredPart {
  /** From 1. */
  number: number
  size: number
  etag: string
}

/** A multipart upload that was neither completed nor dropped. */
export interface UnfinishedUpload {
  key: string
  uploadId: string
  startedAt: Date
}

/** An object that a listing has found. */
export interface ListedObject {
  key: string
  /** Bytes. */
  size: number
}

/** Some objects in the order of their keys (code points). */
export interface ListedObjects {
  objects: ListedObject[]
  /** False: these are the last. */
  more: boolean
}

/** `exists`: an object of the same size was there already and was left as it is. */
export type PutResult = 'created' | 'exists'

/**
 * Where objects live. Keys come from `object-key.ts` only.
 * An object appears under its key whole or not at all, and is not overwritten unless `replace` says so.
 *
 * Errors are `TimoneError`s: `not_found` (object absent, on `get`), `hash_mismatch`, `size_mismatch`,
 * `precondition_failed`, `no_such_upload`, `no_such_bucket`, `denied`, `disk_full`, and the retryable `throttled`,
 * `unavailable`, `timeout`, `connection`.
 */
export interface ObjectStore {
  readonly driver: 's3' | 'file'
  /** Undefined when the object is absent; never throws `not_found`. */
  head(key: string, options?: { signal?: AbortSignal }): Promise<ObjectInfo | undefined>
  /**
   * One page of the objects under `prefix` whose keys come behind `after`, in the order of their keys. Only of stores
   * where this answers for many objects at the price of a few look-ups.
   */
  list?(prefix: string, options: { after?: string; signal?: AbortSignal }): Promise<ListedObjects>
  /** @throws `not_found` when absent, `invalid` when the range starts behind the end. */
  get(key: string, options?: GetOptions): Promise<ObjectBody>
  put(key: string, body: Readable, options: PutOptions): Promise<PutResult>
  /** Starts a multipart upload and gives its id. Nothing is visible under the key until `completeUpload`. */
  createUpload(key: string, options: { size: number; partSize: number }): Promise<string>
  putPart(
    key: string,
    uploadId: string,
    number: number,
    body: Readable,
    options: { size: number; signal?: AbortSignal },
  ): Promise<StoredPart>
  /** Finished parts in ascending order. @throws `no_such_upload` when the id is unknown, completed or aborted. */
  listParts(key: string, uploadId: string): Promise<StoredPart[]>
  /** @throws `size_mismatch` unless the parts 1 to n are all there and add up; `hash_mismatch` where the store can tell. */
  completeUpload(
    key: string,
    uploadId: string,
    options: { size: number; sha256: string; replace?: boolean },
  ): Promise<PutResult>
  /** Drops the upload and its parts. An unknown id is no error. */
  abortUpload(key: string, uploadId: string): Promise<void>
  /** Removes an object for good, durably. One that is not there is no error. */
  remove(key: string): Promise<void>
  /** The objects under `prefix`, those of a repository one after another; what is no object of ours may be among them. */
  listObjects(prefix: string): AsyncIterable<ListedObject>
  /** The uploads under `prefix` that were begun and neither completed nor dropped, in any order. */
  listUploads(prefix: string): AsyncIterable<UnfinishedUpload>
  /** Throws when the store cannot be used right now; for `/readyz` and `timone doctor`. */
  check(options?: { signal?: AbortSignal }): Promise<void>
}
