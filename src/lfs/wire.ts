import * as z from 'zod/mini'
import { TimoneError } from '../errors.ts'
import { isObjectSize, parseOid } from '../oid.ts'

/** Wire types of the Git LFS Batch API (git-lfs `docs/api/batch.md`). No I/O in this file. */

/** Content type of all Git LFS API answers; git-lfs refuses others (lfshttp/lfshttp.go). */
export const LFS_MEDIA_TYPE = 'application/vnd.git-lfs+json'

/** One object as the client asked for it, not checked further than that it can be answered. */
export interface AskedObject {
  /** Spelled as asked, and not necessarily an oid. */
  oid: string
  /** Undefined: not a size. */
  size: number | undefined
}

export interface BatchRequest {
  operation: 'upload' | 'download'
  /** The names that the client understands; `basic` when it sends none. */
  transfers: readonly string[]
  /** Each oid once, in the order asked. */
  objects: readonly AskedObject[]
}

/** `expires_in` only: whole seconds, from when the client sent the request, so that no clock matters. */
export interface Action {
  href: string
  header?: Record<string, string>
  expires_in: number
}

/** `code` is an integer: anything else makes git-lfs refuse the whole answer. */
export interface ObjectError {
  code: 404 | 422 | 507
  message: string
}

export interface BatchObject {
  oid: string
  size: number
  /** Always true: git-lfs must never ask for a password for a signed URL. */
  authenticated: true
  /** Absent when there is nothing to do. */
  actions?: { download?: Action; upload?: Action; verify?: Action }
  error?: ObjectError
}

export interface BatchAnswer {
  transfer: 'timone' | 'basic'
  objects: BatchObject[]
  hash_algo: 'sha256'
}

const Request = z.object({
  operation: z.enum(['upload', 'download'], 'operation must be "upload" or "download"'),
  transfers: z.nullish(z.array(z.string(), 'transfers must be a list of names')),
  hash_algo: z.nullish(z.string('hash_algo must be a name')),
  // Its items are checked by hand: zod notes down what is wrong with each, and there may be millions.
  objects: z.array(z.unknown(), 'objects must be a list'),
})

/** Objects in one request; git-lfs sends 100. */
const MAX_OBJECTS = 100_000
/** Names of transfers in one request. */
const MAX_TRANSFERS = 100

/**
 * Checks the body of a Batch request; what it does not know it ignores. `ref` is of no concern here.
 * @throws {TimoneError} `invalid` for a wrong shape, `too_large` for more than 100 000 objects, `conflict` for a hash
 * algorithm other than sha256.
 */
export function parseBatchRequest(value: unknown): BatchRequest {
  const lists = (value ?? {}) as { objects?: unknown; transfers?: unknown }
  if (Array.isArray(lists.objects) && lists.objects.length > MAX_OBJECTS) {
    throw new TimoneError(
      'too_large',
      `a Batch request may have ${MAX_OBJECTS} objects: ask for fewer at a time`,
    )
  }
  if (Array.isArray(lists.transfers) && lists.transfers.length > MAX_TRANSFERS) {
    throw wrong(`transfers may have ${MAX_TRANSFERS} names`)
  }
  const { data, error } = Request.safeParse(value)
  if (data === undefined) throw wrong(error.issues[0]?.message ?? 'wrong shape')
  const { operation, transfers, hash_algo: hash, objects } = data
  if (typeof hash === 'string' && hash !== 'sha256') {
    throw new TimoneError('conflict', 'this server stores objects by their sha256 only (hash_algo)')
  }
  const once = new Map<string, AskedObject>()
  for (const object of objects) {
    const { oid, size } = (object ?? {}) as { oid?: unknown; size?: unknown }
    if (typeof oid !== 'string') throw wrong('each object must be {"oid","size"}')
    if (!once.has(oid)) once.set(oid, { oid, size: isObjectSize(size) ? size : undefined })
  }
  return { operation, transfers: transfers ?? ['basic'], objects: [...once.values()] }
}

/** Checks the body of a verify request. @throws {TimoneError} `invalid` */
export function parseVerifyRequest(value: unknown): { oid: ReturnType<typeof parseOid>; size: number } {
  const { oid, size } = (value ?? {}) as { oid?: unknown; size?: unknown }
  if (!isObjectSize(size)) throw new TimoneError('invalid', 'the request must be {"oid","size"}')
  return { oid: parseOid(oid), size }
}

function wrong(why: string): TimoneError {
  return new TimoneError('invalid', `not a Batch request: ${why}`)
}
