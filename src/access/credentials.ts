/** Wire types of `POST …/credentials` and `POST …/transfers` (see README, "HTTP"). No I/O in this file. */

export type Operation = 'upload' | 'download'

/** What a longer transfer trades for the next credentials. */
export interface Renewal {
  /** Absolute URL of the credentials route. */
  href: string
  /** JWT, good for this route, repository and direction only. */
  token: string
  /** RFC 3339: when the last renewal is possible. */
  expires_at: string
}

/** Storage credentials for one repository and one direction: the agent signs its own S3 requests. */
export interface S3Credentials {
  driver: 's3'
  endpoint: string
  region: string
  bucket: string
  /** Key prefix that the credentials open, ends with a slash. */
  prefix: string
  force_path_style: boolean
  access_key_id: string
  secret_access_key: string
  session_token: string
  /** RFC 3339. */
  expires_at: string
  renew: Renewal
}

/** No storage credentials to be had: the agent asks for signed URLs, object by object. */
export interface UrlCredentials {
  driver: 'url'
  /** Absolute URL of the transfers route. */
  transfers: string
  /** JWT for the transfers route. */
  token: string
  /** RFC 3339. */
  expires_at: string
  renew?: Renewal
}

export type CredentialsAnswer = S3Credentials | UrlCredentials

export interface TransferRequest {
  operation: Operation
  oid: string
  /** Bytes. */
  size: number
  part_size?: number
  /** Ask only for the parts still missing from this upload. */
  upload_id?: string
}

/** A request that carries its own authorization. `href` is a secret. */
export interface SignedRequest {
  href: string
  header: Record<string, string>
}

/** One part to send: bytes `offset` to `offset + size` of the file. */
export interface SignedPart extends SignedRequest {
  /** From 1. */
  number: number
  offset: number
  size: number
}

export interface DownloadTransfer extends SignedRequest {
  operation: 'download'
  expires_at: string
}

export interface UploadTransfer {
  operation: 'upload'
  upload_id: string
  part_size: number
  /** The parts that the store does not have yet, in order. PUT each. */
  parts: SignedPart[]
  /** POST with an empty body when all parts are stored: makes the object appear. */
  complete: SignedRequest
  expires_at: string
}

export type TransferAnswer = DownloadTransfer | UploadTransfer
