import { spawn } from 'node:child_process'
import { TimoneError } from '../errors.ts'
import { runGit } from './git.ts'
import type { Io } from './io.ts'

/** Milliseconds that a credential helper is waited for; it may have to unlock a key ring. */
const PATIENCE = 60_000

export interface StoredCredential {
  username: string
  password: string
}

/** Git's credential helpers, which git-lfs asks too. Secrets go through pipes only; nobody is asked for anything. */
export class CredentialStore {
  readonly #io: Io
  readonly #patience: number

  constructor(io: Io, patience: number = Number(io.env.TIMONE_TEST_CREDENTIAL_PATIENCE ?? PATIENCE)) {
    this.#io = io
    this.#patience = patience
  }

  /** @throws {TimoneError} `config`, with the command that sets one, where git has no helper for this address */
  async requireHelper(url: URL): Promise<void> {
    const { stdout } = await runGit(['config', '--get-urlmatch', 'credential.helper', url.href], this.#io)
    const all = await runGit(['config', '--get-all', 'credential.helper'], this.#io)
    if (stdout.trim() !== '' || all.stdout.trim() !== '') return
    throw new TimoneError(
      'config',
      `git has no credential helper, so there is nowhere to keep the token: choose one with ${suggestion()} and run this again`,
    )
  }

  /**
   * Where `credential.useHttpPath` is set, helpers tell repositories of one host apart: then it must be said which.
   * @throws {TimoneError} `config` for the address of a whole server
   */
  async requirePath(url: URL): Promise<void> {
    const asked = ['config', '--type=bool', '--get-urlmatch', 'credential.useHttpPath', url.href]
    const { stdout } = await runGit(asked, this.#io)
    if (stdout.trim() !== 'true' || repositoryPath(url) !== undefined) return
    throw new TimoneError(
      'config',
      `credential.useHttpPath is set for ${url.host}: name the repository too, as in ${url.origin}/ORG/REPO`,
    )
  }

  /** What the helpers know for this address; undefined: nothing. @throws {TimoneError} `timeout` when one hangs */
  async find(url: URL, username?: string): Promise<StoredCredential | undefined> {
    const question = username === undefined ? lines(url) : [...lines(url), field('username', username)]
    const answer = await this.#run('fill', question)
    if (answer === undefined) return undefined
    const value = (name: string) =>
      answer
        .split('\n')
        .find((line) => line.startsWith(`${name}=`))
        ?.slice(name.length + 1)
    const [user, password] = [value('username'), value('password')]
    return user && password ? { username: user, password } : undefined
  }

  /**
   * Keeps a token, and looks whether it was kept: helpers do not say so.
   * @param expiresAt seconds since the epoch
   * @throws {TimoneError} `config` when no helper kept it, `timeout` when one hangs
   */
  async keep(url: URL, { username, password }: StoredCredential, expiresAt?: number): Promise<void> {
    const said = [...lines(url), field('username', username), field('password', password)]
    if (expiresAt !== undefined) said.push(`password_expiry_utc=${expiresAt}`)
    await this.#run('approve', said)
    const kept = await this.find(url, username)
    if (kept?.password === password) return
    throw new TimoneError(
      'config',
      `the credential helper of git did not keep the token: see git config --show-origin --get-all credential.helper, or choose another with ${suggestion()}`,
    )
  }

  /** Makes the helpers forget it. @throws {TimoneError} `timeout` when one hangs */
  async forget(url: URL, { username, password }: StoredCredential): Promise<void> {
    await this.#run('reject', [...lines(url), field('username', username), field('password', password)])
  }

  #run(verb: 'fill' | 'approve' | 'reject', said: readonly string[]): Promise<string | undefined> {
    const { env, cwd, signal } = this.#io
    return new Promise((resolve, reject) => {
      const child = spawn('git', ['-c', 'core.askPass=', 'credential', verb], {
        cwd,
        // Nobody is asked: a helper knows it, or it is not known.
        env: { ...env, GIT_TERMINAL_PROMPT: '0', GIT_ASKPASS: '', SSH_ASKPASS: '', GCM_INTERACTIVE: 'never' },
        // The daemon of git-credential-cache keeps stderr open for as long as it lives.
        stdio: ['pipe', verb === 'fill' ? 'pipe' : 'ignore', 'ignore'],
        // With its helpers, in a group of their own, so that all of them can be ended.
        detached: process.platform !== 'win32',
        windowsHide: true,
      })
      let text = ''
      const end = (error: TimoneError): void => {
        finish()
        try {
          if (process.platform === 'win32' || child.pid === undefined) child.kill('SIGKILL')
          else process.kill(-child.pid, 'SIGKILL')
        } catch {
          // It has ended by itself.
        }
        reject(error)
      }
      const stop = (): void => end(new TimoneError('cancelled', 'interrupted'))
      const timer = setTimeout(() => {
        const message = `the credential helper of git does not answer: see git config --show-origin --get-all credential.helper, or choose another with ${suggestion()}`
        end(new TimoneError('timeout', message))
      }, this.#patience)
      const finish = (): void => {
        clearTimeout(timer)
        signal?.removeEventListener('abort', stop)
      }
      signal?.addEventListener('abort', stop, { once: true })
      child.stdout?.setEncoding('utf8').on('data', (chunk: string) => {
        text += chunk
        if (text.length > 2 ** 20)
          end(new TimoneError('config', 'the credential helper of git says too much'))
      })
      child.stdin?.on('error', () => {})
      child.stdin?.end(`${said.join('\n')}\n\n`)
      child.once('error', (error) => {
        finish()
        reject(
          new TimoneError('config', 'git was not found: install it, or put its folder on PATH', {
            cause: error,
          }),
        )
      })
      child.once('exit', (code) => {
        if (verb === 'fill' && code === 0) return
        finish()
        resolve(undefined)
      })
      // Of the pipe, not of the process: the last of its output may come after its end.
      child.stdout?.once('close', () => {
        finish()
        resolve(text)
      })
    })
  }
}

function lines(url: URL): string[] {
  const path = repositoryPath(url)
  return [
    field('protocol', url.protocol.slice(0, -1)),
    field('host', url.host),
    // git drops it again unless credential.useHttpPath is set.
    ...(path === undefined ? [] : [field('path', path)]),
  ]
}

/** What git-lfs names as `path` for a repository of this server (creds/creds.go); undefined for the server itself. */
function repositoryPath(url: URL): string | undefined {
  const path = url.pathname.replace(/\/+$/, '').replace(/\/info\/lfs$/, '')
  if (!/^\/([^/]+\/)*[^/]+\/[^/]+$/.test(path)) return undefined
  const endpoint = `${path.slice(1)}/info/lfs`
  try {
    return decodeURIComponent(endpoint)
  } catch {
    return endpoint
  }
}

/** A line break would begin a field of its own, such as another host. */
function field(name: string, value: string): string {
  if (/[\n\r\0]/.test(value)) throw new TimoneError('config', `the ${name} holds a line break`)
  return `${name}=${value}`
}

function suggestion(): string {
  if (process.platform === 'darwin') return 'git config --global credential.helper osxkeychain'
  if (process.platform === 'win32') return 'git config --global credential.helper manager'
  return "git config --global credential.helper 'cache --timeout=86400' (in memory, for a day) or git config --global credential.helper store (in a file, not encrypted)"
}
