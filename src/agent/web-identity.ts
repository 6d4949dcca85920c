import { readFile } from 'node:fs/promises'
import { type HttpSend, readText } from '../access/http-client.ts'
import { TimoneError } from '../errors.ts'
import type { AwsKeys } from './aws-credentials.ts'
import { findRunnerToken, isSafeOrigin, runnerAudience } from './runner-identity.ts'
import { xmlText } from './s3-response.ts'

const TIMEOUT = 30_000
/** Seconds; what every role allows. */
const DURATION = 3600

type Env = Readonly<Record<string, string | undefined>>

/** The identity token that STS is shown: the job's, or the one that `AWS_WEB_IDENTITY_TOKEN_FILE` names. */
export async function webIdentityToken(
  env: Env,
  options: { send: HttpSend; signal?: AbortSignal | undefined },
): Promise<string | undefined> {
  const audience = runnerAudience(env) ?? 'sts.amazonaws.com'
  const found = await findRunnerToken({ env, audience, ...options })
  if (found !== undefined) return found.token
  const file = env.AWS_WEB_IDENTITY_TOKEN_FILE
  return file ? (await readFile(file, 'utf8')).trim() : undefined
}

/**
 * Keys of a role for an identity token (AWS STS API Reference, `AssumeRoleWithWebIdentity`). The call is not signed: the
 * token is what proves.
 * @throws {TimoneError} `denied` with the reason that STS gives, `unavailable`
 */
export async function assumeRoleWithWebIdentity(
  { sts, roleArn, token }: { sts: URL; roleArn: string; token: string },
  { send, signal }: { send: HttpSend; signal?: AbortSignal | undefined },
): Promise<AwsKeys> {
  if (!isSafeOrigin(sts))
    throw new TimoneError('config', `${sts.origin} is plain http: the identity token goes over https only`)
  if (!/^arn:[^\s:]+:iam:/.test(roleArn))
    throw new TimoneError('config', 'git config timone.roleArn must read arn:aws:iam::ACCOUNT:role/NAME')
  const body = new URLSearchParams({
    Action: 'AssumeRoleWithWebIdentity',
    Version: '2011-06-15',
    RoleArn: roleArn,
    RoleSessionName: 'timone',
    DurationSeconds: String(DURATION),
    WebIdentityToken: token,
  }).toString()
  const url = new URL(sts)
  if (!url.pathname.endsWith('/')) url.pathname += '/'
  const response = await send({
    method: 'POST',
    url,
    headers: {
      accept: 'application/xml',
      'content-type': 'application/x-www-form-urlencoded',
      'content-length': String(Buffer.byteLength(body)),
    },
    body,
    idleTimeout: TIMEOUT,
    ...(signal === undefined ? {} : { signal }),
  })
  const xml = await readText(response, 256 * 1024, TIMEOUT)
  const { status } = response
  const [id, secret, session, end] = ['AccessKeyId', 'SecretAccessKey', 'SessionToken', 'Expiration'].map(
    (name) => xmlText(xml, name),
  )
  const expiresAt = Date.parse(end ?? '')
  if (status === 200 && id && secret && session && !Number.isNaN(expiresAt))
    return { accessKeyId: id, secretAccessKey: secret, sessionToken: session, expiresAt }
  const details = { status, host: url.host }
  const said = `${xmlText(xml, 'Code') ?? ''} ${xmlText(xml, 'Message') ?? ''}`
    .replaceAll(token, '…')
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
    `STS at ${url.host} does not give ${roleArn} to this job (${status}) ${said}: its trust policy must name the issuer, audience and subject`,
    details,
  )
}
