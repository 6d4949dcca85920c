import { S3Client } from '@aws-sdk/client-s3'
import type { S3Location } from './s3-location.ts'

/** How to talk to a store, beyond where it is. */
export interface S3ClientOptions {
  /** Absent: found as the SDK finds them (environment, profile, container or instance role). */
  credentials?: { accessKeyId: string; secretAccessKey: string; sessionToken?: string }
  /** `when_supported`: checksums that come with an answer are checked; `when_required`: they are not asked for. */
  checksums: 'when_required' | 'when_supported'
}

const CONNECT_TIMEOUT_MS = 10_000
const IDLE_TIMEOUT_MS = 60_000
const MAX_SOCKETS = 128
const TRIES = 3
/** The SDK would write to the console: what fails is thrown, and that many requests wait for a connection is meant. */
const SILENT = { debug() {}, info() {}, warn() {}, error() {}, trace() {} }

/** A client with kept-alive connections, bounded retries, and a time-out on everything that can wait. */
export function createS3Client(location: S3Location, options: S3ClientOptions): S3Client {
  const agent = { keepAlive: true, maxSockets: MAX_SOCKETS }
  return new S3Client({
    region: location.region,
    forcePathStyle: location.forcePathStyle,
    endpoint: location.endpoint,
    // A copy: the SDK writes notes of its own into the object, and settings are frozen.
    ...(options.credentials === undefined ? {} : { credentials: { ...options.credentials } }),
    // Whole objects carry their SHA-256 by our own hand. Parts must not be tied to a checksum: those that a client
    // sends by signed URL have none, and the store would then refuse to put the object together.
    requestChecksumCalculation: 'WHEN_REQUIRED',
    responseChecksumValidation: options.checksums === 'when_supported' ? 'WHEN_SUPPORTED' : 'WHEN_REQUIRED',
    maxAttempts: TRIES,
    // Waiting for "100 Continue" would take a fresh connection for each request in this SDK.
    expectContinueHeader: false,
    logger: SILENT,
    requestHandler: {
      httpAgent: agent,
      httpsAgent: agent,
      connectionTimeout: CONNECT_TIMEOUT_MS,
      socketTimeout: IDLE_TIMEOUT_MS,
      logger: SILENT,
    },
  })
}
