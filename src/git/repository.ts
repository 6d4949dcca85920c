import { type ChildProcess, spawn } from 'node:child_process'
import { resolve } from 'node:path'
import type { Readable, Writable } from 'node:stream'
import { TimoneError } from '../errors.ts'

/** Where to look for a repository. */
export interface RepositoryOptions {
  /** Absolute. */
  readonly cwd: string
  /** Passed to git unchanged: `GIT_DIR`, `GIT_WORK_TREE`, `GIT_INDEX_FILE`, `GIT_CONFIG_PARAMETERS` matter. */
  readonly env: Readonly<Record<string, string | undefined>>
  /** Ends every git that runs for this repository. */
  readonly signal?: AbortSignal
}

/** What one run of git takes. */
export interface GitOptions {
  readonly input?: string | Buffer
  /** Exit codes that are no failure; default: 0. */
  readonly accepted?: readonly number[]
  /** Added to the environment of this one run. */
  readonly env?: Readonly<Record<string, string>>
  /** Default: the folder that the repository was opened from. */
  readonly cwd?: string
}

/** A running git whose output is too large to be kept. */
export interface GitProcess {
  readonly stdin: Writable
  readonly stdout: Readable
  /** Settles when git has ended. @throws {TimoneError} `config` when it failed, `cancelled` on interruption */
  readonly done: Promise<number>
  /** Ends git where nobody wants the rest of its output; `done` then does not fail. */
  stop(): void
}

/** A git repository of this machine, and the git that belongs to it. All paths are absolute. */
export interface LocalRepository {
  /** Folder of this work tree's own state: `HEAD`, `index`. */
  readonly gitDir: string
  /** Folder that all work trees share: objects, refs, configuration. */
  readonly commonDir: string
  /** Undefined in a bare repository and inside a git folder. */
  readonly workTree: string | undefined
  readonly bare: boolean
  /** The index of this work tree, wherever `GIT_INDEX_FILE` puts it. */
  readonly indexFile: string
  /** What the object ids of this repository are. */
  readonly objectFormat: 'sha1' | 'sha256'
  readonly env: Readonly<Record<string, string | undefined>>
  readonly cwd: string
  readonly signal: AbortSignal | undefined
  /** Runs git and keeps what it prints, at most 64 MiB. @throws {TimoneError} `config`, `cancelled` */
  git(args: readonly string[], options?: GitOptions): Promise<Buffer>
  /** Starts git for output that is read as it comes. */
  stream(args: readonly string[], options?: Omit<GitOptions, 'input'>): GitProcess
  /** The whole configuration, asked once: key (section and name in lower case) to its last value. */
  config(): Promise<ReadonlyMap<string, string>>
}

const MAX_OUTPUT = 64 * 2 ** 20

/**
 * The repository around `cwd`.
 * @throws {TimoneError} `config` when there is none, or git is not installed
 */
export async function openRepository(options: RepositoryOptions): Promise<LocalRepository> {
  const run = (args: readonly string[], accepted: readonly number[] = [0]) =>
    collect(startGit(['rev-parse', ...args], options, { accepted }))
  const questions = ['--absolute-git-dir', '--git-common-dir', '--git-path', 'index', '--show-toplevel']
  const facts = ['--is-bare-repository', '--show-object-format']
  // Outside a work tree the last question alone fails, after the others were answered.
  const { text, code } = await run([...facts, ...questions], [0, 128])
  let [bare = '', format = '', ...paths] = text.replace(/\r?\n$/, '').split(/\r?\n/)
  if (paths.length < 3) {
    // Nothing was answered: ask again, to hear why.
    await run(['--absolute-git-dir'])
    throw new TimoneError('config', `${options.cwd} is in no git repository that git can read`)
  }
  if (paths.length !== (code === 0 ? 4 : 3)) {
    // A folder with a line feed in its name: one question each.
    paths = []
    for (const question of [['--absolute-git-dir'], ['--git-common-dir'], ['--git-path', 'index']]) {
      paths.push((await run(question)).text.replace(/\r?\n$/, ''))
    }
    const top = await run(['--show-toplevel'], [0, 128])
    if (top.code === 0) paths.push(top.text.replace(/\r?\n$/, ''))
  }
  // git answers some of them relative to its working directory.
  const [gitDir, commonDir, indexFile, workTree] = paths.map((path) => resolve(options.cwd, path))
  const repository: LocalRepository = {
    gitDir: gitDir as string,
    commonDir: commonDir as string,
    indexFile: indexFile as string,
    workTree,
    bare: bare === 'true',
    objectFormat: format === 'sha256' ? 'sha256' : 'sha1',
    env: options.env,
    cwd: options.cwd,
    signal: options.signal,
    async git(args, more = {}) {
      const git = startGit(args, options, more)
      git.stdin.end(more.input)
      return (await collect(git)).bytes
    },
    stream: (args, more = {}) => startGit(args, options, more),
    config() {
      config ??= repository.git(['config', '--list', '-z', '--includes']).then(parseConfig)
      return config
    },
  }
  let config: Promise<ReadonlyMap<string, string>> | undefined
  return repository
}

