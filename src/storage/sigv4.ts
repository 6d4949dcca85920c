import { createHmac, createSecretKey, hash, type KeyObject } from 'node:crypto'

/** Keys to sign with; temporary ones carry a session token. */
export interface SigningKeys {
  accessKeyId: string
  secretAccessKey: string
  sessionToken?: string | undefined
}

export interface SigningContext {
  keys: SigningKeys
  region: string
  /** `s3` unless said otherwise. */
  service?: string
  /** The moment to sign for; the store refuses one that is more than 15 minutes off its own clock. */
  date: Date
  /** Keeps the key that is derived for a day and region, for who signs many requests. */
  cache?: SigningKeyCache
}

/** Remembers the last signing key that was derived: four HMACs that are the same for every request of a day. */
export class SigningKeyCache {
  #last: { secret: string; place: string; key: KeyObject } | undefined

  /** The key for `secret` and `place` (day, region and service), made by `derive` where it is another than the last. */
  get(secret: string, place: string, derive: () => KeyObject): KeyObject {
    if (this.#last?.secret !== secret || this.#last.place !== place)
      this.#last = { secret, place, key: derive() }
    return this.#last.key
  }
}

/** SHA-256 of nothing: the payload hash of a request without a body. */
export const EMPTY_SHA256 = 'e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855'
/** Payload hash of a request whose body the signature does not cover. */
export const UNSIGNED_PAYLOAD = 'UNSIGNED-PAYLOAD'

const hmac = (key: string | Buffer | KeyObject, data: string): Buffer =>
  createHmac('sha256', key).update(data).digest()

/** RFC 3986 encoding as Signature Version 4 asks: everything but unreserved characters. */
export function encodeRfc3986(text: string): string {
  // Most of what is signed has nothing to encode.
  if (/^[A-Za-z0-9_.~-]*$/.test(text)) return text
  return encodeURIComponent(text).replace(/[!'()*]/g, (c) => `%${c.charCodeAt(0).toString(16).toUpperCase()}`)
}

/** An object key as URL path: each segment encoded, slashes kept. */
export function encodeKey(key: string): string {
  return key.split('/').map(encodeRfc3986).join('/')
}

function canonicalQuery(url: URL): string {
  if (url.search === '') return ''
  const pairs: [string, string][] = []
  for (const [name, value] of url.searchParams) pairs.push([encodeRfc3986(name), encodeRfc3986(value)])
  pairs.sort((a, b) => (a[0] < b[0] ? -1 : a[0] > b[0] ? 1 : a[1] < b[1] ? -1 : 1))
  return pairs.map(([name, value]) => `${name}=${value}`).join('&')
}

interface Scope {
  /** `20261122T101500Z` */
  timestamp: string
  /** `20261122/eu-west-1/s3/aws4_request` */
  scope: string
  key: KeyObject
}

function scopeOf({ keys, region, service = 's3', date, cache }: SigningContext): Scope {
  const timestamp = date.toISOString().replace(/[-:]|\.\d{3}/g, '')
  const day = timestamp.slice(0, 8)
  const scope = `${day}/${region}/${service}/aws4_request`
  const derive = (): KeyObject =>
    createSecretKey(
      hmac(hmac(hmac(hmac(`AWS4${keys.secretAccessKey}`, day), region), service), 'aws4_request'),
    )
  return { timestamp, scope, key: cache?.get(keys.secretAccessKey, scope, derive) ?? derive() }
}

function signatureOf(
  scope: Scope,
  method: string,
  url: URL,
  headers: [string, string][],
  payloadHash: string,
): { signature: string; signedHeaders: string } {
  const sorted = headers
    .map(([name, value]): [string, string] => [name.toLowerCase(), value.trim().replace(/ +/g, ' ')])
    .sort((a, b) => (a[0] < b[0] ? -1 : 1))
  const signedHeaders = sorted.map(([name]) => name).join(';')
  const request = [
    method,
    url.pathname,
    canonicalQuery(url),
    ...sorted.map(([name, value]) => `${name}:${value}`),
    '',
    signedHeaders,
    payloadHash,
  ].join('\n')
  const toSign = ['AWS4-HMAC-SHA256', scope.timestamp, scope.scope, hash('sha256', request)].join('\n')
  return { signature: hmac(scope.key, toSign).toString('hex'), signedHeaders }
}

/**
 * Signs a request in its headers (AWS Signature Version 4, "Authorization header").
 * `url.pathname` must be encoded with {@link encodeKey}. Returns the headers to send: the given ones, lower case, plus
 * `host`, `x-amz-date`, `x-amz-content-sha256`, `x-amz-security-token` and `authorization`.
 */
export function signHeaders(
  method: string,
  url: URL,
  headers: Record<string, string>,
  payloadHash: string,
  context: SigningContext,
): Record<string, string> {
  const scope = scopeOf(context)
  const signed: Record<string, string> = {
    host: url.host,
    'x-amz-date': scope.timestamp,
    'x-amz-content-sha256': payloadHash,
  }
  if (context.keys.sessionToken !== undefined) signed['x-amz-security-token'] = context.keys.sessionToken
  for (const [name, value] of Object.entries(headers)) signed[name.toLowerCase()] = value
  const { signature, signedHeaders } = signatureOf(scope, method, url, Object.entries(signed), payloadHash)
  signed.authorization =
    `AWS4-HMAC-SHA256 Credential=${context.keys.accessKeyId}/${scope.scope}, ` +
    `SignedHeaders=${signedHeaders}, Signature=${signature}`
  return signed
}

/**
 * Signs a request in its query (a presigned URL), valid for `expiresIn` seconds, 7 days at most.
 * `headers` are signed too: the caller must send exactly them, so `{'x-amz-content-sha256': oid}` pins the body.
 */
export function presign(
  method: string,
  url: URL,
  headers: Record<string, string>,
  expiresIn: number,
  context: SigningContext,
): string {
  const scope = scopeOf(context)
  const signed: [string, string][] = [
    ['host', url.host],
    ...Object.entries(headers).map(([name, value]): [string, string] => [name.toLowerCase(), value]),
  ]
  const names = signed.map(([name]) => name).sort()
  const target = new URL(url)
  target.searchParams.set('X-Amz-Algorithm', 'AWS4-HMAC-SHA256')
  target.searchParams.set('X-Amz-Credential', `${context.keys.accessKeyId}/${scope.scope}`)
  target.searchParams.set('X-Amz-Date', scope.timestamp)
  target.searchParams.set('X-Amz-Expires', String(expiresIn))
  if (context.keys.sessionToken !== undefined) {
    target.searchParams.set('X-Amz-Security-Token', context.keys.sessionToken)
  }
  target.searchParams.set('X-Amz-SignedHeaders', names.join(';'))
  const payloadHash = signed.find(([name]) => name === 'x-amz-content-sha256')?.[1] ?? UNSIGNED_PAYLOAD
  const { signature } = signatureOf(scope, method, target, signed, payloadHash)
  // Our own encoding, not URLSearchParams' (which writes a space as +): it must read as it was signed.
  return `${target.origin}${target.pathname}?${canonicalQuery(target)}&X-Amz-Signature=${signature}`
}
