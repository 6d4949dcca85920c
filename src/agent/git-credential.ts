import { spawn } from 'node:child_process'
import { TimoneError } from '../errors.ts'

/** What git's helpers gave, as `git credential` wants it back. Secret. */
export interface Credential {
  username: string
  password: string
  /** Every line of the answer: helpers may need more of it than name and password. */
  lines: readonly string[]
}

/** For which place a name and a password are wanted. */
export interface CredentialQuestion {
  url: URL
  username: string | undefined
}

export interface GitCredentialOptions {
  cwd: string
  env: NodeJS.ProcessEnv
  /** What git says when it has no answer is kept from the user. */
  quiet?: boolean
  /** Milliseconds that a helper, or a person who is asked, may take. */
  patience?: number
}

/** A person may have to find a password first. */
const PATIENCE = 300_000
/** Nobody is asked on a terminal, yet a key ring may have to be unlocked. */
const QUIET_PATIENCE = 60_000
/** Longest answer, characters. */
const MAX_ANSWER = 2 ** 20

/**
 * `git credential`: the user's helpers, askpass programs and terminal, as git itself asks them. Secrets go through
 * pipes only, never through the arguments of a process.
 */
export class GitCredential {
  readonly #options: GitCredentialOptions

  constructor(options: GitCredentialOptions) {
    this.#options = options
  }

  /** Undefined when nobody knows a password, or may be asked for one. */
  async fill(question: CredentialQuestion, signal?: AbortSignal): Promise<Credential | undefined> {
    const { url, username } = question
    const lines = [
      `protocol=${url.protocol.slice(0, -1)}`,
      `host=${url.host}`,
      // git drops it again unless credential.useHttpPath is set.
      `path=${decodePath(url.pathname)}`,
      ...(username === undefined ? [] : [`username=${username}`]),
    ]
    // A line break would begin a field of its own, such as another host.
    if (lines.some((line) => /[\n\r\0]/.test(line))) {
      throw new TimoneError('config', 'the address of the LFS server holds a line break: mend lfs.url')
    }
    const answer = await this.#run('fill', lines, signal)
    if (answer === undefined) return undefined
    const fields = answer.split('\n').filter((line) => line.includes('='))
    const field = (name: string): string | undefined =>
      fields.find((line) => line.startsWith(`${name}=`))?.slice(name.length + 1)
    const [user, password] = [field('username'), field('password')]
    if (user === undefined || password === undefined) return undefined
    return { username: user, password, lines: fields }
  }

  /** The server took it: helpers may keep it. */
  async approve(credential: Credential): Promise<void> {
    await this.#run('approve', credential.lines)
  }

  /** The server refused it: helpers are to forget it. */
  async reject(credential: Credential): Promise<void> {
    await this.#run('reject', credential.lines)
  }

  #run(
    verb: 'fill' | 'approve' | 'reject',
    lines: readonly string[],
    signal?: AbortSignal,
  ): Promise<string | undefined> {
    return new Promise((resolve, reject) => {
      const reads = verb === 'fill'
      const child = spawn('git', ['credential', verb], {
        cwd: this.#options.cwd,
        env: this.#options.env,
        // The daemon of git-credential-cache keeps stderr open for as long as it lives: nobody may wait for its end.
        stdio: [
          'pipe',
          reads ? 'pipe' : 'ignore',
          reads && this.#options.quiet !== true ? 'inherit' : 'ignore',
        ],
        windowsHide: true,
        ...(signal === undefined ? {} : { signal }),
      })
      let text = ''
      const { quiet = false, patience = quiet ? QUIET_PATIENCE : PATIENCE } = this.#options
      const giveUp = (error: TimoneError): void => {
        clearTimeout(timer)
        // A helper that hangs outlives git, and holds its end of the pipe.
        child.stdout?.destroy()
        child.kill('SIGKILL')
        reject(error)
      }
      const timer = setTimeout(() => {
        const message =
          'the credential helper of git does not answer: see git config --show-origin --get-all credential.helper'
        giveUp(new TimoneError('timeout', message))
      }, patience)
      child.once('close', () => clearTimeout(timer))
      child.stdout?.setEncoding('utf8').on('data', (chunk: string) => {
        text += chunk
        if (text.length > MAX_ANSWER)
          giveUp(new TimoneError('config', 'the credential helper of git says too much'))
      })
      child.stdin?.on('error', () => {})
      child.stdin?.end(`${lines.join('\n')}\n\n`)
      child.once('error', (error: NodeJS.ErrnoException) => {
        clearTimeout(timer)
        // A helper that hangs outlives git, and holds its end of the pipe.
        child.stdout?.destroy()
        if (signal?.aborted === true) reject(new TimoneError('cancelled', 'interrupted'))
        else
          reject(
            new TimoneError('config', `git credential cannot be run (${error.code ?? 'unknown error'})`, {
              cause: error,
            }),
          )
      })
      child.once('exit', (code) => {
        if (code === 0 && reads) return
        clearTimeout(timer)
        resolve(undefined)
      })
      // Of the pipe that we read, not of the process: the last of its output may come after its end.
      child.stdout?.once('close', () => {
        clearTimeout(timer)
        resolve(text)
      })
    })
  }
}

function decodePath(path: string): string {
  const relative = path.replace(/^\//, '')
  try {
    return decodeURIComponent(relative)
  } catch {
    return relative
  }
}
