import type { Operation } from '../access/credentials.ts'
import { TimoneError } from '../errors.ts'
import type { LfsConfig } from './lfs-config.ts'

/** Where a repository's objects are asked for, by the rules of git-lfs (docs/api/server-discovery.md). */
export type LfsEndpoint =
  | {
      kind: 'http'
      /** Ends without a slash and holds neither user nor password. */
      url: URL
      login: UrlLogin | undefined
      /** Named by the repository's `.lfsconfig`, and not on the host of the remote: a stranger may have chosen it. */
      foreign: boolean
    }
  | {
      kind: 'ssh'
      /** `user@host` or `host`. */
      host: string
      port: string | undefined
      /** As the remote side is to be told, with a slash in front where the URL had one. */
      path: string
      /** What a host without `git-lfs-authenticate` is asked at. */
      url: URL
    }
  /** A folder, or a protocol that only git-lfs knows. */
  | { kind: 'other'; text: string }

/** User name, and perhaps a password, that were written into a URL. */
export interface UrlLogin {
  username: string
  password: string | undefined
}

/**
 * Finds the endpoint for `operation` with `remote`, the name of one or a URL.
 * @throws {TimoneError} `config` when nothing names a server
 */
export function findEndpoint(config: LfsConfig, operation: Operation, remote: string): LfsEndpoint {
  const keys = ['lfs.url']
  if (operation === 'upload') keys.unshift('lfs.pushurl')
  for (const name of new Set([remote, 'origin'])) {
    if (operation === 'upload') keys.push(`remote.${name}.lfspushurl`)
    keys.push(`remote.${name}.lfsurl`)
    const key = keys.find((candidate) => isSet(config.get(candidate)))
    const remoteUrl = remoteAddress(config, operation, name)
    if (key !== undefined) {
      const endpoint = readAddress(config.get(key) as string, config, operation)
      return config.isFromRepository(key) ? markForeign(endpoint, remoteUrl, config, operation) : endpoint
    }
    if (remoteUrl !== undefined) return besideRepository(remoteUrl, config, operation)
  }
  throw new TimoneError(
    'config',
    'no LFS server is known here: name one with timone init URL (lfs.url), or add a remote with git remote add',
  )
}

/** The git URL of a remote; a URL given instead of a name is its own. */
export function remoteAddress(config: LfsConfig, operation: Operation, remote: string): string | undefined {
  const push = operation === 'upload' ? config.get(`remote.${remote}.pushurl`) : undefined
  const url = push ?? config.get(`remote.${remote}.url`)
  if (isSet(url)) return url
  return isAddress(remote) ? remote : undefined
}

/** True for what can only be a URL or a path, not the name of a remote. */
export function isAddress(text: string): boolean {
  return /^[a-z][a-z0-9+.-]*:\/\//i.test(text) || /^[^/:\s]+@[^/:\s]+:/.test(text) || text.startsWith('/')
}

/** For messages: without user and password. */
export function printEndpoint(endpoint: LfsEndpoint): string {
  if (endpoint.kind === 'http') return endpoint.url.href
  if (endpoint.kind === 'other') return endpoint.text.replace(/\/\/[^/@]*@/, '//')
  return `ssh://${endpoint.host}${endpoint.port === undefined ? '' : `:${endpoint.port}`}/${endpoint.path.replace(/^\//, '')}`
}

const isSet = (text: string | undefined): text is string => text !== undefined && text !== ''

/** A repository's own URL leads to the server beside it: `.git/info/lfs`. */
function besideRepository(text: string, config: LfsConfig, operation: Operation): LfsEndpoint {
  const endpoint = readAddress(text, config, operation)
  if (endpoint.kind === 'other') return endpoint
  const path = endpoint.url.pathname
  const url = new URL(endpoint.url)
  url.pathname = `${path}${path.endsWith('.git') ? '' : '.git'}/info/lfs`
  return { ...endpoint, url }
}

