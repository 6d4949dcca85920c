import { isIPv6 } from 'node:net'
import path from 'node:path'
import { TimoneError } from '../errors.ts'
import { buildLogin } from './build-login.ts'
import type { ResolvedSettings } from './resolve-settings.ts'
import type { ServerSettings } from './server-settings.ts'
import type { ListenAddress } from './setting-types.ts'
import { SERVER_SETTINGS, type SettingKey } from './settings-table.ts'

/** What the settings amount to; the token secret and encryption keys are found later, for they may have to be made. */
export interface BuiltSettings {
  readonly settings: Omit<ServerSettings, 'tokenSecret' | 'secretKeys'>
  /** What is allowed and yet hardly meant. One line each. */
  readonly warnings: readonly string[]
}

/** Shortest and longest life of links and storage credentials, seconds. */
const EXPIRY = { least: 60, most: 43_200 }

/**
 * Fills in what depends on other settings and checks what only shows when they are seen together.
 * @throws {TimoneError} `config`, saying what to do
 */
export function buildSettings({ values, sources, providers }: ResolvedSettings): BuiltSettings {
  const warnings: string[] = []
  const listen = must(values, 'server.listen')
  const url = values['server.url'] ?? defaultUrl(listen)
  const insecure = must(values, 'server.insecure')
  const plain = url.startsWith('http://')
  if (plain && !isLoopback(listen.host)) {
    if (!insecure) {
      throw new TimoneError(
        'config',
        `the listen address ${listen.host} is public and the public address ${url} is plain http, so anyone on the way ` +
          'could read the tokens: set TIMONE_ENDPOINT_URL to the https address of the proxy in front, listen on 127.0.0.1, ' +
          'or say --insecure',
      )
    }
    warnings.push(`plain http on the public address ${listen.host}: anyone on the way can read the tokens`)
  } else if (plain && !isLoopback(new URL(url).hostname)) {
    warnings.push(`the public address ${url} is plain http: anyone on the way can read the tokens`)
  }
  if (isWildcard(listen.host) && values['server.url'] === undefined) {
    warnings.push(
      `links in answers begin with ${url}: set TIMONE_ENDPOINT_URL to the address that clients use`,
    )
  }

  const objectExpiresIn = must(values, 'lfs.object_expires_in')
  if (objectExpiresIn < EXPIRY.least || objectExpiresIn > EXPIRY.most) {
    throw new TimoneError(
      'config',
      `TIMONE_OBJECT_EXPIRESIN is ${objectExpiresIn} seconds: it must be ${EXPIRY.least} to ${EXPIRY.most}`,
    )
  }

  const data = must(values, 'server.data')
  const isFile = must(values, 'storage.driver') === 'file'
  const unused = [...sources]
    .filter(
      ([key, source]) =>
        source.kind !== 'default' && key.startsWith(isFile ? 'storage.s3.' : 'storage.file.'),
    )
    .map(([key]) => SERVER_SETTINGS[key].env)
  if (unused.length > 0) {
    const driver = isFile ? 'file' : 's3'
    warnings.push(`${unused.join(', ')} not used: the storage driver is ${driver} (TIMONE_STORAGE)`)
  }
  const login = buildLogin(values, isLoopback)
  const settings = {
    logLevel: must(values, 'server.log_level'),
    listen,
    url,
    insecure,
    trustedProxies: must(values, 'server.trusted_proxies'),
    data,
    requireScope: must(values, 'auth.require_scope'),
    publicRepositories: must(values, 'lfs.public_repositories'),
    objectExpiresIn,
    trust: must(values, 'trust'),
    ...(login === undefined ? {} : { login }),
    grants: must(values, 'grant'),
    signing: must(values, 'auth.signing') as ServerSettings['signing'],
    quota: must(values, 'lfs.quota'),
    ...buildAmqp(values),
    ...buildRemoteStorage(values, url),
    ...(values['metrics.token'] === undefined ? {} : { metricsToken: values['metrics.token'] }),
    requestsPerMinute: atLeastZero(must(values, 'limits.requests_per_minute')),
    ...buildGitHub(values, listen, url),
    providers,
    returnOrigins: Object.freeze(must(values, 'leases.return_origins').map(readOrigin)),
    githubRepositories: must(values, 'github.repositories'),
    storage: Object.freeze(
      isFile
        ? ({ driver: 'file', root: values['storage.file.root'] ?? path.join(data, 'objects') } as const)
        : buildS3(values),
    ),
    databaseUrl: values['database.url'] ?? `sqlite:${path.join(data, 'timone.db')}`,
  }
  return { settings: Object.freeze(settings), warnings }
}

