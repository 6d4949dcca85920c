import { type HttpSend, readText } from '../access/http-client.ts'
import { TimoneError } from '../errors.ts'
import type { SigningKeys } from '../storage/sigv4.ts'

/** AWS credentials, with their end where they have one (milliseconds since the epoch). */
export type AwsKeys = SigningKeys & { expiresAt?: number | undefined }

export interface AwsOptions {
  env: Readonly<Record<string, string | undefined>>
  /** By git's settings about proxies and certificates. */
  send: HttpSend
  /** Straight: for addresses of this machine and its network only. */
  sendLocal: HttpSend
  /** Where roles are given, and the region that is signed for. */
  sts: { url: URL; region: string }
  signal?: AbortSignal | undefined
}

const TIMEOUT = 5_000

/** One request with an answer of 64 KiB at most. */
export async function askAws(
  send: HttpSend,
  method: string,
  url: URL,
  headers: Record<string, string>,
  signal: AbortSignal | undefined,
): Promise<{ status: number; text: string }> {
  const limit = AbortSignal.timeout(TIMEOUT)
  const response = await send({
    method,
    url,
    headers,
    idleTimeout: TIMEOUT,
    signal: signal === undefined ? limit : AbortSignal.any([signal, limit]),
  })
  return { status: response.status, text: await readText(response, 64 * 1024, TIMEOUT) }
}

/**
 * Keys in the form that metadata services and credential processes print: `AccessKeyId`, `SecretAccessKey`,
 * `Expiration`, and the session token in the field `token`.
 * @throws {TimoneError} `config` when they are not there
 */
export function printedKeys(
  { AccessKeyId, SecretAccessKey, Expiration, ...rest }: Record<string, unknown>,
  token: 'Token' | 'SessionToken',
  source: string,
): AwsKeys {
  return awsKeys(source, {
    id: AccessKeyId,
    secret: SecretAccessKey,
    token: rest[token],
    expiresAt: Date.parse(String(Expiration)),
  })
}

/** @throws {TimoneError} `config` when what `source` gave are no keys */
export function awsKeys(
  source: string,
  { id, secret, token, expiresAt }: { id: unknown; secret: unknown; token: unknown; expiresAt: number },
): AwsKeys {
  if (typeof id !== 'string' || typeof secret !== 'string' || id === '' || secret === '')
    return noKeys(`${source} gave no AWS credentials that can be read`)
  return {
    accessKeyId: id,
    secretAccessKey: secret,
    sessionToken: typeof token === 'string' && token !== '' ? token : undefined,
    expiresAt: Number.isFinite(expiresAt) ? expiresAt : undefined,
  }
}

export function parseJson(text: string): Record<string, unknown> {
  try {
    const value: unknown = JSON.parse(text)
    return typeof value === 'object' && value !== null ? (value as Record<string, unknown>) : {}
  } catch {
    return {}
  }
}

export function noKeys(message: string): never {
  throw new TimoneError('config', message)
}
