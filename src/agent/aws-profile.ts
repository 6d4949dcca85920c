import { exec } from 'node:child_process'
import { createHash } from 'node:crypto'
import { readFile } from 'node:fs/promises'
import { homedir } from 'node:os'
import { join } from 'node:path'
import { TimoneError } from '../errors.ts'
import { type AwsKeys, type AwsOptions, askAws, awsKeys, noKeys, parseJson, printedKeys } from './aws-keys.ts'
import { fromContainer, fromEnvironment, fromMachine } from './aws-machine.ts'
import { assumeRole, assumeRoleWithWebIdentity } from './sts-roles.ts'

/** Settings of one profile, names in lower case. */
type Profile = Readonly<Record<string, string>>

/** The shared files of the AWS tools. */
interface Files {
  /** Where they are, and the tools' caches. */
  folder: string
  config: ReadonlyMap<string, Profile>
  credentials: ReadonlyMap<string, Profile>
}

/** How long a credential process may take, milliseconds: it may have a person to ask. */
const PROCESS_TIMEOUT = 60_000

/** Keys of the profile that `AWS_PROFILE` names, or of `default`; undefined when that has none. */
export async function fromProfile(options: AwsOptions): Promise<AwsKeys | undefined> {
  const { env } = options
  const folder = awsFolder(env)
  const [credentials, config] = await Promise.all([
    readIni(env.AWS_SHARED_CREDENTIALS_FILE || join(folder, 'credentials')),
    readIni(env.AWS_CONFIG_FILE || join(folder, 'config')),
  ])
  const files = { folder, credentials, config }
  const named = env.AWS_PROFILE
  const keys = await keysOfProfile(named || 'default', files, options, [])
  if (keys === undefined && named)
    noKeys(
      `the AWS profile ${named} has neither keys, a role, a sign-in by SSO nor a credential_process: aws configure --profile ${named}`,
    )
  return keys
}

function awsFolder(env: AwsOptions['env']): string {
  return join(env.HOME ?? env.USERPROFILE ?? homedir(), '.aws')
}

/** `visited`: the profiles that led here by `source_profile`. */
async function keysOfProfile(
  name: string,
  files: Files,
  options: AwsOptions,
  visited: readonly string[],
): Promise<AwsKeys | undefined> {
  const { config, credentials, folder } = files
  const profile: Profile = {
    ...(config.get(name === 'default' ? 'default' : `profile ${name}`) ?? config.get(`profile ${name}`)),
    ...credentials.get(name),
  }
  const own = ownKeys(profile)
  // A role may name its own profile as the source: its keys are meant then, and otherwise the role goes first.
  if (visited.includes(name))
    return own ?? noKeys(`the AWS profiles ${visited.join(', ')} name each other as source_profile`)
  if (profile.role_arn !== undefined) {
    const keys = await keysOfRole(profile.role_arn, name, profile, files, options, visited)
    if (keys !== undefined) return keys
  }
  if (own !== undefined) return own
  if (profile.sso_account_id && profile.sso_role_name) {
    const session = profile.sso_session
    const settings = session === undefined ? profile : { ...profile, ...config.get(`sso-session ${session}`) }
    return fromSso(settings, session ?? profile.sso_start_url ?? '', folder, options)
  }
  if (profile.credential_process) return fromProcess(profile.credential_process, name, options)
  return undefined
}

function ownKeys(profile: Profile): AwsKeys | undefined {
  const { aws_access_key_id: accessKeyId, aws_secret_access_key: secretAccessKey } = profile
  if (!accessKeyId || !secretAccessKey) return undefined
  return { accessKeyId, secretAccessKey, sessionToken: profile.aws_session_token || undefined }
}