function readAddress(text: string, config: LfsConfig, operation: Operation): LfsEndpoint {
  const address = replaceAlias(text, config, operation)
  const other: LfsEndpoint = { kind: 'other', text: address }
  const [, scheme] = /^([a-z][a-z0-9+.-]*):\/\//i.exec(address) ?? []
  switch (scheme?.toLowerCase()) {
    case 'http':
    case 'https':
      return readHttp(address)
    case 'git':
      return readHttp(
        address.replace(/^git:/i, `${config.get('lfs.gitprotocol') === 'http' ? 'http' : 'https'}:`),
      )
    case 'ssh':
    case 'git+ssh':
    case 'ssh+git': {
      const [, host = '', port, path = ''] = /^[^/]*\/\/([^/:]+)(?::(\d+))?(\/.*)?$/.exec(address) ?? []
      return readSsh(host, port, path)
    }
    case undefined: {
      // [user@host:port]:path, or user@host:path. A colon behind a slash, or a drive letter, makes it a path.
      const [, host, port, path] = /^\[([^\]:]+)(?::(\d+))?\]:(.*)$/.exec(address) ?? []
      if (host !== undefined) return readSsh(host, port, path ?? '')
      const [, plain, rest] = /^([^/:]{2,}):(?!:)(.*)$/.exec(address) ?? []
      return plain === undefined ? other : readSsh(plain, undefined, rest ?? '')
    }
    default:
      return other
  }
}

function readHttp(address: string): LfsEndpoint {
  const url = URL.parse(address)
  if (url === null) {
    throw new TimoneError(
      'config',
      'the address of the LFS server is no URL: mend lfs.url, or the URL of the remote',
    )
  }
  const login =
    url.username === ''
      ? undefined
      : {
          username: decode(url.username),
          password: url.password === '' ? undefined : decode(url.password),
        }
  url.username = ''
  url.password = ''
  url.hash = ''
  url.pathname = url.pathname.replace(/\/+$/, '')
  return { kind: 'http', url, login, foreign: false }
}

function readSsh(host: string, port: string | undefined, path: string): LfsEndpoint {
  const name = host.replace(/^[^@]*@/, '')
  // What starts with a dash would be taken for an option of ssh, and a line break for the end of a command.
  if (
    !/^[^-\s\p{Cc}][^\s\p{Cc}]*$/u.test(host) ||
    name.startsWith('-') ||
    /\p{Cc}/u.test(path) ||
    path === ''
  ) {
    throw new TimoneError(
      'config',
      'the ssh address of the LFS server is malformed: mend lfs.url, or the URL of the remote',
    )
  }
  const url = URL.parse(`https://${name}/${path.replace(/^\/+/, '').replace(/\/+$/, '')}`)
  if (url === null) throw new TimoneError('config', `cannot tell the host in the ssh address ${host}`)
  return { kind: 'ssh', host, port, path, url }
}

/** `url.<base>.insteadOf`, and for uploads `pushInsteadOf`, which goes first: the longest one that fits. */
function replaceAlias(text: string, config: LfsConfig, operation: Operation): string {
  for (const name of operation === 'upload' ? ['pushinsteadof', 'insteadof'] : ['insteadof']) {
    let longest = ''
    let base = ''
    for (const [candidate, alias] of config.sections('url', name)) {
      if (alias.length <= longest.length || !text.startsWith(alias)) continue
      longest = alias
      base = candidate
    }
    if (longest !== '') return base + text.slice(longest.length)
  }
  return text
}

function markForeign(
  endpoint: LfsEndpoint,
  remoteUrl: string | undefined,
  config: LfsConfig,
  operation: Operation,
): LfsEndpoint {
  if (endpoint.kind !== 'http') return endpoint
  const remote = remoteUrl === undefined ? undefined : readAddress(remoteUrl, config, operation)
  const same = remote !== undefined && remote.kind === 'http' && remote.url.origin === endpoint.url.origin
  return { ...endpoint, foreign: !same }
}

function decode(text: string): string {
  try {
    return decodeURIComponent(text)
  } catch {
    return text
  }
}
