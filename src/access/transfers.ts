import { createHash } from 'node:crypto'
import * as z from 'zod/mini'
import type { Principal } from '../auth/principal.ts'
import type { Tokens } from '../auth/tokens.ts'
import { isTimoneError, TimoneError } from '../errors.ts'
import { ExpiringCache } from '../expiring-cache.ts'
import { isObjectSize, parseOid } from '../oid.ts'
import type { Repository } from '../repository.ts'
import type { ObjectInfo, ObjectStore, StoredPart } from '../storage/object-store.ts'
import { lfsUrl, lifetimeLeft } from './broker.ts'
import type { SignedPart, TransferAnswer, TransferRequest, UploadTransfer } from './credentials.ts'
import { keyOf, type ObjectName, type ObjectSigner, type PrepareSigner, signEach } from './object-location.ts'
import {
  DEFAULT_PART_SIZE,
  MAX_PART_SIZE,
  MAX_PARTS,
  MIN_PART_SIZE,
  partSizeFor,
  planParts,
} from './part-plan.ts'

/** `upload_id` of an upload that is one request, or none because the object is there. */
const SINGLE = 'single'
/** How long it is remembered whether a version of an object is what its oid says, milliseconds. */
const JUDGED_FOR = 3600_000

export interface TransfersOptions {
  store: ObjectStore
  /** The deployment's key prefix. */
  prefix: string
  prepareSigner: PrepareSigner
  tokens: Tokens
  /** Public URL of the server, without a slash at its end. */
  url: string
  /** Milliseconds since the epoch. */
  now?: () => number
}

/** Signed URLs, object by object and part by part: for stores without STS, and for the file store. */
export class Transfers {
  readonly #options: TransfersOptions
  readonly #now: () => number
  readonly #judged: ExpiringCache<boolean>

  constructor(options: TransfersOptions) {
    this.#options = options
    this.#now = options.now ?? Date.now
    this.#judged = new ExpiringCache({ now: this.#now })
  }

  /**
   * The requests that move one object, for a principal that was admitted to the direction.
   * @throws {TimoneError} `not_found` (download of an absent object), `size_mismatch`, `no_such_upload`, or what the
   * store threw.
   */
  async start(
    principal: Principal,
    repository: Repository,
    request: TransferRequest,
  ): Promise<TransferAnswer> {
    const name: ObjectName = { repository, oid: parseOid(request.oid), size: request.size }
    const signer = await this.#options.prepareSigner()
    const expiresAt = new Date(this.#now() + signer.expiresIn * 1000).toISOString()
    const stored = await this.#options.store.head(keyOf(this.#options.prefix, name))
    if (request.operation === 'upload') {
      const upload = await this.#upload(name, request, signer, stored?.size)
      const { complete, ...plan } = await this.#completable(principal, name, upload)
      return { operation: 'upload', ...plan, complete, expires_at: expiresAt }
    }
    if (stored === undefined) throw new TimoneError('not_found', `object ${name.oid} does not exist`)
    if (stored.size !== name.size) throw differs(name, stored.size)
    return { operation: 'download', ...signer.get(name), expires_at: expiresAt }
  }

  /**
   * Makes the object of a finished upload appear. Asked again after success, it succeeds again.
   * @throws {TimoneError} `not_found`, `no_such_upload`, `size_mismatch`, `hash_mismatch`, or what the store threw.
   */
  async complete(name: ObjectName, uploadId: string): Promise<void> {
    const { store, prefix } = this.#options
    const key = keyOf(prefix, name)
    const stored = await store.head(key)
    const upload = uploadId === SINGLE ? undefined : readUploadId(uploadId, name.size)
    if (stored?.size === name.size) {
      // Somebody else was faster, or our answer got lost: what is left of this upload is of no use.
      if (upload !== undefined) await store.abortUpload(key, upload.id)
      return
    }
    if (upload === undefined) {
      if (stored !== undefined) throw differs(name, stored.size)
      throw new TimoneError('not_found', `object ${name.oid} is not there: its bytes were not stored`)
    }
    // The size is only what the client says. A store that hashes what it completes needs no second look; a bucket would
    // put anything of that size in place of a good object.
    if (stored !== undefined && store.driver === 's3' && (await this.#isIntact(key, name, stored))) {
      await store.abortUpload(key, upload.id)
      const message = `object ${name.oid} is in the store with ${stored.size} bytes, and they are the right ones: the pointer that says ${name.size} is wrong`
      throw new TimoneError('size_mismatch', message)
    }
    const options = { size: name.size, sha256: name.oid, replace: stored !== undefined }
    try {
      await store.completeUpload(key, upload.id, options)
    } catch (error) {
      if (!isTimoneError(error, 'no_such_upload')) throw error
      const now = await store.head(key)
      if (now?.size !== name.size) throw error
    }
  }

  /**
   * Drops an unfinished upload and its parts. One that is gone already is no error.
   * @throws {TimoneError} `no_such_upload` for an id that was not given out here, or what the store threw
   */
  async abort(name: ObjectName, uploadId: string): Promise<void> {
    if (uploadId === SINGLE) return
    const { id } = readUploadId(uploadId, name.size)
    await this.#options.store.abortUpload(keyOf(this.#options.prefix, name), id)
  }

  /** Does the stored object have the hash that its oid says? Read from beginning to end, once for each version of it. */
  #isIntact(key: string, { oid }: ObjectName, { etag }: ObjectInfo): Promise<boolean> {
    return this.#judged.get(JSON.stringify([key, etag]), async () => {
      const { body } = await this.#options.store.get(key, { ifMatch: etag })
      const hash = createHash('sha256')
      for await (const chunk of body) hash.update(chunk as Buffer)
      return { value: hash.digest('hex') === oid, until: this.#now() + JUDGED_FOR }
    })
  }

