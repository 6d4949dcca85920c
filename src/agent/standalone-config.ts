import { TimoneError } from '../errors.ts'
import type { LfsConfig } from './lfs-config.ts'
import { isSafeOrigin } from './runner-identity.ts'

/** Where objects are without the Batch API: at a server that gives credentials, or in a bucket. */
export type StandalonePlace =
  | {
      kind: 'server'
      /** LFS endpoint of the repository, without a slash at the end. */
      url: URL
      /** A stranger may have chosen it. */
      foreign: boolean
    }
  | {
      kind: 'bucket'
      bucket: string
      region: string
      /** Of the store; undefined: AWS. */
      endpoint: string | undefined
      /** Empty, or ends with a slash. */
      prefix: string
      /**
       * Never a repository's: it names what credentials are used. `byTokenOnly`: of the environment, where it goes with
       * an identity token and nothing else; what git's configuration names is taken with whatever credentials there are.
       */
      role: { arn: string; byTokenOnly: boolean } | undefined
    }

type Env = Readonly<Record<string, string | undefined>>

/**
 * Reads `timone.url`, or `timone.bucket` and what belongs to it. Of a repository's `.lfsconfig` only the place is
 * believed; storage that is not at AWS must be named by git's own configuration, or by the environment, before the
 * user's or the job's credentials go there.
 * @throws {TimoneError} `config`
 */
export function standalonePlace(config: LfsConfig, env: Env): StandalonePlace {
  const url = config.get('timone.url')
  // What git's own configuration names goes before what the repository's does.
  const useUrl = url !== undefined && !(config.isFromRepository('timone.url') && ownBucket(config))
  if (useUrl) {
    const parsed = URL.parse(url)
    if (parsed === null || !isSafeOrigin(parsed) || parsed.username !== '' || parsed.search !== '')
      throw new TimoneError(
        'config',
        'git config timone.url must be the https address of a repository on a timone server',
      )
    parsed.hash = ''
    const path = parsed.pathname.replace(/\/+$/, '')
    parsed.pathname = path.endsWith('/info/lfs') ? path : `${path}/info/lfs`
    return { kind: 'server', url: parsed, foreign: config.isFromRepository('timone.url') }
  }
  const bucket = config.get('timone.bucket')
  if (bucket === undefined || bucket === '') {
    throw new TimoneError(
      'config',
      'git-lfs gave no action, and no bucket is named: set git config timone.bucket, or timone.url, or lfs.url to a timone server (timone init URL)',
    )
  }
  if (!/^[A-Za-z0-9][A-Za-z0-9._-]{0,254}$/.test(bucket))
    throw new TimoneError('config', 'git config timone.bucket is not the name of a bucket')
  const region = config.get('timone.region') ?? env.AWS_REGION ?? env.AWS_DEFAULT_REGION ?? 'us-east-1'
  if (!/^[A-Za-z0-9-]{1,64}$/.test(region))
    throw new TimoneError('config', 'git config timone.region is not the name of a region')
  return {
    kind: 'bucket',
    bucket,
    region,
    endpoint: readEndpoint(config, env),
    prefix: readPrefix(config.get('timone.prefix') ?? ''),
    role: readRole(config.get('timone.rolearn'), env.AWS_ROLE_ARN),
  }
}

/** For messages: `s3://bucket/prefix`, with the store's address where it is not AWS; or the server's address. */
export function printPlace(place: StandalonePlace): string {
  if (place.kind === 'server') return place.url.href
  const { bucket, prefix, endpoint } = place
  return endpoint === undefined ? `s3://${bucket}/${prefix}` : `${endpoint}/${bucket}/${prefix}`
}

function readRole(
  own: string | undefined,
  ofEnvironment: string | undefined,
): { arn: string; byTokenOnly: boolean } | undefined {
  const arn = own || ofEnvironment
  return arn ? { arn, byTokenOnly: !own } : undefined
}

function ownBucket(config: LfsConfig): boolean {
  return config.get('timone.bucket') !== undefined && !config.isFromRepository('timone.bucket')
}

function readEndpoint(config: LfsConfig, env: Env): string | undefined {
  const known = env.AWS_ENDPOINT_URL_S3 ?? env.AWS_ENDPOINT_URL
  const text = config.get('timone.endpoint') ?? known
  if (text === undefined || text === '') return undefined
  const url = URL.parse(text)
  if (
    url === null ||
    !/^https?:$/.test(url.protocol) ||
    url.username !== '' ||
    url.search !== '' ||
    url.hash !== ''
  ) {
    throw new TimoneError('config', 'git config timone.endpoint must be the address of an S3 store')
  }
  if (config.isFromRepository('timone.endpoint')) {
    const isAws =
      url.protocol === 'https:' && /(^|\.)amazonaws\.com(\.cn)?$/.test(url.hostname) && url.port === ''
    const isKnown = known !== undefined && URL.parse(known)?.origin === url.origin
    if (!isAws && !isKnown) {
      throw new TimoneError(
        'config',
        `.lfsconfig names storage at ${url.host}, and your credentials may not be meant for it: to use them there, run git config timone.endpoint ${url.origin}`,
      )
    }
  }
  return url.href.replace(/\/+$/, '')
}

function readPrefix(text: string): string {
  const trimmed = text.replace(/^\/+|\/+$/g, '')
  if (trimmed === '') return ''
  if (!trimmed.split('/').every((name) => /^[A-Za-z0-9!_.'()@=+-]+$/.test(name) && !/^\.\.?$/.test(name)))
    throw new TimoneError(
      'config',
      'git config timone.prefix must be names separated by /, none of them . or ..',
    )
  return `${trimmed}/`
}
