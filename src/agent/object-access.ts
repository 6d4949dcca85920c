import type { Readable } from 'node:stream'
import type { HttpResponse } from '../access/http-client.ts'
import type { PlannedPart } from '../access/part-plan.ts'
import type { Oid } from '../oid.ts'

/** How the bytes of a part are protected on the way, beyond what the connection does. */
export type PartDigest =
  /** The request is bound to the oid, or the server hashes: nothing to compute. */
  | 'none'
  /** SHA-256 as signed payload hash. */
  | 'sha256'
  /** MD5 as `Content-MD5`, which every S3 checks. */
  | 'md5'

export interface PartBody {
  /** The part's bytes anew, once for each try: a buffer where they fit into one. */
  open: () => Buffer | Readable
  /** To be told of what has gone, where `open` gives a buffer. */
  onSent?: (bytes: number) => void
  /** Hexadecimal, of the kind that {@link Upload.digest} asks for. */
  digest: string | undefined
}

/** One object on its way up. Nothing is visible until {@link complete}. */
export interface Upload {
  /** Lets a later process go on where this one ended; undefined when there is nothing to go on with. */
  readonly id: string | undefined
  readonly partSize: number
  /** Parts that the store does not have yet, in order. */
  readonly missing: readonly PlannedPart[]
  readonly digest: PartDigest
  /** Sends one part; tries again by itself. @throws `hash_mismatch` when the store saw other bytes. */
  putPart(part: PlannedPart, body: PartBody, signal: AbortSignal): Promise<void>
  /**
   * Makes the object appear. An equal object that is already there is success.
   * Gives true when the store created it in answer to one request that the oid was bound to: nothing is left to check.
   */
  complete(signal: AbortSignal): Promise<boolean>
  /** Drops what was sent; false when the store could not be told. Never throws. */
  abort(): Promise<boolean>
}

export interface GetRequest {
  /** First byte wanted. */
  offset: number
  /** End of what is wanted, excluded: the object's size unless said otherwise. All of it is asked for without a range. */
  end?: number | undefined
  /** Entity tag that the object must still have. */
  etag?: string | undefined
  signal: AbortSignal
}

export interface OpenUploadOptions {
  /** Id of an upload to go on with. */
  resumeId?: string
  /** Wanted size of the parts, bytes; what the object's size asks for wins. */
  partSize: number
  /** A damaged object is there and is to be replaced; otherwise nothing is ever overwritten. */
  replace: boolean
  signal: AbortSignal
}

/** The way to one object: signed here with storage credentials, or by signed URLs from the server. */
export interface ObjectAccess {
  /** Host that the bytes go to or come from, for messages and back-off. */
  readonly host: string
  /** One try. Answers 200 (whole) or 206 (from `offset`, to `end` at most). Every other status is thrown as a TimoneError. */
  get(oid: Oid, size: number, request: GetRequest): Promise<HttpResponse>
  /** Starts an upload, or goes on with `resumeId`. @throws `no_such_upload` when that is gone. */
  openUpload(oid: Oid, size: number, options: OpenUploadOptions): Promise<Upload>
}
