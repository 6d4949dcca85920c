import { MAX_OBJECT_SIZE, type Oid } from '../oid.ts'
import type { Repository } from '../repository.ts'
import { objectKey, repositoryPrefix } from '../storage/object-key.ts'
import { objectUrl, type S3Location } from '../storage/s3-location.ts'
import { presign, type SigningContext, SigningKeyCache } from '../storage/sigv4.ts'
import type { SignedRequest } from './credentials.ts'
import { MAX_PART_SIZE, type PlannedPart } from './part-plan.ts'
import type { SignedUrls } from './signed-urls.ts'
import type { ServerKeys } from './sts.ts'

/** One object of one repository, as the pointer names it. */
export interface ObjectName {
  repository: Repository
  oid: Oid
  /** Bytes. */
  size: number
}

/** Where the bucket is, and how to get the server's own keys for it. */
export interface S3Site extends S3Location {
  /** Before every key; empty or ending with a slash. */
  prefix: string
  keys: () => Promise<ServerKeys>
}

/** The key of an object in the store. `prefix` is the deployment's. */
export function keyOf(prefix: string, name: Pick<ObjectName, 'repository' | 'oid'>): string {
  return objectKey(repositoryPrefix(prefix, name.repository), name.oid)
}

/**
 * Makes requests that carry their own authorization. Synchronous and cheap, since one Batch answer holds thousands.
 * The requests are good for {@link expiresIn} seconds from when the signer was prepared.
 */
export interface ObjectSigner {
  readonly expiresIn: number
  /** Largest object that goes up in one request, bytes. */
  readonly maxPutSize: number
  get(name: ObjectName): SignedRequest
  /** A PUT of the whole object that the store refuses unless the bytes hash to the oid. */
  put(name: ObjectName, replace: boolean): SignedRequest
  /** A PUT of one part of a multipart upload. */
  part(name: ObjectName, uploadId: string, part: PlannedPart): SignedRequest
}

/** Fetches what signing needs. Ask for a new signer for each answer: keys and clock move on. */
export type PrepareSigner = () => Promise<ObjectSigner>

/** AWS: a presigned URL is good for at most seven days. */
const MAX_EXPIRES_IN = 7 * 24 * 3600
/** The store need not guess, and no browser will render it. Not part of the signature. */
const CONTENT_TYPE = { 'Content-Type': 'application/octet-stream' }

/** Signs for a bucket with the server's own keys (AWS Signature Version 4, query parameters). */
export function s3SignerSource(
  site: S3Site,
  options: { expiresIn: number; now?: () => number },
): PrepareSigner {
  const now = options.now ?? Date.now
  return async () => {
    const keys = await site.keys()
    const at = now()
    // A URL dies with the keys that signed it, whatever it says itself.
    const left = keys.expiresAt === undefined ? MAX_EXPIRES_IN : Math.floor((keys.expiresAt - at) / 1000)
    const expiresIn = Math.max(1, Math.min(options.expiresIn, MAX_EXPIRES_IN, left))
    const context: SigningContext = {
      keys,
      region: site.region,
      date: new Date(at),
      cache: new SigningKeyCache(),
    }
    const urlOf = (name: ObjectName): URL => objectUrl(site, keyOf(site.prefix, name))
    return {
      expiresIn,
      maxPutSize: MAX_PART_SIZE,
      get: (name) => ({ href: presign('GET', urlOf(name), {}, expiresIn, context), header: {} }),
      put: (name) => {
        const pinned = { 'x-amz-content-sha256': name.oid }
        const href = presign('PUT', urlOf(name), pinned, expiresIn, context)
        return { href, header: { ...pinned, ...CONTENT_TYPE } }
      },
      part: (name, uploadId, part) => {
        const url = urlOf(name)
        url.searchParams.set('partNumber', String(part.number))
        url.searchParams.set('uploadId', uploadId)
        return { href: presign('PUT', url, {}, expiresIn, context), header: {} }
      },
    }
  }
}

/** Signs for the file store, whose bytes this server serves itself. */
export function fileSignerSource(
  urls: SignedUrls,
  options: { expiresIn: number; now?: () => number },
): PrepareSigner {
  const now = options.now ?? Date.now
  return async () => {
    const { expiresIn } = options
    const expires = Math.floor(now() / 1000) + expiresIn
    const signed = (href: string): SignedRequest => ({ href, header: { ...CONTENT_TYPE } })
    return {
      expiresIn,
      maxPutSize: MAX_OBJECT_SIZE,
      get: (name) => ({ href: urls.sign({ ...name, method: 'GET', expires }), header: {} }),
      put: (name, replace) => signed(urls.sign({ ...name, method: 'PUT', expires, replace })),
      part: ({ repository, oid }, uploadId, { number, size }) =>
        signed(urls.sign({ repository, oid, size, method: 'PUT', expires, part: { uploadId, number } })),
    }
  }
}

/**
 * Signs each of `items` in order, in slices, so that an answer of ten thousand does not hold up everybody else.
 */
export async function signEach<T, R>(items: readonly T[], sign: (item: T) => R): Promise<R[]> {
  const results: R[] = []
  for (const item of items) {
    results.push(sign(item))
    if (results.length % SLICE === 0) await new Promise<void>((resolve) => setImmediate(resolve))
  }
  return results
}

const SLICE = 200
