import { createHmac, hkdfSync, timingSafeEqual } from 'node:crypto'
import { TimoneError } from '../errors.ts'
import type { Oid } from '../oid.ts'
import type { Repository } from '../repository.ts'

/** What one signed URL of the file store's bytes allows. */
export interface ObjectGrant {
  /** `GET` allows HEAD too. */
  method: 'GET' | 'PUT'
  repository: Repository
  oid: Oid
  /** Bytes of the request's or answer's body: of the whole object, or of the part. */
  size: number
  /** Seconds since the epoch. */
  expires: number
  /** The body is this part of a multipart upload. */
  part?: { uploadId: string; number: number }
  /** Put it in place of a damaged object. */
  replace?: boolean
}

/**
 * Signs and checks the URLs of `PUT/GET/HEAD /{org}/{repo}/object/{oid}`: HMAC-SHA256 over everything the URL allows,
 * with a key derived from the token secret (RFC 5869), so that neither can stand in for the other.
 */
export class SignedUrls {
  readonly #url: string
  readonly #key: Buffer
  readonly #now: () => number

  /** `url` is the public URL of the server, without a slash at its end; `now` counts milliseconds since the epoch. */
  constructor(options: { url: string; secret: string; now?: () => number }) {
    this.#url = options.url
    this.#key = Buffer.from(hkdfSync('sha256', options.secret, '', 'timone object url v1', 32))
    this.#now = options.now ?? Date.now
  }

  /** The absolute URL for `grant`: a secret. */
  sign(grant: ObjectGrant): string {
    const query = new URLSearchParams({ size: String(grant.size), expires: String(grant.expires) })
    if (grant.part !== undefined) {
      query.set('upload_id', grant.part.uploadId)
      query.set('part', String(grant.part.number))
    }
    if (grant.replace) query.set('replace', '1')
    query.set('signature', this.#signature(grant).toString('hex'))
    const { org, repo } = grant.repository
    return `${this.#url}/${org}/${repo}/object/${grant.oid}?${query}`
  }

  /**
   * The grant behind a request's query.
   * @throws {TimoneError} `forbidden` when the signature is not ours or its time has passed.
   */
  check(
    method: 'GET' | 'HEAD' | 'PUT',
    object: { repository: Repository; oid: Oid },
    query: URLSearchParams,
  ): ObjectGrant {
    const uploadId = query.get('upload_id')
    const grant: ObjectGrant = {
      ...object,
      method: method === 'HEAD' ? 'GET' : method,
      size: wholeNumber(query.get('size')),
      expires: wholeNumber(query.get('expires')),
      ...(uploadId === null ? {} : { part: { uploadId, number: wholeNumber(query.get('part')) } }),
      ...(query.get('replace') === '1' ? { replace: true } : {}),
    }
    const given = Buffer.from(query.get('signature') ?? '', 'hex')
    const wanted = this.#signature(grant)
    if (given.length !== wanted.length || !timingSafeEqual(given, wanted)) throw refused()
    if (grant.expires * 1000 <= this.#now()) {
      throw new TimoneError('forbidden', 'this link has expired: ask for the transfer again')
    }
    return grant
  }

  #signature(grant: ObjectGrant): Buffer {
    const { repository, part } = grant
    // JSON of an array: no two grants read the same.
    const text = JSON.stringify([
      grant.method,
      repository.org,
      repository.repo,
      grant.oid,
      grant.size,
      grant.expires,
      part === undefined ? null : [part.uploadId, part.number],
      grant.replace === true,
    ])
    return createHmac('sha256', this.#key).update(text).digest()
  }
}

function wholeNumber(text: string | null): number {
  if (text === null || !/^\d{1,15}$/.test(text)) throw refused()
  return Number(text)
}

function refused(): TimoneError {
  return new TimoneError('forbidden', 'this link is not valid: ask for the transfer again')
}