/** A git boolean: what git-config(1) takes for true; `fallback` when the key is not set. */
export function isTrue(value: string | undefined, fallback = false): boolean {
  if (value === undefined) return fallback
  return /^(true|yes|on|[1-9]\d*)$/i.test(value)
}

function parseConfig(bytes: Buffer): ReadonlyMap<string, string> {
  const config = new Map<string, string>()
  for (const entry of bytes.toString().split('\0')) {
    if (entry === '') continue
    const at = entry.indexOf('\n')
    // A key without a value means true.
    config.set(at === -1 ? entry : entry.slice(0, at), at === -1 ? 'true' : entry.slice(at + 1))
  }
  return config
}

async function collect(git: GitProcess): Promise<{ bytes: Buffer; text: string; code: number }> {
  const chunks: Buffer[] = []
  let length = 0
  for await (const chunk of git.stdout as AsyncIterable<Buffer>) {
    chunks.push(chunk)
    length += chunk.length
    if (length > MAX_OUTPUT) {
      git.stop()
      throw new TimoneError('internal', 'git printed more than 64 MiB where little was expected')
    }
  }
  const code = await git.done
  const bytes = Buffer.concat(chunks)
  return { bytes, text: bytes.toString(), code }
}

function startGit(args: readonly string[], base: RepositoryOptions, options: GitOptions): GitProcess {
  const { signal } = base
  if (signal?.aborted === true) throw interrupted()
  const child: ChildProcess = spawn('git', args, {
    cwd: options.cwd ?? base.cwd,
    // Messages in English: what git says is read below. Everything else is the user's.
    env: { ...base.env, LC_ALL: 'C', ...options.env },
    stdio: ['pipe', 'pipe', 'pipe'],
    windowsHide: true,
  })
  const { stdin, stdout, stderr } = child as { stdin: Writable; stdout: Readable; stderr: Readable }
  let said = ''
  let stopped = false
  stderr.on('data', (chunk: Buffer) => {
    if (said.length < 4096) said += chunk.toString()
  })
  // git that has ended does not read on: its exit code says why.
  stdin.on('error', () => {})
  const kill = () => child.kill()
  signal?.addEventListener('abort', kill, { once: true })
  const done = new Promise<number>((resolve, reject) => {
    child.once('error', (error) => {
      signal?.removeEventListener('abort', kill)
      const missing = (error as NodeJS.ErrnoException).code === 'ENOENT'
      const why = missing
        ? `git was not found: install it, or put its folder on PATH (or the folder ${base.cwd} is gone)`
        : `git could not be run: ${error.message}`
      reject(new TimoneError('config', why, { cause: error }))
    })
    child.once('close', (code, ended) => {
      signal?.removeEventListener('abort', kill)
      if (signal?.aborted === true) reject(interrupted())
      else if (stopped) resolve(0)
      else if (code !== null && (options.accepted ?? [0]).includes(code)) resolve(code)
      else reject(failure(args, base, said, code === null ? `ended by ${ended}` : `exit code ${code}`))
    })
  })
  // Whoever reads the output asks for `done` only afterwards: no unhandled rejection until then.
  done.catch(() => {})
  return {
    stdin,
    stdout,
    done,
    stop() {
      stopped = true
      child.kill()
      stdout.destroy()
    },
  }
}

const interrupted = () => new TimoneError('cancelled', 'interrupted')

function failure(
  args: readonly string[],
  base: RepositoryOptions,
  said: string,
  ending: string,
): TimoneError {
  const line = said.split('\n').find((text) => /^(fatal|error): /.test(text)) ?? said.split('\n')[0] ?? ''
  const complaint = line.replace(/^(fatal|error|warning): /, '')
  if (complaint.startsWith('not a git repository')) {
    return new TimoneError(
      'config',
      `${base.cwd} is not in a git repository: go into one, or make one with git init`,
    )
  }
  return new TimoneError('config', `git ${args[0]}: ${complaint === '' ? ending : complaint}`)
}
