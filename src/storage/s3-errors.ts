import { type ErrorCode, isTimoneError, systemCode, TimoneError } from '../errors.ts'

/** Codes of the S3 API ("Error responses" in the API reference; some of Ceph's and MinIO's own). */
const BY_NAME: Readonly<Record<string, ErrorCode>> = {
  AccessDenied: 'denied',
  AllAccessDisabled: 'denied',
  AuthorizationHeaderMalformed: 'wrong_region',
  BadDigest: 'hash_mismatch',
  ConditionalRequestConflict: 'conflict',
  CredentialsProviderError: 'config',
  EntityTooLarge: 'too_large',
  ExpiredToken: 'credentials_expired',
  ExpiredTokenException: 'credentials_expired',
  IllegalLocationConstraintException: 'wrong_region',
  IncompleteBody: 'connection',
  InvalidAccessKeyId: 'denied',
  InvalidBucketName: 'no_such_bucket',
  InvalidRange: 'invalid',
  InvalidToken: 'denied',
  NoSuchBucket: 'no_such_bucket',
  NoSuchKey: 'not_found',
  NoSuchUpload: 'no_such_upload',
  NotFound: 'not_found',
  OperationAborted: 'conflict',
  PermanentRedirect: 'wrong_region',
  PreconditionFailed: 'precondition_failed',
  QuotaExceeded: 'disk_full',
  RequestExpired: 'clock_skew',
  RequestTimeTooSkewed: 'clock_skew',
  RequestTimeout: 'timeout',
  SignatureDoesNotMatch: 'denied',
  SlowDown: 'throttled',
  TemporaryRedirect: 'wrong_region',
  Throttling: 'throttled',
  ThrottlingException: 'throttled',
  TokenRefreshRequired: 'credentials_expired',
  TooManyRequests: 'throttled',
  XAmzContentSHA256Mismatch: 'hash_mismatch',
  XMinioStorageFull: 'disk_full',
}

const BY_STATUS: Readonly<Record<number, ErrorCode>> = {
  301: 'wrong_region',
  307: 'wrong_region',
  308: 'wrong_region',
  401: 'denied',
  403: 'denied',
  404: 'not_found',
  407: 'proxy',
  408: 'timeout',
  409: 'conflict',
  412: 'precondition_failed',
  413: 'too_large',
  429: 'throttled',
  507: 'disk_full',
}

const BY_SYSTEM: Readonly<Record<string, ErrorCode>> = {
  EAI_AGAIN: 'dns',
  ECONNABORTED: 'connection',
  ECONNREFUSED: 'connection',
  ECONNRESET: 'connection',
  EHOSTUNREACH: 'connection',
  ENETUNREACH: 'connection',
  ENOTFOUND: 'dns',
  EPIPE: 'connection',
  EPROTO: 'tls',
  ERR_STREAM_PREMATURE_CLOSE: 'connection',
  ETIMEDOUT: 'timeout',
}

/** What to do about it, where the store's own words do not say it. */
const ADVICE: Partial<Record<ErrorCode, string>> = {
  clock_skew: 'the clock of this machine is wrong; set it',
  connection: 'the connection failed',
  config: 'no usable credentials; set TIMONE_STORAGE_S3_KEY and TIMONE_STORAGE_S3_SECRET',
  credentials_expired: 'the credentials have expired',
  denied: 'the store refuses these credentials or this request; check key, secret and bucket policy',
  disk_full: 'the store is full',
  dns: 'the name of the host could not be resolved',
  hash_mismatch: 'the bytes are not those that were announced',
  no_such_bucket: 'there is no such bucket; check TIMONE_STORAGE_S3_BUCKET and TIMONE_STORAGE_S3_URL',
  no_such_upload: 'the multipart upload was completed or dropped',
  not_found: 'the object is not there',
  throttled: 'the store asks to slow down',
  timeout: 'the store did not answer in time',
  tls: 'no trusted TLS connection; for a private CA set NODE_EXTRA_CA_CERTS',
  unavailable: 'the store has trouble',
}

