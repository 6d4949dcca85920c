import { serverError } from '../access/client.ts'
import type { Operation } from '../access/credentials.ts'
import { type HttpResponse, type HttpSend, readText } from '../access/http-client.ts'
import type { Retrier } from '../access/retry.ts'
import { TimoneError } from '../errors.ts'
import type { Logger } from '../log.ts'
import type { Credential, GitCredential } from './git-credential.ts'
import type { LfsConfig } from './lfs-config.ts'
import { type LfsEndpoint, printEndpoint } from './lfs-endpoint.ts'
import { readNetrc } from './netrc.ts'
import { runnerCredential } from './runner-exchange.ts'
import { type SshAnswer, sshAuthenticate } from './ssh-authenticate.ts'

export interface LfsApiOptions {
  endpoint: Exclude<LfsEndpoint, { kind: 'other' }>
  operation: Operation
  /** URL of the git remote: credentials are looked up for it where it is on the server's host. */
  remoteUrl: string | undefined
  config: LfsConfig
  credentials: GitCredential
  cwd: string
  env: NodeJS.ProcessEnv
  send: HttpSend
  retrier: Retrier
  log: Logger
  /** Told while somebody may be typing a password: the terminal is theirs then. */
  asking?: ((now: boolean) => void) | undefined
}

/** How often a user is asked for a password, as in git-lfs. */
const MAX_ASKED = 3
/** A Batch answer names every object: this long without a byte and the server counts as dead, milliseconds. */
const REQUEST_TIMEOUT = 60_000
/** Longest answer that is read, bytes: some 100 000 objects. */
const MAX_ANSWER = 128 * 2 ** 20
const MEDIA_TYPE = 'application/vnd.git-lfs+json'

/** How a request goes out. `header` is secret. */
interface Access {
  base: URL
  header: Record<string, string>
  /** What to reject when the server says 401. */
  from: Credential | SshAnswer | 'fixed' | 'nobody'
}

/**
 * The Git LFS API of one endpoint, signed in as git-lfs does: headers from git's configuration, a password in the URL,
 * `git-lfs-authenticate` over ssh, netrc, or `git credential`, which is only asked after the server has answered 401.
 */
export class LfsApi {
  readonly host: string
  readonly #options: LfsApiOptions
  readonly #extraHeader: Readonly<Record<string, string>>
  #wanted: boolean
  #asked = 0
  #netrcTried = false
  /** Whose password the server refused last. */
  #rejected: string | undefined
  #credential: Promise<Credential> | undefined
  #approving: Promise<void> | undefined
  #rejecting: Promise<void> | undefined
  #ssh: Promise<SshAnswer | undefined> | undefined

  constructor(options: LfsApiOptions) {
    const { endpoint, config } = options
    this.#options = options
    this.host = endpoint.url.host
    this.#extraHeader = extraHeader(config, endpoint)
    // git-lfs remembers there that the server wants a password.
    const access = config.forUrl('lfs', endpoint.url, 'access').at(-1)?.toLowerCase()
    this.#wanted = access === 'basic' || access === 'private'
  }

