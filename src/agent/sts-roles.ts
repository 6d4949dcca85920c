import { createHash } from 'node:crypto'
import { type HttpSend, readText } from '../access/http-client.ts'
import { TimoneError } from '../errors.ts'
import { type SigningKeys, signHeaders } from '../storage/sigv4.ts'
import type { AwsKeys } from './aws-keys.ts'
import { isSafeOrigin } from './runner-identity.ts'
import { xmlText } from './s3-response.ts'

const TIMEOUT = 30_000
/** Seconds; what every role allows. */
const DURATION = 3600

interface RoleQuestion {
  /** The service, and the region that is signed for. */
  sts: { url: URL; region: string }
  roleArn: string
  /** What the store's audit log names us; `timone` unless said otherwise. */
  sessionName?: string | undefined
}

interface StsOptions {
  send: HttpSend
  signal?: AbortSignal | undefined
}

/**
 * Keys of a role for an identity token (AWS STS API Reference, `AssumeRoleWithWebIdentity`). The call is not signed: the
 * token is what proves.
 * @throws {TimoneError} `denied` with the reason that STS gives, `unavailable`
 */
export async function assumeRoleWithWebIdentity(
  { token, ...role }: RoleQuestion & { token: string },
  options: StsOptions,
): Promise<AwsKeys> {
  if (token === '') throw new TimoneError('config', 'the file with the identity token is empty')
  const parameters = {
    Action: 'AssumeRoleWithWebIdentity',
    DurationSeconds: String(DURATION),
    WebIdentityToken: token,
  }
  const advice = 'its trust policy must name the issuer, audience and subject'
  return askSts(role, parameters, { ...options, secret: token, advice })
}

/**
 * Keys of a role for keys that may take it (AWS STS API Reference, `AssumeRole`).
 * @throws {TimoneError} `denied` with the reason that STS gives, `unavailable`
 */
export function assumeRole(
  {
    keys,
    duration = DURATION,
    externalId,
    ...role
  }: RoleQuestion & {
    keys: SigningKeys
    /** Seconds. */
    duration?: number | undefined
    externalId?: string | undefined
  },
  options: StsOptions,
): Promise<AwsKeys> {
  const parameters = {
    Action: 'AssumeRole',
    DurationSeconds: String(duration),
    ...(externalId === undefined ? {} : { ExternalId: externalId }),
  }
  const advice = 'its trust policy must name who asks'
  return askSts(role, parameters, { ...options, keys, secret: keys.secretAccessKey, advice })
}

async function askSts(
  { sts, roleArn, sessionName = 'timone' }: RoleQuestion,
  parameters: Record<string, string>,
  options: StsOptions & { keys?: SigningKeys; secret: string; advice: string },
): Promise<AwsKeys> {
  if (!isSafeOrigin(sts.url)) {
    throw new TimoneError(
      'config',
      `${sts.url.origin} is plain http: what proves who we are goes over https only`,
    )
  }
  if (!/^arn:[^\s:]+:iam:/.test(roleArn))
    throw new TimoneError(
      'config',
      'a role must read arn:aws:iam::ACCOUNT:role/NAME: mend timone.roleArn, or role_arn',
    )
  const body = new URLSearchParams({
    Version: '2011-06-15',
    RoleArn: roleArn,
    RoleSessionName: sessionName,
    ...parameters,
  }).toString()
  const url = new URL(sts.url)
  if (!url.pathname.endsWith('/')) url.pathname += '/'
  const headers = { 'content-type': 'application/x-www-form-urlencoded' }
  const { keys, send, signal, secret, advice } = options
  const signed =
    keys === undefined
      ? {}
      : signHeaders('POST', url, headers, createHash('sha256').update(body).digest('hex'), {
          keys,
          region: sts.region,
          service: 'sts',
          date: new Date(),
        })
  const response = await send({
    method: 'POST',
    url,
    headers: {
      ...headers,
      ...signed,
      accept: 'application/xml',
      'content-length': String(Buffer.byteLength(body)),
    },
    body,
    idleTimeout: TIMEOUT,
    ...(signal === undefined ? {} : { signal }),
  })
  const xml = await readText(response, 256 * 1024, TIMEOUT)
  const { status } = response
  const [id, key, session, end] = ['AccessKeyId', 'SecretAccessKey', 'SessionToken', 'Expiration'].map(
    (name) => xmlText(xml, name),
  )
  const expiresAt = Date.parse(end ?? '')
  if (status === 200 && id && key && session && !Number.isNaN(expiresAt))
    return { accessKeyId: id, secretAccessKey: key, sessionToken: session, expiresAt }
  const details = { status, host: url.host }
  const said = `${xmlText(xml, 'Code') ?? ''} ${xmlText(xml, 'Message') ?? ''}`
    .replaceAll(secret, '…')
    .trim()
    .slice(0, 300)
  if (status >= 500 || status === 429 || status === 200)
    throw new TimoneError(
      'unavailable',
      `STS at ${url.host} gave no credentials (${status}) ${said}`,
      details,
    )
  throw new TimoneError(
    'denied',
    `STS at ${url.host} does not give ${roleArn} (${status}) ${said}: ${advice}`,
    details,
  )
}