  async #upload(
    name: ObjectName,
    request: TransferRequest,
    signer: ObjectSigner,
    storedSize: number | undefined,
  ): Promise<Pick<UploadTransfer, 'upload_id' | 'part_size' | 'parts'>> {
    const { store, prefix } = this.#options
    const key = keyOf(prefix, name)
    const known =
      request.upload_id === undefined || request.upload_id === SINGLE ? undefined : request.upload_id
    if (storedSize === name.size) {
      // Also for an upload that was not started here: an agent with storage credentials asks whether it is done.
      const done = known === undefined ? undefined : uploadIdOf(known, name.size)
      if (done !== undefined) await store.abortUpload(key, done.id)
      return {
        upload_id: SINGLE,
        part_size: done?.partSize ?? partSizeFor(name.size, request.part_size),
        parts: [],
      }
    }
    const asked = known === undefined ? undefined : readUploadId(known, name.size)
    const partSize = asked?.partSize ?? partSizeFor(name.size, request.part_size ?? DEFAULT_PART_SIZE)
    if (name.size <= partSize) {
      const put = signer.put(name, storedSize !== undefined)
      return {
        upload_id: SINGLE,
        part_size: partSize,
        parts: [{ number: 1, offset: 0, size: name.size, ...put }],
      }
    }
    const id = asked?.id ?? (await store.createUpload(key, { size: name.size, partSize }))
    const have = asked === undefined ? [] : await store.listParts(key, asked.id)
    const parts = await missingParts(name, partSize, have, id, signer)
    return { upload_id: `${partSize}.${id}`, part_size: partSize, parts }
  }

  /**
   * The request that completes an upload carries a token of its own, which opens nothing but `verify` and `complete`
   * and so may outlast the slowest upload.
   */
  async #completable<T extends { upload_id: string }>(
    principal: Principal,
    { repository, oid, size }: ObjectName,
    upload: T,
  ): Promise<T & Pick<UploadTransfer, 'complete'>> {
    const token = await this.#options.tokens.issueUse({
      use: 'verify',
      subject: principal.subject,
      repository,
      operation: 'upload',
      expiresIn: lifetimeLeft(principal, this.#now()),
      authTime: principal.authTime,
    })
    const query = new URLSearchParams({ oid, size: String(size), upload_id: upload.upload_id })
    const href = `${lfsUrl(this.#options.url, repository)}/transfers/complete?${query}`
    return { ...upload, complete: { href, header: { Authorization: `Bearer ${token}` } } }
  }
}

function missingParts(
  name: ObjectName,
  partSize: number,
  have: readonly StoredPart[],
  uploadId: string,
  signer: ObjectSigner,
): Promise<SignedPart[]> {
  const sizes = new Map(have.map((part) => [part.number, part.size]))
  const missing = planParts(name.size, partSize).filter((part) => sizes.get(part.number) !== part.size)
  return signEach(missing, (part) => ({ ...part, ...signer.part(name, uploadId, part) }))
}

/**
 * Our upload ids are the store's with the part size in front, so that an upload goes on with the plan it began with.
 * @throws {TimoneError} `no_such_upload` for what we cannot have handed out.
 */
function readUploadId(text: string, size: number): { partSize: number; id: string } {
  const upload = uploadIdOf(text, size)
  if (upload === undefined) throw new TimoneError('no_such_upload', 'no such upload: start again')
  return upload
}

function uploadIdOf(text: string, size: number): { partSize: number; id: string } | undefined {
  const [, digits, id] = /^(\d{7,10})\.(.{1,2048})$/.exec(text) ?? []
  const partSize = Number(digits)
  const possible = partSize >= MIN_PART_SIZE && partSize <= MAX_PART_SIZE && size <= partSize * MAX_PARTS
  return id === undefined || !possible ? undefined : { partSize, id }
}

function differs(name: ObjectName, found: number): TimoneError {
  return new TimoneError(
    'size_mismatch',
    `object ${name.oid} has ${found} bytes in the store, not the ${name.size} of its pointer: push it again to heal it`,
  )
}

const Request = z.object({
  operation: z.enum(['upload', 'download']),
  oid: z.string(),
  size: z.number(),
  part_size: z.optional(z.int().check(z.positive())),
  upload_id: z.optional(z.string().check(z.minLength(1), z.maxLength(2100))),
})

/** Checks the body of `POST …/transfers`. @throws {TimoneError} `invalid` */
export function parseTransferRequest(value: unknown): TransferRequest {
  const { data } = Request.safeParse(value)
  if (data === undefined) {
    throw new TimoneError(
      'invalid',
      'the request must be {"operation","oid","size"[,"part_size","upload_id"]}',
    )
  }
  const { operation, oid, size, part_size, upload_id } = data
  return {
    operation,
    oid: parseOid(oid),
    size: checkSize(size),
    ...(part_size === undefined ? {} : { part_size }),
    ...(upload_id === undefined ? {} : { upload_id }),
  }
}

/** Checks the query of `POST …/transfers/complete`. @throws {TimoneError} `invalid` */
export function parseCompletion(
  repository: Repository,
  query: URLSearchParams,
): { name: ObjectName; uploadId: string } {
  const digits = query.get('size') ?? ''
  const size = checkSize(/^\d{1,15}$/.test(digits) ? Number(digits) : undefined)
  return {
    name: { repository, oid: parseOid(query.get('oid')), size },
    uploadId: query.get('upload_id') ?? '',
  }
}

function checkSize(size: unknown): number {
  if (isObjectSize(size)) return size
  throw new TimoneError('invalid', 'a size must be a whole number of bytes, from 0 to 5 TiB')
}