  /**
   * Posts `body` to `<endpoint>/<path>`; waits and tries again where that can help.
   * @throws {TimoneError} `unauthorized` when the user has no password that the server takes, and whatever a server or
   *   network does
   */
  async post(path: string, body: unknown, signal: AbortSignal): Promise<unknown> {
    const text = JSON.stringify(body)
    return this.#options.retrier.run(this.host, () => this.#postOnce(path, text, signal), {
      signal,
      onRetry: (error, delay) =>
        this.#options.log.warn({ host: this.host, delay, code: error.code }, error.message),
    })
  }

  /** Waits until helpers have been told of a good password. */
  async close(): Promise<void> {
    await this.#approving?.catch(() => {})
  }

  async #postOnce(path: string, text: string, signal: AbortSignal): Promise<unknown> {
    for (;;) {
      const access = await this.#access(signal)
      const url = new URL(access.base)
      url.pathname += `/${path}`
      const { status, headers, body } = await postLfs(this.#options.send, url, access.header, text, signal)
      if (status === 401) {
        await this.#refused(access, headers)
        continue
      }
      if (status < 200 || status > 299) throw serverError({ status, headers }, body, url)
      if (typeof access.from === 'object' && 'lines' in access.from && access.from.lines.length > 0)
        this.#approve(access.from)
      try {
        return JSON.parse(body)
      } catch {
        throw new TimoneError(
          'invalid',
          `${url.host} answered something that is not JSON: is there an LFS server at ${printEndpoint(this.#options.endpoint)}?`,
          { host: url.host, status },
        )
      }
    }
  }

  async #access(signal: AbortSignal): Promise<Access> {
    const { endpoint } = this.#options
    if (endpoint.kind === 'ssh') {
      const answer = await this.#sshAnswer(endpoint, signal)
      if (answer !== undefined) {
        return { base: answer.href, header: { ...this.#extraHeader, ...answer.header }, from: answer }
      }
    }
    const base = endpoint.url
    if (this.#extraHeader.authorization !== undefined)
      return { base, header: this.#extraHeader, from: 'fixed' }
    const login = this.#urlLogin()
    if (login !== undefined)
      return { base, header: { ...this.#extraHeader, authorization: login }, from: 'fixed' }
    if (!this.#wanted) return { base, header: this.#extraHeader, from: 'nobody' }
    this.#credential ??= this.#ask(signal)
    const asking = this.#credential
    asking.catch(() => {
      if (this.#credential === asking) this.#credential = undefined
    })
    const credential = await asking
    const authorization = basic(credential.username, credential.password)
    return { base, header: { ...this.#extraHeader, authorization }, from: credential }
  }

  async #refused({ from }: Access, headers: HttpResponse['headers']): Promise<void> {
    const { host } = this
    if (from === 'fixed') {
      throw new TimoneError(
        'unauthorized',
        `${host} does not accept the password that git's configuration has for it (http.extraHeader, or in the URL): put a valid one there`,
        { host, status: 401 },
      )
    }
    if (from === 'nobody') {
      const offers = String(headers['lfs-authenticate'] ?? headers['www-authenticate'] ?? 'basic')
      if (/\b(ntlm|negotiate)\b/i.test(offers) && !/\bbasic\b/i.test(offers)) {
        throw new TimoneError(
          'unauthorized',
          `${host} wants NTLM or Kerberos, which timone does not know: use git lfs`,
          { host, status: 401 },
        )
      }
      this.#wanted = true
      return
    }
    if ('lines' in from) {
      // Another request may have been refused for the same password, and a new one may be there already.
      const current = await this.#credential?.catch(() => undefined)
      if (current !== from) return
      this.#credential = undefined
      this.#approving = undefined
      if (from.lines.length > 0) this.#rejecting = this.#options.credentials.reject(from)
      await this.#rejecting
      this.#rejected = from.username
      if (this.#asked >= MAX_ASKED) throw this.#noPassword()
      return
    }
    const current = await this.#ssh?.catch(() => undefined)
    if (current !== from) return
    this.#ssh = undefined
    if (++this.#asked < MAX_ASKED) return
    throw new TimoneError(
      'unauthorized',
      `${host} does not accept what git-lfs-authenticate gave: ask its operator`,
      { host, status: 401 },
    )
  }

  async #ask(signal: AbortSignal): Promise<Credential> {
    const { endpoint, credentials, remoteUrl, env } = this.#options
    if (!this.#netrcTried) {
      this.#netrcTried = true
      const login = await readNetrc(endpoint.url.hostname, env)
      // No helper gave it, so none is to be told.
      if (login !== undefined) return { ...login, lines: [] }
    }
    // A helper that has not forgotten the refused one yet would give it again.
    await this.#rejecting
    this.#asked++
    const remote = remoteUrl === undefined ? null : URL.parse(remoteUrl)
    // The password that git itself has for the remote serves the LFS server on the same host too.
    const url = remote !== null && remote.origin === endpoint.url.origin ? remote : endpoint.url
    const named = endpoint.kind === 'http' ? endpoint.login?.username : undefined
    const username = named ?? (url.username === '' ? undefined : decodeURIComponent(url.username))
    const credential =
      (await this.#whileAsking(() => credentials.fill({ url, username }, signal))) ??
      (endpoint.kind === 'http'
        ? await runnerCredential(endpoint, { env, send: this.#options.send, signal })
        : undefined)
    if (credential === undefined) throw this.#noPassword()
    return credential
  }

  async #whileAsking<T>(ask: () => Promise<T>): Promise<T> {
    this.#options.asking?.(true)
    try {
      return await ask()
    } finally {
      this.#options.asking?.(false)
    }
  }

  #noPassword(): TimoneError {
    const { origin } = this.#options.endpoint.url
    return new TimoneError(
      'unauthorized',
      this.#rejected === undefined
        ? `${origin} wants a user and a password, and git has none for it: store one with git credential approve, or run the command in a terminal`
        : `${origin} does not accept user ${this.#rejected} with this password: get a new one (it may have expired) and repeat the command`,
      { host: this.host, status: 401 },
    )
  }

  #approve(credential: Credential): void {
    // Once: helpers write files.
    this.#approving ??= this.#options.credentials.approve(credential).catch(() => {})
  }

  /** A password in the LFS URL, or in that of the remote on the same host. */
  #urlLogin(): string | undefined {
    const { endpoint, remoteUrl } = this.#options
    if (endpoint.kind === 'http' && endpoint.login?.password !== undefined) {
      return basic(endpoint.login.username, endpoint.login.password)
    }
    const remote = remoteUrl === undefined ? null : URL.parse(remoteUrl)
    if (remote === null || remote.origin !== endpoint.url.origin || remote.password === '') return undefined
    return basic(decodeURIComponent(remote.username), decodeURIComponent(remote.password))
  }

  #sshAnswer(
    endpoint: Extract<LfsEndpoint, { kind: 'ssh' }>,
    signal: AbortSignal,
  ): Promise<SshAnswer | undefined> {
    const fetching = async (): Promise<SshAnswer | undefined> =>
      this.#whileAsking(() => sshAuthenticate(endpoint, this.#options.operation, this.#options, signal))
    const known = this.#ssh
    const current =
      known === undefined ? fetching() : known.then((answer) => (isFresh(answer) ? answer : fetching()))
    this.#ssh = current
    current.catch(() => {
      if (this.#ssh === current) this.#ssh = undefined
    })
    return current
  }
}

/** git-lfs too counts what has 5 s left as expired. */
const isFresh = (answer: SshAnswer | undefined): boolean =>
  answer?.expiresAt === undefined || answer.expiresAt - 5000 > Date.now()

const basic = (username: string, password: string): string =>
  `Basic ${Buffer.from(`${username}:${password}`).toString('base64')}`

/**
 * `http.<url>.extraHeader`, or without one that fits `http.extraHeader`. The latter names no host, so it does not go to
 * a server that only the repository's `.lfsconfig` names. An empty value drops those before it (git-config).
 */
function extraHeader(config: LfsConfig, endpoint: LfsApiOptions['endpoint']): Record<string, string> {
  const scoped = config.forUrl('http', endpoint.url, 'extraheader')
  const foreign = endpoint.kind === 'http' && endpoint.foreign
  const lines = scoped.length > 0 || foreign ? scoped : config.getAll('http.extraheader')
  let header: Record<string, string> = {}
  for (const line of lines) {
    if (line === '') header = {}
    const [, name, value] = /^([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([^\r\n]*)$/.exec(line) ?? []
    if (name !== undefined && value !== undefined) header[name.toLowerCase()] = value
  }
  return header
}

/** One POST as the Git LFS API wants it; every status is given back. */
export async function postLfs(
  send: HttpSend,
  url: URL,
  header: Readonly<Record<string, string>>,
  text: string,
  signal: AbortSignal,
): Promise<{ status: number; headers: HttpResponse['headers']; body: string }> {
  const response = await send({
    method: 'POST',
    url,
    headers: {
      'user-agent': 'git-lfs/3 (timone)',
      ...header,
      accept: MEDIA_TYPE,
      'content-type': `${MEDIA_TYPE}; charset=utf-8`,
      'content-length': String(Buffer.byteLength(text)),
    },
    body: text,
    idleTimeout: REQUEST_TIMEOUT,
    signal,
  })
  return { status: response.status, headers: response.headers, body: await readText(response, MAX_ANSWER) }
}