function readOrigin(text: string): string {
  const url = URL.parse(text)
  if (url === null || !/^https?:$/.test(url.protocol) || url.href !== `${url.origin}/`)
    throw new TimoneError('config', 'TIMONE_RETURN_ORIGINS must be origins, as in https://portal.example')
  return url.origin
}

function buildGitHub(
  values: ResolvedSettings['values'],
  listen: ListenAddress,
  url: string,
): Pick<ServerSettings, 'github' | 'githubApp'> {
  const github = { github: Object.freeze({ api: must(values, 'github.api') }) }
  const ids = must(values, 'github.app_id')
  const keys = must(values, 'github.private_key')
  if (ids.length !== keys.length) {
    throw new TimoneError(
      'config',
      'TIMONE_GITHUB_APP_ID and TIMONE_GITHUB_PRIVATE_KEY must name as many apps as key files, in the same order',
    )
  }
  if (ids.length === 0) return github
  const renewBefore = must(values, 'github.renew_before')
  if (renewBefore < 0 || renewBefore > 3000) {
    throw new TimoneError(
      'config',
      `TIMONE_GITHUB_RENEW_BEFORE is ${renewBefore} seconds: it must be 0 to 3000`,
    )
  }
  const open = must(values, 'github.open')
  if (open && !(isLoopback(listen.host) && isLoopback(new URL(url).hostname))) {
    throw new TimoneError(
      'config',
      'TIMONE_GITHUB_OPEN gives tokens to anyone who reaches this server: it must listen on loopback, and its public ' +
        'address must be there too',
    )
  }
  const apps = ids.map((id, index) => Object.freeze({ id, privateKey: keys[index] as string }))
  return { ...github, githubApp: Object.freeze({ apps: Object.freeze(apps), renewBefore, open }) }
}

function buildRemoteStorage(
  values: ResolvedSettings['values'],
  url: string,
): Pick<ServerSettings, 'remoteStorage'> {
  const root = values['remotestorage.root']
  if (root === undefined) return {}
  const large = must(values, 'remotestorage.large')
  if (large < 1024 || large > 16 * 2 ** 20) {
    throw new TimoneError('config', 'TIMONE_REMOTESTORAGE_LARGE must be 1k to 16m')
  }
  const quota = must(values, 'remotestorage.quota')
  const origin = values['remotestorage.origin']
  if (origin === undefined) return { remoteStorage: Object.freeze({ root, large, quota }) }
  const [its, ours] = [new URL(origin), new URL(url)]
  if (
    its.origin !== origin ||
    its.host === ours.host ||
    (its.protocol === 'http:' && ours.protocol === 'https:')
  ) {
    throw new TimoneError(
      'config',
      'TIMONE_REMOTESTORAGE_ORIGIN must be an address without a path, as https://storage.example.com, on another host or ' +
        'port than the public address of the server, and with https where that has it',
    )
  }
  return { remoteStorage: Object.freeze({ root, large, quota, origin }) }
}

