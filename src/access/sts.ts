import type { STSClient } from '@aws-sdk/client-sts'
import { systemCode, TimoneError } from '../errors.ts'
import type { SigningKeys } from '../storage/sigv4.ts'

/** Storage keys with an end. */
export interface RoleSession {
  accessKeyId: string
  secretAccessKey: string
  sessionToken: string
  /** Milliseconds since the epoch. */
  expiresAt: number
}

export interface RoleRequest {
  /** Inline session policy, JSON. */
  policy: string
  /** Seconds, 900 or more. */
  duration: number
  /** Names the user in the store's audit log. */
  sessionName: string
  /** Fires when the call must end. */
  signal?: AbortSignal
}

/**
 * Gets keys that open what `policy` says, no more.
 * @throws {TimoneError} retryable when STS is not to be had right now; `denied` or `config` when it refuses.
 */
export type AssumeRole = (request: RoleRequest) => Promise<RoleSession>

/** Storage keys; those of a machine's role come with an end (milliseconds since the epoch). */
export type ServerKeys = SigningKeys & { expiresAt?: number | undefined }

export interface StsOptions {
  region: string
  /** Absent: AWS's own of the region. */
  url?: string | undefined
  /** Absent: the SDK's chain (environment, shared files, the machine's role). */
  credentials?: { accessKeyId: string; secretAccessKey: string } | undefined
}

/** Hands out an STS client, made when it is first needed: loading the SDK takes longer than the server's start. */
export function createStsClient(options: StsOptions): () => Promise<STSClient> {
  let client: Promise<STSClient> | undefined
  const build = async (): Promise<STSClient> => {
    const sdk = await import('@aws-sdk/client-sts')
    return new sdk.STSClient({
      region: options.region,
      maxAttempts: 3,
      requestHandler: { connectionTimeout: 5_000, requestTimeout: 10_000, throwOnRequestTimeout: true },
      ...(options.url === undefined ? {} : { endpoint: options.url }),
      // A copy: the SDK writes notes of its own into the object, and settings are frozen.
      ...(options.credentials === undefined ? {} : { credentials: { ...options.credentials } }),
    })
  }
  return () => {
    client ??= build()
    return client
  }
}

/**
 * The server's own storage keys: the configured ones, or what the SDK's chain finds, renewed by it before they end.
 * @throws {TimoneError} `config` (from the function) when the chain finds none.
 */
export function serverKeys(options: StsOptions, client: () => Promise<STSClient>): () => Promise<ServerKeys> {
  const { credentials } = options
  if (credentials !== undefined) return async () => credentials
  return async () => {
    try {
      const found = await (await client()).config.credentials()
      return {
        accessKeyId: found.accessKeyId,
        secretAccessKey: found.secretAccessKey,
        sessionToken: found.sessionToken,
        expiresAt: found.expiration?.getTime(),
      }
    } catch (cause) {
      throw new TimoneError(
        'config',
        'no S3 credentials: set TIMONE_STORAGE_S3_KEY and TIMONE_STORAGE_S3_SECRET, or give the machine a role',
        { cause },
      )
    }
  }
}

/** {@link AssumeRole} on a real STS (AWS STS API Reference, `AssumeRole`). */
export function createAssumeRole(roleArn: string, client: () => Promise<STSClient>): AssumeRole {
  return async ({ policy, duration, sessionName, signal }) => {
    const sts = await client()
    const { AssumeRoleCommand } = await import('@aws-sdk/client-sts')
    const command = new AssumeRoleCommand({
      RoleArn: roleArn,
      RoleSessionName: sessionName,
      Policy: policy,
      DurationSeconds: duration,
    })
    const answer = await sts
      .send(command, signal === undefined ? {} : { abortSignal: signal })
      .catch((error: unknown) => {
        throw stsError(error)
      })
    const { AccessKeyId, SecretAccessKey, SessionToken, Expiration } = answer.Credentials ?? {}
    if (!AccessKeyId || !SecretAccessKey || !SessionToken || Expiration === undefined) {
      throw new TimoneError('unavailable', 'STS answered without credentials')
    }
    return {
      accessKeyId: AccessKeyId,
      secretAccessKey: SecretAccessKey,
      sessionToken: SessionToken,
      expiresAt: Expiration.getTime(),
    }
  }
}

/** `user@example` → what `RoleSessionName` allows: 2 to 64 of `[\w+=,.@-]`. */
export function sessionNameFor(subject: string): string {
  return subject
    .replace(/[^\w+=,.@-]/g, '_')
    .slice(0, 64)
    .padEnd(2, '_')
}

const MISCONFIGURED = new Set([
  'ValidationError',
  'MalformedPolicyDocument',
  'PackedPolicyTooLarge',
  'RegionDisabledException',
  'NoSuchEntity',
  'CredentialsProviderError',
])

function stsError(error: unknown): TimoneError {
  const {
    name = '',
    message = '',
    $metadata,
  } = error as {
    name?: string
    message?: string
    $metadata?: { httpStatusCode?: number; requestId?: string }
  }
  const status = $metadata?.httpStatusCode
  const details = {
    cause: error,
    ...(status === undefined ? {} : { status }),
    ...($metadata?.requestId === undefined ? {} : { requestId: $metadata.requestId }),
  }
  const said = `STS: ${name}: ${message}`.replace(/\s+/g, ' ').slice(0, 300)
  if (status === 429 || /thrott|slowdown|toomany/i.test(name))
    return new TimoneError('throttled', said, details)
  if (name === 'TimeoutError' || name === 'AbortError') return new TimoneError('timeout', said, details)
  if (MISCONFIGURED.has(name)) return new TimoneError('config', said, details)
  if (status !== undefined && status >= 500) return new TimoneError('unavailable', said, details)
  if (status !== undefined && status >= 400) return new TimoneError('denied', said, details)
  const system = systemCode(error)
  return new TimoneError(
    'connection',
    `STS cannot be reached${system === undefined ? '' : ` (${system})`}`,
    details,
  )
}
