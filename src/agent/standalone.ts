import type { HeldCredentials } from '../access/client.ts'
import { HttpClient, type HttpSend } from '../access/http-client.ts'
import { isTimoneError, TimoneError } from '../errors.ts'
import type { Oid } from '../oid.ts'
import { s3Location } from '../storage/s3-location.ts'
import { findAwsKeys } from './aws-credentials.ts'
import type { AwsKeys } from './aws-keys.ts'
import { GitCredential } from './git-credential.ts'
import type { GitEnvironment } from './git-environment.ts'
import { LfsConfig } from './lfs-config.ts'
import type { ObjectAccess } from './object-access.ts'
import type { Action } from './protocol.ts'
import { runnerCredential } from './runner-exchange.ts'
import type { CredentialsSource } from './s3-access.ts'
import { discard } from './s3-request.ts'
import { type StandalonePlace, standalonePlace } from './standalone-config.ts'
import { assumeRole, assumeRoleWithWebIdentity } from './sts-roles.ts'
import { webIdentityToken } from './web-identity.ts'

/** Renewed this long before they end, milliseconds. */
const AHEAD = 300_000

/** What stands in for the Batch API when git-lfs has none. */
export type StandaloneWay =
  /** A server that gives credentials: as if Batch had answered with this action. */
  | { kind: 'server'; action: Action }
  /** A bucket, and the user's or the job's own credentials for it. */
  | { kind: 'bucket'; endpoint: string; credentials: CredentialsSource }

/** Finds the way to the objects once, for all transfers of a process. */
export class Standalone {
  readonly #git: GitEnvironment
  readonly #send: HttpSend
  readonly #local = new HttpClient(async () => ({}))
  #way: Promise<StandaloneWay> | undefined

  constructor(options: { git: GitEnvironment; send: HttpSend }) {
    this.#git = options.git
    this.#send = options.send
  }

  /** @throws {TimoneError} `config` when nothing says where the objects are, or what says so is not to be believed */
  way(signal: AbortSignal): Promise<StandaloneWay> {
    if (this.#way === undefined) {
      const finding = this.#find(signal)
      this.#way = finding
      finding.catch(() => {
        if (this.#way === finding) this.#way = undefined
      })
    }
    return this.#way
  }

  async #find(signal: AbortSignal): Promise<StandaloneWay> {
    const { env } = this.#git
    const [own, repository] = await Promise.all([this.#git.configEntries(), this.#git.repositoryEntries()])
    const place = standalonePlace(new LfsConfig(own, repository), env)
    if (place.kind === 'server') return { kind: 'server', action: await this.#serverAction(place, signal) }
    const { endpoint } = s3Location({
      url: place.endpoint,
      ...place,
      forcePathStyle: place.endpoint !== undefined,
    })
    return { kind: 'bucket', endpoint, credentials: this.#bucketCredentials(place, endpoint) }
  }

  async #serverAction(
    place: Extract<StandalonePlace, { kind: 'server' }>,
    signal: AbortSignal,
  ): Promise<Action> {
    const { url } = place
    const { cwd, env } = this.#git
    const helpers = new GitCredential({ cwd, env, quiet: true })
    const found =
      (await helpers.fill({ url, username: undefined }, signal)) ??
      (await runnerCredential(place, { env, send: this.#send, signal }))
    if (found === undefined) {
      throw new TimoneError(
        'unauthorized',
        `${url.origin} wants a token, and git has none for it: run timone login ${url.origin}`,
        { host: url.host },
      )
    }
    const basic = Buffer.from(`${found.username}:${found.password}`).toString('base64')
    return { href: `${url.href}/credentials`, header: { Authorization: `Basic ${basic}` } }
  }

  #bucketCredentials(
    place: Extract<StandalonePlace, { kind: 'bucket' }>,
    endpoint: string,
  ): CredentialsSource {
    let held: HeldCredentials | undefined
    let pending: Promise<HeldCredentials> | undefined
    return async (stale, signal) => {
      if (held !== undefined && held !== stale && held.expiresAt - AHEAD > Date.now()) return held
      pending ??= this.#keys(place, signal)
        .then((keys) => {
          held = hold(place, endpoint, keys)
          return held
        })
        .finally(() => {
          pending = undefined
        })
      return pending
    }
  }

  async #keys(place: Extract<StandalonePlace, { kind: 'bucket' }>, signal: AbortSignal): Promise<AwsKeys> {
    const { env } = this.#git
    const options = { send: this.#send, signal }
    const sts = { url: stsUrl(place, env), region: place.region }
    const role = place.role && { sts, roleArn: place.role.arn, sessionName: env.AWS_ROLE_SESSION_NAME }
    if (role !== undefined) {
      const token = await webIdentityToken(env, options)
      if (token !== undefined) return assumeRoleWithWebIdentity({ ...role, token }, options)
    }
    const keys = await findAwsKeys({ env, sendLocal: this.#local.send, sts, ...options })
    if (role === undefined || place.role?.byTokenOnly === true) return keys
    return assumeRole({ ...role, keys }, options)
  }

  close(): Promise<void> {
    return this.#local.close()
  }
}

/** As with the server: the store's own address, or AWS's STS of the region. */
function stsUrl(
  { endpoint, region }: Extract<StandalonePlace, { kind: 'bucket' }>,
  env: Readonly<Record<string, string | undefined>>,
): URL {
  const named = env.AWS_ENDPOINT_URL_STS
  if (named) {
    const url = URL.parse(named)
    if (url === null) throw new TimoneError('config', 'AWS_ENDPOINT_URL_STS is no address')
    return url
  }
  if (endpoint !== undefined && !/\.amazonaws\.com(\.cn)?$/.test(new URL(endpoint).hostname))
    return new URL(endpoint)
  return new URL(`https://sts.${region}.${region.startsWith('cn-') ? 'amazonaws.com.cn' : 'amazonaws.com'}`)
}

function hold(
  place: Extract<StandalonePlace, { kind: 'bucket' }>,
  endpoint: string,
  keys: AwsKeys,
): HeldCredentials {
  const expiresAt = keys.expiresAt ?? Number.MAX_SAFE_INTEGER
  const end = new Date(Math.min(expiresAt, Date.now() + 86_400_000)).toISOString()
  return {
    answer: {
      driver: 's3',
      endpoint,
      region: place.region,
      bucket: place.bucket,
      prefix: place.prefix,
      force_path_style: place.endpoint !== undefined,
      access_key_id: keys.accessKeyId,
      secret_access_key: keys.secretAccessKey,
      session_token: keys.sessionToken ?? '',
      expires_at: end,
      renew: { href: '', token: '', expires_at: end },
    },
    expiresAt,
    clockOffset: 0,
  }
}

/**
 * Without Batch nobody has said whether an object is there already: its size in the store; undefined when it is not
 * there, or when these credentials may not look.
 */
export async function storedSize(
  access: ObjectAccess,
  oid: Oid,
  size: number,
  signal: AbortSignal,
): Promise<number | undefined> {
  if (size === 0) return undefined
  try {
    const response = await access.get(oid, size, { offset: 0, end: 1, signal })
    const total = /\/(\d+)$/.exec(String(response.headers['content-range'] ?? ''))?.[1]
    const length = total ?? String(response.headers['content-length'] ?? '')
    if (response.status === 206 || size === 1) await discard(response)
    else response.body.destroy()
    return /^\d+$/.test(length) ? Number(length) : undefined
  } catch (error) {
    // Shorter than asked for (416) counts as not there: the upload replaces it.
    if (isTimoneError(error, 'not_found', 'denied', 'forbidden', 'invalid')) return undefined
    throw error
  }
}
