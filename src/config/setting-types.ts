import { isIP } from 'node:net'
import path from 'node:path'
import { TimoneError } from '../errors.ts'
import { parseRepository, repositoryName } from '../repository.ts'
import { parseGitInteger } from './agent-settings.ts'
import { parseDuration } from './duration.ts'
import { type GrantSetting, readGrants } from './grant-setting.ts'
import { readTrust, type TrustSetting } from './trust-setting.ts'

/** Where a server listens. `host` is a name or an address, IPv6 without brackets; port 0 lets the system choose. */
export interface ListenAddress {
  readonly host: string
  readonly port: number
}

/** What each type of setting is once it is read. Durations are whole seconds; paths are absolute. */
export interface SettingValues {
  string: string
  secret: string
  integer: number
  /** A number of bytes: 500m, 10g. */
  bytes: number
  boolean: boolean
  repositories: readonly string[]
  url: string
  listen: ListenAddress
  duration: number
  choice: string
  path: string
  /** Absolute paths, of a list separated by commas. */
  paths: readonly string[]
  /** Addresses, and networks as 10.0.0.0/8, separated by commas. */
  networks: readonly string[]
  /** Texts separated by commas. */
  list: readonly string[]
  /** `sqlite:` and an absolute path, or `postgres://…` with whatever password it has. */
  database: string
  trust: readonly TrustSetting[]
  grants: readonly GrantSetting[]
}

export type SettingType = keyof SettingValues

/** What reading a value needs to know beside its type. */
export interface ReadContext {
  /** Folder that relative paths start from. */
  readonly base: string
  /** Accepted spellings of a `choice` and what each stands for. */
  readonly choices?: Readonly<Record<string, string>>
}

type Reader<T extends SettingType> = (text: string, context: ReadContext) => SettingValues[T]

const READERS: { readonly [T in SettingType]: Reader<T> } = {
  string: (text) => text,
  secret: (text) => text,
  integer: (text) => {
    if (!/^-?\d{1,15}$/.test(text.trim())) throw wrong('a whole number')
    return Number(text)
  },
  bytes: (text) => {
    const bytes = parseGitInteger(text)
    if (bytes === undefined || !Number.isSafeInteger(bytes)) throw wrong('bytes, such as 500m, 10g or 2t')
    return bytes
  },
  boolean: (text) => {
    const known = BOOLEANS.get(text.trim().toLowerCase())
    if (known === undefined) throw wrong('true or false')
    return known
  },
  repositories: (text) =>
    Object.freeze(
      text
        .split(',')
        .map((item) => item.trim())
        .filter((item) => item !== '')
        .map(readRepository),
    ),
  url: readUrl,
  listen: readListen,
  duration: parseDuration,
  choice: (text, { choices = {} }) => {
    const spelled = Object.keys(choices).find(
      (spelling) => spelling.toLowerCase() === text.trim().toLowerCase(),
    )
    if (spelled === undefined) throw wrong(`one of ${[...new Set(Object.values(choices))].join(', ')}`)
    return choices[spelled] as string
  },
  path: (text, { base }) => path.resolve(base, text),
  paths: (text, { base }) => Object.freeze(splitList(text).map((item) => path.resolve(base, item))),
  networks: (text) => Object.freeze(splitList(text).map(readNetwork)),
  list: (text) => Object.freeze(splitList(text)),
  database: readDatabase,
  trust: readTrust,
  grants: readGrants,
}

const BOOLEANS: ReadonlyMap<string, boolean> = new Map([
  ['true', true],
  ['yes', true],
  ['on', true],
  ['1', true],
  ['false', false],
  ['no', false],
  ['off', false],
  ['0', false],
])

/**
 * Reads the text of one setting.
 * @throws {TimoneError} `config`, saying what it must be; never the text itself, which may be a secret
 */
export function readSetting<T extends SettingType>(
  type: T,
  text: string,
  context: ReadContext,
): SettingValues[T] {
  return READERS[type](text, context)
}

function splitList(text: string): string[] {
  return text
    .split(',')
    .map((item) => item.trim())
    .filter((item) => item !== '')
}

function readNetwork(text: string): string {
  const [, address = '', bits] = /^([^/]+)(?:\/(\d{1,3}))?$/.exec(text) ?? []
  const family = isIP(address)
  const most = family === 6 ? 128 : 32
  // A network of everybody would let anyone write into the audit trail whatever they like.
  if (
    family === 0 ||
    address.includes('%') ||
    (bits !== undefined && (Number(bits) > most || Number(bits) === 0))
  )
    throw wrong('addresses, or networks such as 10.0.0.0/8 or fd00::/8, separated by commas')
  return text
}

function readRepository(text: string): string {
  const [org, repo, ...rest] = text.split('/')
  try {
    if (org === undefined || repo === undefined || rest.length > 0) throw new TypeError('not org/repo')
    return repo === '*' ? `${parseRepository(org, 'x').org}/*` : repositoryName(parseRepository(org, repo))
  } catch {
    throw wrong('org/repo or org/*, separated by commas')
  }
}

/** http or https, nothing that does not belong into an address; without a slash at the end. */
function readUrl(text: string): string {
  const url = URL.parse(text.trim())
  if (url === null || (url.protocol !== 'http:' && url.protocol !== 'https:')) {
    throw wrong('an address that begins with http:// or https://')
  }
  if (url.username !== '' || url.password !== '')
    throw wrong('an address without user name and password in it')
  if (url.search !== '' || url.hash !== '') throw wrong('an address without ? or #')
  return url.origin + url.pathname.replace(/\/+$/, '')
}

function readDatabase(text: string, { base }: ReadContext): string {
  const [, file] = /^sqlite:(.+)$/.exec(text.trim()) ?? []
  if (file !== undefined) return `sqlite:${path.resolve(base, file)}`
  if (!/^postgres(ql)?:\/\/\S/.test(text.trim()) || !URL.canParse(text.trim())) {
    throw wrong('sqlite:PATH or postgres://USER:PASSWORD@HOST:PORT/NAME')
  }
  return text.trim()
}

function readListen(text: string): ListenAddress {
  const [, ipv6, name, digits] =
    /^(?:\[([0-9A-Fa-f:.]+)\]:|([^\s:[\]/]+):)?(\d{1,5})$/.exec(text.trim()) ?? []
  const port = Number(digits)
  if (digits === undefined || port > 65_535) throw wrong('HOST:PORT, such as 127.0.0.1:8000 or [::1]:8000')
  return Object.freeze({ host: ipv6 ?? name ?? '127.0.0.1', port })
}

function wrong(what: string): TimoneError {
  return new TimoneError('config', `must be ${what}`)
}
