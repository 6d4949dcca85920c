import { createHash } from 'node:crypto'
import { readFile } from 'node:fs/promises'
import { homedir } from 'node:os'
import { join } from 'node:path'
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
  signal?: AbortSignal | undefined
}

const TIMEOUT = 5_000

/**
 * Credentials as the AWS tools find them (AWS SDKs and Tools Reference Guide, "Standardized credential providers"): the
 * environment, a profile of the shared files (keys or SSO), a container's, the machine's role. Own code, for the SDK's
 * chain is more than the rest of the agent.
 * @throws {TimoneError} `config` when there are none, `credentials_expired` when a sign-in by SSO has ended
 */
export async function findAwsKeys(options: AwsOptions): Promise<AwsKeys> {
  const { env } = options
  if (env.AWS_ACCESS_KEY_ID && env.AWS_SECRET_ACCESS_KEY) {
    return {
      accessKeyId: env.AWS_ACCESS_KEY_ID,
      secretAccessKey: env.AWS_SECRET_ACCESS_KEY,
      sessionToken: env.AWS_SESSION_TOKEN || undefined,
    }
  }
  return (
    (await fromProfile(options)) ??
    (await fromContainer(options)) ??
    (await fromMachine(options)) ??
    fail(
      'no AWS credentials were found: set AWS_PROFILE, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or give the machine a role',
    )
  )
}

async function fromProfile(options: AwsOptions): Promise<AwsKeys | undefined> {
  const { env } = options
  const home = env.HOME ?? env.USERPROFILE ?? homedir()
  const named = env.AWS_PROFILE
  const name = named || 'default'
  const [credentials, config] = await Promise.all([
    readIni(env.AWS_SHARED_CREDENTIALS_FILE || join(home, '.aws', 'credentials')),
    readIni(env.AWS_CONFIG_FILE || join(home, '.aws', 'config')),
  ])
  const profile = {
    ...(config.get(name === 'default' ? 'default' : `profile ${name}`) ?? config.get(`profile ${name}`)),
    ...credentials.get(name),
  }
  const { aws_access_key_id: accessKeyId, aws_secret_access_key: secretAccessKey } = profile
  if (accessKeyId && secretAccessKey)
    return { accessKeyId, secretAccessKey, sessionToken: profile.aws_session_token }
  if (profile.sso_account_id && profile.sso_role_name) {
    const session = profile.sso_session
    const settings = session === undefined ? profile : { ...profile, ...config.get(`sso-session ${session}`) }
    return fromSso(settings, session ?? profile.sso_start_url ?? '', home, options)
  }
  if (named)
    fail(`the AWS profile ${named} has neither keys nor a sign-in by SSO: timone knows no other kind`)
  return undefined
}

/** The token that `aws sso login` has left, for keys of the profile's role (AWS SSO Portal API, GetRoleCredentials). */
async function fromSso(
  profile: Readonly<Record<string, string>>,
  cacheKey: string,
  home: string,
  { send, signal }: AwsOptions,
): Promise<AwsKeys> {
  const file = join(home, '.aws', 'sso', 'cache', `${createHash('sha1').update(cacheKey).digest('hex')}.json`)
  const cached = parseJson(await readFile(file, 'utf8').catch(() => '{}'))
  const region = profile.sso_region ?? ''
  if (
    typeof cached.accessToken !== 'string' ||
    !(Date.parse(String(cached.expiresAt)) > Date.now()) ||
    !/^[a-z0-9-]{1,64}$/.test(region)
  ) {
    throw new TimoneError('credentials_expired', 'the sign-in by SSO has ended: run aws sso login')
  }
  const domain = region.startsWith('cn-') ? 'amazonaws.com.cn' : 'amazonaws.com'
  const url = new URL(`https://portal.sso.${region}.${domain}/federation/credentials`)
  url.searchParams.set('role_name', profile.sso_role_name ?? '')
  url.searchParams.set('account_id', profile.sso_account_id ?? '')
  const headers = { 'x-amz-sso_bearer_token': cached.accessToken }
  const { status, text } = await call(send, 'GET', url, headers, signal)
  if (status !== 200) {
    throw new TimoneError(
      'credentials_expired',
      `${url.host} gives no credentials (${status}): run aws sso login`,
    )
  }
  const { roleCredentials } = parseJson(text) as { roleCredentials?: Record<string, unknown> }
  return keysOf(
    roleCredentials?.accessKeyId,
    roleCredentials?.secretAccessKey,
    roleCredentials?.sessionToken,
    {
      expiresAt: Number(roleCredentials?.expiration),
    },
  )
}