/** What the SDK's errors carry; everything may be missing. */
interface SdkError extends Error {
  $metadata?: { httpStatusCode?: number; requestId?: string }
  $response?: { headers?: Record<string, string> }
  /** From the XML of `AuthorizationHeaderMalformed` and `PermanentRedirect`. */
  Region?: string
}

/** Name (the S3 error code) and status of an error of the SDK. */
export function s3ErrorName(error: unknown): { name: string; status: number | undefined } {
  const { name = '', $metadata } = (error ?? {}) as Partial<SdkError>
  return { name, status: $metadata?.httpStatusCode }
}

/** `doing` completes "cannot …", `host` is where the store is, `region` the one that was signed for. */
export interface S3ErrorContext {
  doing: string
  host: string
  region: string
}

/**
 * An error of the SDK as `TimoneError`. The SDK's error itself is not passed on as cause when it comes from an answer:
 * it holds that answer, and through it the signed request.
 */
export function s3Error(error: unknown, context: S3ErrorContext): TimoneError {
  if (isTimoneError(error)) return error
  const { name, status } = s3ErrorName(error)
  const { $metadata, $response, Region, message } = (error ?? {}) as Partial<SdkError>
  const headers = $response?.headers ?? {}
  const code = codeOf(error, name, status)
  const requestId = $metadata?.requestId
  const actual = headers['x-amz-bucket-region'] ?? Region
  const why =
    code === 'wrong_region'
      ? `the bucket is in ${actual === undefined ? 'another region' : `region ${oneLine(actual)}`}, not in ${context.region}; set TIMONE_STORAGE_S3_REGION`
      : ADVICE[code]
  const facts = [
    name === '' || name === 'Error' || /^\d+$/.test(name) ? undefined : name,
    status === undefined ? systemCode(error) : `HTTP ${status}`,
    requestId === undefined ? undefined : `request ${requestId}`,
  ].filter((fact) => fact !== undefined)
  const text = [
    `cannot ${context.doing} at ${context.host}: ${why ?? oneLine(message ?? 'unknown error')}`,
    facts.length === 0 ? '' : ` (${facts.join(', ')})`,
  ].join('')
  const retryAfter = seconds(headers['retry-after'])
  return new TimoneError(code, text, {
    host: context.host,
    ...(status === undefined ? { cause: error } : { status }),
    ...(requestId === undefined ? {} : { requestId }),
    ...(retryAfter === undefined ? {} : { retryAfter }),
  })
}

function codeOf(error: unknown, name: string, status: number | undefined): ErrorCode {
  const known = Object.hasOwn(BY_NAME, name) ? BY_NAME[name] : undefined
  if (known !== undefined) return known
  if (status !== undefined && status >= 300) {
    return BY_STATUS[status] ?? (status >= 500 && status !== 501 ? 'unavailable' : 'invalid')
  }
  // The system's code before the name: the SDK calls a refused or reset connection a "TimeoutError" too.
  const system = systemCode(error)
  if (system !== undefined) {
    const code = BY_SYSTEM[system]
    if (code !== undefined) return code
    if (/^(CERT_|ERR_TLS_|ERR_SSL_|UNABLE_TO_|SELF_SIGNED_|DEPTH_ZERO_|HOSTNAME_MISMATCH)/.test(system))
      return 'tls'
  }
  if (name === 'AbortError') return 'cancelled'
  if (name === 'TimeoutError') return 'timeout'
  // A 2xx that is no proper answer, as from a captive portal or a proxy's page.
  return status === undefined ? 'internal' : 'unavailable'
}

/** Seconds of a `Retry-After` in its number form; its date form is not used by S3 stores. */
function seconds(value: string | undefined): number | undefined {
  return value !== undefined && /^\d{1,6}$/.test(value) ? Number(value) : undefined
}

function oneLine(text: string): string {
  return text.replace(/\s+/g, ' ').trim().slice(0, 200)
}
