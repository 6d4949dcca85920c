import type { HeldCredentials } from '../access/client.ts'
import type { S3Credentials } from '../access/credentials.ts'
import { type HttpResponse, readText } from '../access/http-client.ts'
import { TimoneError } from '../errors.ts'
import type { StoredPart } from '../storage/object-store.ts'
import type { S3Location } from '../storage/s3-location.ts'
import type { PartBody } from './object-access.ts'

/** One request to the store, before it is signed. */
export interface Call {
  method: string
  key: string
  query?: Record<string, string>
  headers?: Record<string, string>
  /** Payload hash to sign. */
  payloadHash?: string
  body?: string | PartBody
  size?: number
  /** In a few words, for messages. */
  what: string
  idleTimeout?: number
  /** See HttpRequest. */
  expectContinue?: boolean
  direct?: boolean
  signal: AbortSignal
}

/** Storage credentials of the S3 kind. @throws {TimoneError} `config` when the server has meanwhile changed its kind. */
export function s3Of(held: HeldCredentials): S3Credentials {
  if (held.answer.driver !== 's3')
    throw new TimoneError('config', 'the server has changed its kind of storage: try again')
  return held.answer
}

/** Where the bucket is that the credentials open. */
export function locationOf(credentials: S3Credentials): S3Location {
  return {
    endpoint: credentials.endpoint,
    region: credentials.region,
    bucket: credentials.bucket,
    forcePathStyle: credentials.force_path_style,
  }
}

const escapeXml = (text: string): string =>
  text.replace(/&/g, '&amp;').replace(/</g, '&lt;').replace(/"/g, '&quot;')

/** The body of CompleteMultipartUpload (AWS S3 API reference). `parts` in ascending order. */
export function completionXml(parts: readonly Pick<StoredPart, 'number' | 'etag'>[]): string {
  const list = parts.map(
    ({ number, etag }) => `<Part><PartNumber>${number}</PartNumber><ETag>${escapeXml(etag)}</ETag></Part>`,
  )
  return `<CompleteMultipartUpload xmlns="http://s3.amazonaws.com/doc/2006-03-01/">${list.join('')}</CompleteMultipartUpload>`
}

/** Reads an answer that holds nothing of interest, so that its connection can be used again. */
export async function discard(response: HttpResponse): Promise<void> {
  await readText(response, 64 * 1024)
}
