import { type HttpResponse, readText, retryAfter } from '../access/http-client.ts'
import { type ErrorCode, TimoneError } from '../errors.ts'

/** What an S3 error body says (AWS S3 API reference, "Error responses"). */
export interface S3Failure {
  code: string
  region?: string | undefined
}

/** The text of the first `<name>` element; S3's answers are flat enough to need no XML parser. */
export function xmlText(xml: string, name: string): string | undefined {
  const match = new RegExp(`<${name}>([^<]*)</${name}>`).exec(xml)
  if (match === null) return undefined
  return (match[1] as string)
    .replace(/&quot;/g, '"')
    .replace(/&#(?:34|x22);/g, '"')
    .replace(/&apos;/g, "'")
    .replace(/&lt;/g, '<')
    .replace(/&gt;/g, '>')
    .replace(/&amp;/g, '&')
}

/** All `<name>` elements' inner XML, in time linear to the text's length. */
export function xmlAll(xml: string, name: string): string[] {
  return xml
    .split(`<${name}>`)
    .slice(1)
    .map((rest) => rest.split(`</${name}>`, 1)[0] as string)
}

interface Meaning {
  code: ErrorCode
  advice: string
}

const CLOCK = 'this machine’s clock is more than 5 minutes off: set it (timedatectl set-ntp true)'

const BY_S3_CODE: Record<string, Meaning> = {
  AccessDenied: {
    code: 'denied',
    advice: 'the storage credentials do not allow it: check the role and the bucket policy',
  },
  AuthorizationHeaderMalformed: {
    code: 'wrong_region',
    advice: 'wrong region: check the server’s TIMONE_STORAGE_S3_REGION',
  },
  BadDigest: {
    code: 'hash_mismatch',
    advice: 'the store received other bytes than were sent, or the file changed meanwhile',
  },
  ConditionalRequestConflict: {
    code: 'unavailable',
    advice: 'another upload of the same object is being finished',
  },
  ExpiredToken: { code: 'credentials_expired', advice: 'the storage credentials have expired' },
  IllegalLocationConstraintException: {
    code: 'wrong_region',
    advice: 'wrong region: check the server’s TIMONE_STORAGE_S3_REGION',
  },
  InvalidAccessKeyId: {
    code: 'denied',
    advice: 'the store does not know the access key: check the server’s storage settings',
  },
  InvalidRange: { code: 'size_mismatch', advice: 'the stored object is shorter than it should be' },
  InvalidToken: { code: 'credentials_expired', advice: 'the storage credentials are no longer valid' },
  NoSuchBucket: {
    code: 'no_such_bucket',
    advice: 'the bucket does not exist: check the server’s TIMONE_STORAGE_S3_BUCKET',
  },
  NoSuchKey: { code: 'not_found', advice: 'the object is not in the bucket' },
  NoSuchUpload: { code: 'no_such_upload', advice: 'the unfinished upload is gone' },
  OperationAborted: { code: 'unavailable', advice: 'another operation on the same object is going on' },
  PermanentRedirect: {
    code: 'wrong_region',
    advice: 'wrong region: check the server’s TIMONE_STORAGE_S3_REGION',
  },
  PreconditionFailed: { code: 'precondition_failed', advice: 'the object is there already or was replaced' },
  QuotaExceeded: { code: 'disk_full', advice: 'the bucket’s quota is used up' },
  RequestExpired: { code: 'clock_skew', advice: CLOCK },
  RequestTimeTooSkewed: { code: 'clock_skew', advice: CLOCK },
  RequestTimeout: { code: 'timeout', advice: 'the store waited too long for data' },
  SignatureDoesNotMatch: {
    code: 'denied',
    advice:
      'the store refused the signature: check the server’s storage keys, and proxies that change requests',
  },
  SlowDown: { code: 'throttled', advice: 'the store asks to slow down' },
  TokenRefreshRequired: { code: 'credentials_expired', advice: 'the storage credentials have expired' },
  XAmzContentSHA256Mismatch: {
    code: 'hash_mismatch',
    advice:
      'the file’s content does not have the SHA-256 of its oid (it is damaged or changed while being sent)',
  },
}

function byStatus(status: number): Meaning {
  if (status === 401) return { code: 'denied', advice: 'not signed in at the store' }
  if (status === 403)
    return {
      code: 'denied',
      advice: 'access denied: the credentials or the signed URL do not allow it, or have expired',
    }
  if (status === 404) return { code: 'not_found', advice: 'not found' }
  if (status === 408) return { code: 'timeout', advice: 'the store waited too long for data' }
  if (status === 409) return { code: 'unavailable', advice: 'a conflicting operation is going on' }
  if (status === 412)
    return { code: 'precondition_failed', advice: 'the object is there already or was replaced' }
  if (status === 413)
    return { code: 'too_large', advice: 'too large for the store or a proxy in front of it' }
  if (status === 416)
    return { code: 'size_mismatch', advice: 'the stored object is shorter than it should be' }
  if (status === 429) return { code: 'throttled', advice: 'the store asks to slow down' }
  if (status === 503) return { code: 'throttled', advice: 'the store is overloaded' }
  if (status === 507) return { code: 'disk_full', advice: 'the store has no room' }
  if (status >= 500) return { code: 'unavailable', advice: 'the store failed' }
  if (status >= 300 && status < 400)
    return {
      code: 'wrong_region',
      advice: 'redirected elsewhere, which is not followed: check region and endpoint',
    }
  return { code: 'invalid', advice: 'the store did not accept the request' }
}

/**
 * Reads an error response to its end and says what it means. `request` names the call in a few words without secrets.
 */
export async function s3Error(
  response: HttpResponse,
  host: string,
  request: string,
): Promise<{ error: TimoneError; failure: S3Failure }> {
  const text = await readText(response, 64 * 1024).catch(() => '')
  return s3ErrorFromText(response, text, host, request)
}

/** As {@link s3Error}, for a body that was read already: S3 reports some failures under status 200. */
export function s3ErrorFromText(
  response: HttpResponse,
  text: string,
  host: string,
  request: string,
): { error: TimoneError; failure: S3Failure } {
  const { status, headers } = response
  const s3Code = (xmlText(text, 'Code') ?? jsonField(text, 'code') ?? '').slice(0, 64)
  const meaning = BY_S3_CODE[s3Code] ?? ownMeaning(s3Code, text) ?? byStatus(status < 300 ? 500 : status)
  const region = headers['x-amz-bucket-region'] ?? xmlText(text, 'Region')
  const requestId = (
    xmlText(text, 'RequestId') ??
    header(headers['x-amz-request-id']) ??
    header(headers['x-request-id'])
  )?.slice(0, 128)
  const wait = retryAfter(headers)
  const known = [String(status), s3Code, requestId === undefined ? '' : `request ${requestId}`].filter(
    (x) => x !== '',
  )
  const error = new TimoneError(
    meaning.code,
    `${request} on ${host}: ${meaning.advice} (${known.join(', ')})`,
    {
      status,
      host,
      ...(wait === undefined ? {} : { retryAfter: wait }),
      ...(requestId === undefined ? {} : { requestId }),
    },
  )
  return { error, failure: { code: s3Code, region: regionName(header(region)) } }
}

const header = (value: string | string[] | undefined): string | undefined =>
  Array.isArray(value) ? value[0] : value

/** It goes into the next request's signature header, so only what can be a region's name. */
function regionName(text: string | undefined): string | undefined {
  return text !== undefined && /^[A-Za-z0-9-]{1,64}$/.test(text) ? text : undefined
}

/** Codes that timone's own object route may answer with, beyond what their status says. */
const OWN_CODES: ReadonlySet<string> = new Set([
  'hash_mismatch',
  'size_mismatch',
  'no_such_upload',
  'disk_full',
  'read_only',
])

function ownMeaning(code: string, text: string): Meaning | undefined {
  if (!OWN_CODES.has(code)) return undefined
  return { code: code as ErrorCode, advice: (jsonField(text, 'message') ?? code).slice(0, 300) }
}

/** `name` of a JSON body, as timone's own server answers on its object route. */
function jsonField(text: string, name: string): string | undefined {
  if (!text.startsWith('{')) return undefined
  try {
    const value = (JSON.parse(text) as Record<string, unknown>)[name]
    return typeof value === 'string' ? value : undefined
  } catch {
    return undefined
  }
}
