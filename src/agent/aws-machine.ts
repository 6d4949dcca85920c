import { readFile } from 'node:fs/promises'
import { type AwsKeys, type AwsOptions, askAws, noKeys, parseJson, printedKeys } from './aws-keys.ts'

/** The keys of the environment; undefined when there are none. */
export function fromEnvironment({ env }: Pick<AwsOptions, 'env'>): AwsKeys | undefined {
  if (!env.AWS_ACCESS_KEY_ID || !env.AWS_SECRET_ACCESS_KEY) return undefined
  return {
    accessKeyId: env.AWS_ACCESS_KEY_ID,
    secretAccessKey: env.AWS_SECRET_ACCESS_KEY,
    sessionToken: env.AWS_SESSION_TOKEN || undefined,
  }
}

/** ECS and EKS ("Container credential provider"); undefined where this is no such container. */
export async function fromContainer({ env, sendLocal, signal }: AwsOptions): Promise<AwsKeys | undefined> {
  const relative = env.AWS_CONTAINER_CREDENTIALS_RELATIVE_URI
  const full = env.AWS_CONTAINER_CREDENTIALS_FULL_URI
  if (!relative && !full) return undefined
  const url = URL.parse(relative ? `http://169.254.170.2${relative}` : (full as string))
  const isLocal =
    url !== null &&
    /^(localhost|127(\.\d{1,3}){3}|\[::1\]|169\.254\.170\.(2|23)|\[fd00:ec2::23\])$/.test(url.hostname)
  if (url === null || (url.protocol !== 'https:' && !isLocal))
    return noKeys('AWS_CONTAINER_CREDENTIALS_FULL_URI must be an https address, or one of this machine')
  const file = env.AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE
  const token = file
    ? await readFile(file, 'utf8').then(
        (text) => text.trim(),
        () => noKeys('cannot read the file that AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE names'),
      )
    : env.AWS_CONTAINER_AUTHORIZATION_TOKEN
  if (token !== undefined && /[\r\n]/.test(token))
    return noKeys('the authorization token of this container holds a line break')
  const { status, text } = await askAws(sendLocal, 'GET', url, token ? { authorization: token } : {}, signal)
  if (status !== 200) noKeys(`${url.host} gives no credentials (${status})`)
  return printedKeys(parseJson(text), 'Token', url.host)
}

/** EC2, Instance Metadata Service version 2; undefined where this is no such machine, or it has no role. */
export async function fromMachine({ env, sendLocal, signal }: AwsOptions): Promise<AwsKeys | undefined> {
  if (env.AWS_EC2_METADATA_DISABLED?.toLowerCase() === 'true') return undefined
  const base = URL.parse(env.AWS_EC2_METADATA_SERVICE_ENDPOINT || 'http://169.254.169.254')
  if (base === null) return noKeys('AWS_EC2_METADATA_SERVICE_ENDPOINT is no address')
  const at = (path: string): URL => new URL(path, base)
  try {
    const asked = { 'x-aws-ec2-metadata-token-ttl-seconds': '300', 'content-length': '0' }
    const token = await askAws(sendLocal, 'PUT', at('/latest/api/token'), asked, signal)
    if (token.status !== 200) return undefined
    const header = { 'x-aws-ec2-metadata-token': token.text.trim() }
    const path = '/latest/meta-data/iam/security-credentials/'
    const role = await askAws(sendLocal, 'GET', at(path), header, signal)
    const name = role.text.trim().split('\n')[0] ?? ''
    if (role.status !== 200 || !/^[\w+=,.@-]{1,128}$/.test(name)) return undefined
    const { status, text } = await askAws(sendLocal, 'GET', at(path + name), header, signal)
    return status === 200 ? printedKeys(parseJson(text), 'Token', base.host) : undefined
  } catch (error) {
    if (signal?.aborted === true) throw error
    // Not a machine of AWS.
    return undefined
  }
}