/** ECS and EKS ("Container credential provider"). */
async function fromContainer({ env, sendLocal, signal }: AwsOptions): Promise<AwsKeys | undefined> {
  const relative = env.AWS_CONTAINER_CREDENTIALS_RELATIVE_URI
  const full = env.AWS_CONTAINER_CREDENTIALS_FULL_URI
  if (!relative && !full) return undefined
  const url = URL.parse(relative ? `http://169.254.170.2${relative}` : (full as string))
  const isLocal =
    url !== null &&
    /^(localhost|127(\.\d{1,3}){3}|\[::1\]|169\.254\.170\.(2|23)|\[fd00:ec2::23\])$/.test(url.hostname)
  if (url === null || (url.protocol !== 'https:' && !isLocal))
    return fail('AWS_CONTAINER_CREDENTIALS_FULL_URI must be an https address, or one of this machine')
  const file = env.AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE
  const token = file ? (await readFile(file, 'utf8')).trim() : env.AWS_CONTAINER_AUTHORIZATION_TOKEN
  const { status, text } = await call(sendLocal, 'GET', url, token ? { authorization: token } : {}, signal)
  if (status !== 200) fail(`${url.host} gives no credentials (${status})`)
  return metadataKeys(text)
}

/** EC2, Instance Metadata Service version 2. */
async function fromMachine({ env, sendLocal, signal }: AwsOptions): Promise<AwsKeys | undefined> {
  if (env.AWS_EC2_METADATA_DISABLED?.toLowerCase() === 'true') return undefined
  const base = new URL(env.AWS_EC2_METADATA_SERVICE_ENDPOINT || 'http://169.254.169.254')
  const at = (path: string): URL => new URL(path, base)
  try {
    const asked = { 'x-aws-ec2-metadata-token-ttl-seconds': '300', 'content-length': '0' }
    const token = await call(sendLocal, 'PUT', at('/latest/api/token'), asked, signal)
    if (token.status !== 200) return undefined
    const header = { 'x-aws-ec2-metadata-token': token.text.trim() }
    const path = '/latest/meta-data/iam/security-credentials/'
    const role = await call(sendLocal, 'GET', at(path), header, signal)
    const name = role.text.trim().split('\n')[0] ?? ''
    if (role.status !== 200 || !/^[\w+=,.@-]{1,128}$/.test(name)) return undefined
    const { status, text } = await call(sendLocal, 'GET', at(path + name), header, signal)
    return status === 200 ? metadataKeys(text) : undefined
  } catch (error) {
    if (signal?.aborted === true) throw error
    // Not a machine of AWS.
    return undefined
  }
}

function metadataKeys(text: string): AwsKeys {
  const { AccessKeyId, SecretAccessKey, Token, Expiration } = parseJson(text)
  return keysOf(AccessKeyId, SecretAccessKey, Token, { expiresAt: Date.parse(String(Expiration)) })
}

function keysOf(id: unknown, secret: unknown, token: unknown, { expiresAt }: { expiresAt: number }): AwsKeys {
  if (typeof id !== 'string' || typeof secret !== 'string')
    return fail('the AWS credentials of this machine cannot be read')
  return {
    accessKeyId: id,
    secretAccessKey: secret,
    sessionToken: typeof token === 'string' ? token : undefined,
    expiresAt: Number.isFinite(expiresAt) ? expiresAt : undefined,
  }
}

async function call(
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

/** The shared files: `[section]`, `name = value`, comments with # or ;. Nested settings are passed over. */
async function readIni(path: string): Promise<Map<string, Record<string, string>>> {
  const text = await readFile(path, 'utf8').catch(() => '')
  const sections = new Map<string, Record<string, string>>()
  let current: Record<string, string> = {}
  for (const line of text.split(/\r?\n/)) {
    const [, section] = /^\[\s*([^\]]+?)\s*\]/.exec(line) ?? []
    if (section !== undefined) {
      current = sections.get(section.replace(/\s+/g, ' ')) ?? {}
      sections.set(section.replace(/\s+/g, ' '), current)
      continue
    }
    const [, name, value] = /^([A-Za-z_]\w*)\s*=\s*(.*?)\s*$/.exec(line) ?? []
    if (name !== undefined && value !== undefined) current[name.toLowerCase()] = value
  }
  return sections
}

function parseJson(text: string): Record<string, unknown> {
  try {
    const value: unknown = JSON.parse(text)
    return typeof value === 'object' && value !== null ? (value as Record<string, unknown>) : {}
  } catch {
    return {}
  }
}

function fail(message: string): never {
  throw new TimoneError('config', message)
}
