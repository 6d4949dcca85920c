import { execFile } from 'node:child_process'
import { lstat, readFile } from 'node:fs/promises'
import { dirname, isAbsolute, join, resolve } from 'node:path'
import { getCACertificates } from 'node:tls'
import type { ConnectionSettings } from '../access/http-client.ts'
import { TimoneError } from '../errors.ts'

export interface GitEnvironmentOptions {
  /** Working directory that git-lfs gave us: the work tree's root, a folder in it, a bare repository, … */
  cwd: string
  /** Passed to git unchanged: `GIT_DIR` and `GIT_CONFIG_PARAMETERS` matter. */
  env: NodeJS.ProcessEnv
}

/** A `git` call may take this long, milliseconds. It only reads files; a network drive may be slow. */
const GIT_TIMEOUT = 20_000

/** What the agent needs to know from git, each asked once. */
export class GitEnvironment {
  readonly #options: GitEnvironmentOptions
  #entries: Promise<readonly ConfigEntry[]> | undefined
  #config: Promise<ReadonlyMap<string, string>> | undefined
  #storage: Promise<string> | undefined

  constructor(options: GitEnvironmentOptions) {
    this.#options = options
  }

  get cwd(): string {
    return this.#options.cwd
  }

  get env(): NodeJS.ProcessEnv {
    return this.#options.env
  }