function buildS3(values: ResolvedSettings['values']): ServerSettings['storage'] {
  const url = values['storage.s3.url']
  const region = values['storage.s3.region']
  const bucket = values['storage.s3.bucket']
  if (bucket === undefined) throw new TimoneError('config', 'storage driver s3: set TIMONE_STORAGE_S3_BUCKET')
  if (region === undefined) {
    throw new TimoneError(
      'config',
      'storage driver s3: set TIMONE_STORAGE_S3_REGION (stores without regions take any, such as us-east-1)',
    )
  }
  // Both become part of policies and host names, where * and / would mean more than they say.
  if (!/^[A-Za-z0-9][A-Za-z0-9._-]{0,254}$/.test(bucket)) {
    throw new TimoneError(
      'config',
      'TIMONE_STORAGE_S3_BUCKET must be the name of a bucket: letters, digits and ._-',
    )
  }
  if (!/^[A-Za-z0-9-]{1,64}$/.test(region)) {
    throw new TimoneError(
      'config',
      'TIMONE_STORAGE_S3_REGION must be the name of a region: letters, digits and -',
    )
  }
  const accessKeyId = values['storage.s3.key']
  const secretAccessKey = values['storage.s3.secret']
  if ((accessKeyId === undefined) !== (secretAccessKey === undefined)) {
    throw new TimoneError('config', 'set both TIMONE_STORAGE_S3_KEY and TIMONE_STORAGE_S3_SECRET, or neither')
  }
  const roleArn = values['storage.s3.role_arn']
  if (roleArn !== undefined && !/^arn:[^\s:]+:iam:/.test(roleArn)) {
    throw new TimoneError('config', 'TIMONE_STORAGE_S3_ROLE_ARN must read arn:aws:iam::ACCOUNT:role/NAME')
  }
  const stsUrl = values['storage.s3.sts_url'] ?? url
  return {
    driver: 's3',
    ...(url === undefined ? {} : { url }),
    region,
    bucket,
    prefix: normalisePrefix(must(values, 'storage.s3.prefix')),
    ...(accessKeyId === undefined || secretAccessKey === undefined
      ? {}
      : { credentials: Object.freeze({ accessKeyId, secretAccessKey }) }),
    ...(roleArn === undefined ? {} : { roleArn }),
    ...(stsUrl === undefined ? {} : { stsUrl }),
    pathStyle: values['storage.s3.path_style'] ?? url !== undefined,
    checksums:
      (values['storage.s3.checksums'] ?? (url === undefined ? 'when_supported' : 'when_required')) ===
      'when_required'
        ? 'when_required'
        : 'when_supported',
  }
}

/** Empty, or names each followed by a slash: what is in front of `org/repo/` in every key. */
function normalisePrefix(text: string): string {
  const names = text.replace(/\/+$/, '').split('/')
  if (names.length === 1 && names[0] === '') return ''
  if (
    names.some(
      (name) => name === '' || name === '.' || name === '..' || !/^[A-Za-z0-9!_.'()@=+-]+$/.test(name),
    )
  ) {
    throw new TimoneError(
      'config',
      "TIMONE_STORAGE_S3_PREFIX must be names separated by /, of letters, digits and !_.'()@=+-, none of them . or ..",
    )
  }
  return `${names.join('/')}/`
}

function buildAmqp(values: ResolvedSettings['values']): Pick<ServerSettings, 'amqp'> {
  const text = values['amqp.url']
  if (text === undefined) return {}
  const url = URL.parse(text.trim())
  if (url === null || !/^amqps?:$/.test(url.protocol) || url.hostname === '') {
    throw new TimoneError(
      'config',
      'TIMONE_AMQP_URL must read amqp://USER:PASSWORD@HOST:PORT/VHOST, or amqps:// for TLS',
    )
  }
  if (url.username === '') {
    url.username = 'guest'
    url.password = 'guest'
  }
  const prefetch = must(values, 'amqp.prefetch')
  if (prefetch < 1 || prefetch > 1000) {
    throw new TimoneError('config', 'TIMONE_AMQP_PREFETCH must be 1 to 1000')
  }
  const ca = values['amqp.ca']
  const mechanism = must(values, 'amqp.mechanism') === 'AMQPLAIN' ? 'AMQPLAIN' : 'PLAIN'
  return {
    amqp: Object.freeze({
      url: url.href,
      mechanism,
      ...(ca === undefined ? {} : { ca }),
      prefetch,
      exposeTokens: must(values, 'amqp.expose_tokens'),
    }),
  }
}

function atLeastZero(value: number): number {
  if (value >= 0) return value
  throw new TimoneError('config', 'TIMONE_REQUESTS_PER_MINUTE must be a whole number, 0 or more')
}

function must<K extends SettingKey>(
  values: ResolvedSettings['values'],
  key: K,
): NonNullable<ResolvedSettings['values'][K]> {
  const value = values[key]
  if (value === undefined) throw new TypeError(`${key} has no default`)
  return value
}

function defaultUrl({ host, port }: ListenAddress): string {
  // A wildcard is no address to send a request to.
  if (isWildcard(host)) return `http://localhost:${port}`
  return `http://${isIPv6(host) ? `[${host}]` : host}:${port}`
}

function isWildcard(host: string): boolean {
  return host === '0.0.0.0' || host === '::'
}

/** Can `host` (a name or an address, IPv6 with or without brackets) be reached from this machine only? */
export function isLoopback(host: string): boolean {
  const name = host.replace(/^\[|\]$/g, '').toLowerCase()
  return (
    name === 'localhost' || name.endsWith('.localhost') || name === '::1' || /^127(\.\d{1,3}){3}$/.test(name)
  )
}
