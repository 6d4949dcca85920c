import { encodeKey } from './sigv4.ts'

/** Where a bucket is. No secret, no SDK: the agent and the URL signer use it too. */
export interface S3Location {
  /** Absolute URL of the store, `https://host[:port][/path]`, without the bucket. */
  endpoint: string
  region: string
  bucket: string
  /** True: `endpoint/bucket/key`; false: `bucket.endpoint-host/key`. */
  forcePathStyle: boolean
}

/** The location of a bucket; without `url` it is at AWS. @throws {TypeError} when `url` is no http or https URL */
export function s3Location(options: {
  url?: string | undefined
  region: string
  bucket: string
  forcePathStyle: boolean
}): S3Location {
  const { url, region, bucket, forcePathStyle } = options
  // AWS in China has a domain of its own (docs.amazonaws.cn, "Endpoints and ARNs").
  const domain = region.startsWith('cn-') ? 'amazonaws.com.cn' : 'amazonaws.com'
  const endpoint = new URL(url ?? `https://s3.${region}.${domain}`)
  if (endpoint.protocol !== 'https:' && endpoint.protocol !== 'http:') {
    throw new TypeError('the URL of an S3 store must start with https:// or http://')
  }
  if (
    endpoint.username !== '' ||
    endpoint.password !== '' ||
    endpoint.search !== '' ||
    endpoint.hash !== ''
  ) {
    throw new TypeError('the URL of an S3 store must be a host and a path only')
  }
  return { endpoint: endpoint.href.replace(/\/+$/, ''), region, bucket, forcePathStyle }
}

/** The URL of an object, encoded as Signature Version 4 wants it. @throws {TypeError} for a key with a dot segment */
export function objectUrl(location: S3Location, key: string): URL {
  // A URL would resolve them, and then lead to another key than the one that was asked for.
  if (key.split('/').some((segment) => segment === '.' || segment === '..')) {
    throw new TypeError('an object key must not have dot segments')
  }
  const url = new URL(location.endpoint)
  const base = url.pathname.replace(/\/+$/, '')
  if (location.forcePathStyle) {
    url.pathname = `${base}/${location.bucket}/${encodeKey(key)}`
    return url
  }
  url.hostname = `${location.bucket}.${url.hostname}`
  url.pathname = `${base}/${encodeKey(key)}`
  return url
}