  /** What the repository's `.lfsconfig` says, of the work tree or else of HEAD; anything may be in there. */
  async repositoryEntries(): Promise<readonly ConfigEntry[]> {
    // Includes would let a repository read files of this machine.
    const list = ['config', '--list', '-z', '--no-includes']
    // 128: a bare repository, or no such blob.
    const top = (await this.#git(['rev-parse', '--show-toplevel'], [0, 128])).replace(/\r?\n$/, '')
    const file = join(top, '.lfsconfig')
    const found = top === '' ? undefined : await lstat(file).catch(() => undefined)
    const from = found?.isFile() === true ? ['--file', file] : ['--blob', 'HEAD:.lfsconfig']
    return parseConfigEntries(await this.#git([...list, ...from], [0, 1, 128]))
  }

  /** The whole configuration: key (section and name in lower case) to its last value. */
  config(): Promise<ReadonlyMap<string, string>> {
    this.#config ??= this.configEntries().then((entries) => new Map(entries))
    return this.#config
  }

  /** The whole configuration in git's order: the last of several values is the one that counts. */
  configEntries(): Promise<readonly ConfigEntry[]> {
    this.#entries ??= this.#git(['config', '--list', '-z', '--includes']).then(parseConfigEntries)
    return this.#entries
  }

  /**
   * The LFS storage folder, as git-lfs finds it (fs/fs.go): `lfs.storage`, relative to the common git folder, else
   * `lfs` in that folder, which all work trees share.
   */
  lfsStorage(): Promise<string> {
    this.#storage ??= this.#findStorage()
    return this.#storage
  }

  async #findStorage(): Promise<string> {
    const [config, text] = await Promise.all([this.config(), this.#git(['rev-parse', '--git-common-dir'])])
    // git answers relative to the working directory.
    const common = resolve(this.#options.cwd, text.replace(/\r?\n$/, ''))
    return storageIn(common, config)
  }

  /** Permission bits that `core.sharedRepository` asks for; undefined: the umask decides (git-config). */
  async sharedMode(): Promise<number | undefined> {
    return sharedMode((await this.config()).get('core.sharedrepository'))
  }

  /** Proxy and certificates for one origin: git's `http.*`, with git's own matching of `http.<url>.*`, then the environment. */
  async connectionSettings(origin: URL): Promise<ConnectionSettings> {
    const { env } = this.#options
    // Exit status 1: nothing is set.
    const text = await this.#git(['config', '-z', '--get-urlmatch', 'http', origin.origin], [0, 1])
    const http = parseConfig(text)
    const settings: ConnectionSettings = {}
    const proxy = proxyFor(origin, http.get('http.proxy'), env)
    if (proxy !== undefined) settings.proxy = proxy
    if (origin.protocol !== 'https:') return settings
    const noVerify = env.GIT_SSL_NO_VERIFY
    if (
      /^(false|no|off|0|)$/i.test(http.get('http.sslverify') ?? 'true') ||
      (noVerify !== undefined && noVerify !== '' && noVerify !== '0')
    ) {
      settings.verify = false
    }
    const caFile = env.GIT_SSL_CAINFO ?? http.get('http.sslcainfo')
    // As in git, a CA file takes the place of the usual certificates; without one the system's count too.
    settings.ca =
      caFile === undefined || caFile === ''
        ? [...getCACertificates('default'), ...getCACertificates('system')]
        : [await readPem(caFile, 'http.sslCAInfo', env), ...getCACertificates('extra')]
    const cert = env.GIT_SSL_CERT ?? http.get('http.sslcert')
    const key = env.GIT_SSL_KEY ?? http.get('http.sslkey')
    if (cert !== undefined && cert !== '') settings.cert = await readPem(cert, 'http.sslCert', env)
    if (key !== undefined && key !== '') settings.key = await readPem(key, 'http.sslKey', env)
    return settings
  }

  async #git(args: string[], accepted: number[] = [0]): Promise<string> {
    const { cwd, env } = this.#options
    return new Promise((resolve, reject) => {
      execFile(
        'git',
        args,
        { cwd, env, timeout: GIT_TIMEOUT, maxBuffer: 64 * 2 ** 20, windowsHide: true },
        (error, stdout, stderr) => {
          const status = error === null ? 0 : error.code
          if (error !== null && status === 'ENOENT') {
            reject(
              new TimoneError('config', 'git was not found on PATH: install git, or mend PATH', {
                cause: error,
              }),
            )
          } else if (typeof status === 'number' && accepted.includes(status)) {
            resolve(stdout)
          } else {
            const said = stderr.trim().split('\n')[0] ?? ''
            reject(
              new TimoneError('config', `git ${args[0]} failed: ${said === '' ? 'no answer' : said}`, {
                cause: error,
              }),
            )
          }
        },
      )
    })
  }
}

/** One line of a configuration: section and name in lower case, what is between them as it was written. */
export type ConfigEntry = readonly [key: string, value: string]

/** Output of `git config --list -z`: `key\nvalue\0`; a key without a value means true. */
export function parseConfigEntries(text: string): ConfigEntry[] {
  return text
    .split('\0')
    .filter((entry) => entry !== '')
    .map((entry) => {
      const at = entry.indexOf('\n')
      return at === -1 ? [entry, 'true'] : [entry.slice(0, at), entry.slice(at + 1)]
    })
}

/** {@link parseConfigEntries} as key to last value. */
export function parseConfig(text: string): ReadonlyMap<string, string> {
  return new Map(parseConfigEntries(text))
}

/** The LFS storage folder beside the common git folder `common`: `lfs.storage`, or `lfs`. */
export function storageIn(common: string, config: Pick<ReadonlyMap<string, string>, 'get'>): string {
  const storage = config.get('lfs.storage')
  if (storage === undefined || storage === '') return join(common, 'lfs')
  return isAbsolute(storage) ? storage : join(common, storage)
}

/** LFS storage folder of an object's path, `<storage>/objects/aa/bb/<oid>`; undefined when it is no such path. */
export function storageOfObjectPath(path: string, oid: string): string | undefined {
  const folder = dirname(path)
  const expected = ['objects', oid.slice(0, 2), oid.slice(2, 4)]
  let at = folder
  for (const name of expected.reverse()) {
    const parent = dirname(at)
    if (join(parent, name) !== at) return undefined
    at = parent
  }
  return at
}

/** `core.sharedRepository` (git-config): group, all, an octal mode, or not shared. */
export function sharedMode(value: string | undefined): number | undefined {
  switch (value?.toLowerCase()) {
    case 'group':
    case 'true':
    case '1':
      return 0o660
    case 'all':
    case 'world':
    case 'everybody':
    case '2':
      return 0o664
    default:
      return value !== undefined && /^0[0-7]{3}$/.test(value) ? Number.parseInt(value, 8) & 0o666 : undefined
  }
}

/**
 * The proxy for `origin`, as git and curl choose it: `http.proxy`, else `https_proxy` or `http_proxy`, else
 * `all_proxy`; an empty `http.proxy` means none; `no_proxy` excepts hosts. A name without a scheme is an HTTP proxy.
 */
export function proxyFor(
  origin: URL,
  configured: string | undefined,
  env: NodeJS.ProcessEnv,
): string | undefined {
  if (isExcepted(origin, env.no_proxy ?? env.NO_PROXY)) return undefined
  // curl reads HTTP_PROXY in lower case only: in CGI programs the upper case one comes from the client.
  const general = env.all_proxy ?? env.ALL_PROXY
  const own =
    origin.protocol === 'https:' ? (env.https_proxy ?? env.HTTPS_PROXY) : (env.http_proxy ?? env.HTTP_PROXY)
  const proxy = configured ?? own ?? general
  if (proxy === undefined || proxy === '') return undefined
  const url = proxy.includes('://') ? proxy : `http://${proxy}`
  if (!/^https?:\/\//i.test(url) || !URL.canParse(url)) {
    throw new TimoneError(
      'proxy',
      `the proxy for ${origin.host} is neither http:// nor https://: timone knows no other kind`,
    )
  }
  return url
}

/** True when `no_proxy` names the host: `*`, a host, or a domain (with or without a leading dot), each with an optional port. */
function isExcepted(origin: URL, noProxy: string | undefined): boolean {
  const host = origin.hostname.toLowerCase().replace(/^\[|\]$/g, '')
  const port = origin.port === '' ? (origin.protocol === 'https:' ? '443' : '80') : origin.port
  return (noProxy ?? '').split(/[\s,]+/).some((entry) => {
    const { name, wanted } = splitPort(entry.toLowerCase())
    if (name === '') return false
    if (name === '*') return true
    const domain = name.replace(/^\*?\./, '')
    return (host === domain || host.endsWith(`.${domain}`)) && (wanted === undefined || wanted === port)
  })
}

/** `name:port`, `[address]:port`, or either without the port. */
function splitPort(entry: string): { name: string; wanted: string | undefined } {
  const [, address, wanted] = /^\[([^\]]*)\](?::(\d+))?$/.exec(entry) ?? []
  if (address !== undefined) return { name: address, wanted }
  // More than one colon and no brackets: an IPv6 address, which has no port here.
  if (entry.split(':').length > 2) return { name: entry, wanted: undefined }
  const [name = '', digits] = entry.split(':')
  return { name, wanted: digits }
}

async function readPem(path: string, setting: string, env: NodeJS.ProcessEnv): Promise<string> {
  const home = env.HOME ?? env.USERPROFILE ?? ''
  const expanded = path.startsWith('~/') ? join(home, path.slice(2)) : path
  return readFile(expanded, 'utf8').catch((error: unknown) => {
    throw new TimoneError(
      'tls',
      `cannot read ${expanded}, which git's ${setting} names: ${(error as NodeJS.ErrnoException).code ?? ''}`,
      { cause: error },
    )
  })
}