/** "Assume role credential provider": `role_arn` with one of three ways to prove who asks. */
async function keysOfRole(
  roleArn: string,
  name: string,
  profile: Profile,
  files: Files,
  options: AwsOptions,
  visited: readonly string[],
): Promise<AwsKeys | undefined> {
  const { source_profile: from, credential_source: kind, web_identity_token_file: file } = profile
  if (profile.mfa_serial)
    return noKeys(
      `the AWS profile ${name} wants a code (mfa_serial), which nobody can be asked for here: use aws sso login, or put the keys of aws sts assume-role into the environment`,
    )
  const { sts } = options
  const role = { sts, roleArn, sessionName: profile.role_session_name }
  if (file) {
    const token = await readFile(file, 'utf8').catch(() =>
      noKeys(`cannot read the web_identity_token_file of the AWS profile ${name}`),
    )
    return assumeRoleWithWebIdentity({ ...role, token: token.trim() }, options)
  }
  if (!from && !kind) return undefined
  const keys = from
    ? await keysOfProfile(from, files, options, [...visited, name])
    : await keysFrom(kind as string, name, options)
  if (keys === undefined)
    return noKeys(`the AWS profile ${name} takes its keys from ${from ?? kind}, where there are none`)
  const duration = Number(profile.duration_seconds ?? 3600)
  if (!Number.isInteger(duration) || duration < 900 || duration > 43_200)
    return noKeys(`duration_seconds of the AWS profile ${name} must be 900 to 43200`)
  return assumeRole({ ...role, keys, duration, externalId: profile.external_id }, options)
}

function keysFrom(kind: string, name: string, options: AwsOptions): Promise<AwsKeys | undefined> {
  switch (kind.toLowerCase()) {
    case 'environment':
      return Promise.resolve(fromEnvironment(options))
    case 'ecscontainer':
      return fromContainer(options)
    case 'ec2instancemetadata':
      return fromMachine(options)
    default:
      return noKeys(
        `credential_source of the AWS profile ${name} must be Environment, EcsContainer or Ec2InstanceMetadata`,
      )
  }
}

/**
 * "Process credential provider": a command of the user's own file, run as their shell would. What it says on stderr may
 * hold secrets, and goes nowhere.
 */
async function fromProcess(
  command: string,
  name: string,
  { env, signal }: Pick<AwsOptions, 'env' | 'signal'>,
): Promise<AwsKeys> {
  const source = `the credential_process of the AWS profile ${name}`
  const printed = await new Promise<string>((resolve, reject) => {
    exec(
      command,
      { env, timeout: PROCESS_TIMEOUT, maxBuffer: 64 * 1024, windowsHide: true, ...(signal && { signal }) },
      (error, stdout) => {
        if (error === null) resolve(stdout)
        else if (signal?.aborted === true) reject(new TimoneError('cancelled', 'interrupted'))
        else {
          const how = error.killed ? 'did not end within a minute' : `failed (${error.code ?? error.signal})`
          reject(new TimoneError('config', `${source} ${how}: run it by hand to see why`))
        }
      },
    )
  })
  const answer = parseJson(printed)
  if (answer.Version !== 1)
    noKeys(`${source} prints something else than Version 1 of what the AWS tools read`)
  const keys = printedKeys(answer, 'SessionToken', source)
  if (keys.expiresAt !== undefined && keys.expiresAt <= Date.now())
    throw new TimoneError('credentials_expired', `${source} gave keys that have expired: sign in there again`)
  return keys
}

/** The token that `aws sso login` has left, for keys of the profile's role (AWS SSO Portal API, GetRoleCredentials). */
async function fromSso(
  profile: Profile,
  cacheKey: string,
  folder: string,
  { send, signal }: AwsOptions,
): Promise<AwsKeys> {
  const file = join(folder, 'sso', 'cache', `${createHash('sha1').update(cacheKey).digest('hex')}.json`)
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
  const { status, text } = await askAws(send, 'GET', url, headers, signal)
  if (status !== 200) {
    throw new TimoneError(
      'credentials_expired',
      `${url.host} gives no credentials (${status}): run aws sso login`,
    )
  }
  const { roleCredentials: role } = parseJson(text) as { roleCredentials?: Record<string, unknown> }
  return awsKeys(url.host, {
    id: role?.accessKeyId,
    secret: role?.secretAccessKey,
    token: role?.sessionToken,
    expiresAt: Number(role?.expiration),
  })
}

/** The shared files: `[section]`, `name = value`, comments with # or ;. Nested settings are passed over. */
async function readIni(path: string): Promise<Map<string, Profile>> {
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
