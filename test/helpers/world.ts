import { type ChildProcess, spawn } from 'node:child_process'
import { createHash, randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { existsSync } from 'node:fs'
import { mkdir, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { dirname, join, resolve } from 'node:path'
import { testS3 } from './s3.ts'

/** The built program: end-to-end tests run what users run. TIMONE_TEST_PROGRAM names another one, as a standalone binary. */
export const TIMONE = resolve(process.env.TIMONE_TEST_PROGRAM ?? 'dist/timone.js')
export const TOKEN_SECRET = 'a secret for the end-to-end tests only'

export interface Ran {
  code: number | null
  stdout: string
  stderr: string
}

export interface RunOptions {
  cwd: string
  env?: NodeJS.ProcessEnv
  input?: string
  timeout?: number
}

/** Runs a program to its end; a run that does not end in time is killed and fails. */
export async function run(command: string, args: string[], options: RunOptions): Promise<Ran> {
  const child = spawn(command, args, { cwd: options.cwd, env: options.env ?? process.env })
  let stdout = ''
  let stderr = ''
  child.stdout.setEncoding('utf8').on('data', (text: string) => {
    stdout += text
  })
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    stderr += text
  })
  child.stdin.on('error', () => {})
  child.stdin.end(options.input ?? '')
  const limit = options.timeout ?? 120_000
  let late = false
  const timer = setTimeout(() => {
    late = true
    child.kill('SIGKILL')
  }, limit)
  const [code] = (await once(child, 'close')) as [number | null]
  clearTimeout(timer)
  if (late)
    throw new Error(`${command} ${args.join(' ')} did not end within ${limit} ms\n${stdout}\n${stderr}`)
  return { code, stdout, stderr }
}

/** A TCP port on loopback that was free a moment ago. */
export async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as { port: number }
  server.close()
  await once(server, 'close')
  return port
}

/** How the server under test stores: its embedded default, S3 with scoped credentials, or S3 with signed URLs. */
export type Backend = 'file' | 's3-sts' | 's3-url'

/** Settings of a server on `backend`; each call uses a key prefix of its own. */
export function backendSettings(backend: Backend, data: string): NodeJS.ProcessEnv {
  if (backend === 'file') return { TIMONE_STORAGE: 'file', TIMONE_STORAGE_FILE_ROOT: join(data, 'objects') }
  const s3 = testS3()
  return {
    TIMONE_STORAGE: 's3',
    TIMONE_STORAGE_S3_URL: s3.url,
    TIMONE_STORAGE_S3_REGION: s3.region,
    TIMONE_STORAGE_S3_BUCKET: s3.bucket,
    TIMONE_STORAGE_S3_KEY: s3.credentials.accessKeyId,
    TIMONE_STORAGE_S3_SECRET: s3.credentials.secretAccessKey,
    TIMONE_STORAGE_S3_PREFIX: s3.prefix,
    ...(backend === 's3-sts' ? { TIMONE_STORAGE_S3_ROLE_ARN: s3.roleArn } : {}),
  }
}

export interface RunningServer {
  url: string
  port: number
  process: ChildProcess
  /** Everything it logged so far. */
  log(): string
  stop(signal?: NodeJS.Signals): Promise<number | null>
}

/** Starts `timone serve` from the built program and waits until it is ready. */
export async function startServer(
  data: string,
  settings: NodeJS.ProcessEnv,
  options: { port?: number; path?: string } = {},
): Promise<RunningServer> {
  const port = options.port ?? (await freePort())
  const url = `http://127.0.0.1:${port}`
  const env = { PATH: options.path ?? process.env.PATH, TIMONE_TOKEN_SECRET: TOKEN_SECRET, ...settings }
  const child = spawn(TIMONE, ['serve', '--listen', `127.0.0.1:${port}`, '--data', data], {
    env,
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  let log = ''
  for (const stream of [child.stdout, child.stderr]) {
    stream.setEncoding('utf8').on('data', (text: string) => {
      log += text
    })
  }
  const deadline = Date.now() + 20_000
  for (;;) {
    const ready = await fetch(`${url}/readyz`).then(
      (answer) => answer.ok,
      () => false,
    )
    if (ready) break
    if (child.exitCode !== null || Date.now() > deadline) {
      child.kill('SIGKILL')
      throw new Error(`timone serve did not start:\n${log.slice(0, 3000)}`)
    }
    await new Promise((resolve) => setTimeout(resolve, 50))
  }
  return {
    url,
    port,
    process: child,
    log: () => log,
    stop: async (signal = 'SIGTERM') => {
      if (child.exitCode === null && child.signalCode === null) {
        const ended = once(child, 'exit')
        child.kill(signal)
        await ended
      }
      return child.exitCode
    },
  }
}

/** A user's machine: a home folder with git configured, and nothing of the real one. */
export class World {
  readonly folder: string
  readonly env: NodeJS.ProcessEnv

  private constructor(folder: string, env: NodeJS.ProcessEnv) {
    this.folder = folder
    this.env = env
  }

  /** `gitLfs` is the folder with the git-lfs to use; the system's otherwise. */
  static async create(options: { gitLfs?: string } = {}): Promise<World> {
    const folder = await mkdtemp(join(tmpdir(), 'timone-e2e-'))
    const home = join(folder, 'home')
    await mkdir(home)
    const path = options.gitLfs === undefined ? process.env.PATH : `${options.gitLfs}:${process.env.PATH}`
    const env: NodeJS.ProcessEnv = {
      PATH: path,
      HOME: home,
      XDG_CONFIG_HOME: join(home, '.config'),
      GIT_CONFIG_NOSYSTEM: '1',
      GIT_TERMINAL_PROMPT: '0',
      LC_ALL: 'C.UTF-8',
    }
    const world = new World(folder, env)
    await world.git(folder, 'config', '--global', 'user.name', 'Ada')
    await world.git(folder, 'config', '--global', 'user.email', 'ada@example.org')
    await world.git(folder, 'config', '--global', 'init.defaultBranch', 'main')
    await world.git(folder, 'config', '--global', 'protocol.file.allow', 'always')
    await world.git(
      folder,
      'config',
      '--global',
      'credential.helper',
      `store --file=${join(home, 'credentials')}`,
    )
    await world.git(folder, 'lfs', 'install', '--skip-repo')
    return world
  }

  path(...names: string[]): string {
    return join(this.folder, ...names)
  }

  /** Runs git and fails the test when git fails. */
  async git(cwd: string, ...args: string[]): Promise<string> {
    const ran = await this.tryGit(cwd, ...args)
    if (ran.code !== 0)
      throw new Error(`git ${args.join(' ')} exited with ${ran.code}\n${ran.stdout}\n${ran.stderr}`)
    return ran.stdout
  }

  tryGit(cwd: string, ...args: string[]): Promise<Ran> {
    return run('git', args, { cwd, env: this.env })
  }

  timone(cwd: string, ...args: string[]): Promise<Ran> {
    return run(TIMONE, args, { cwd, env: this.env })
  }

  /** Stores a token so that git's credential helper hands it to git-lfs. */
  async signIn(
    server: RunningServer,
    options: { user?: string; scope?: string; token?: string } = {},
  ): Promise<string> {
    const user = options.user ?? 'ada'
    let token = options.token
    if (token === undefined) {
      const scope = options.scope === undefined ? ['--scope', 'lfs:*:rw'] : ['--scope', options.scope]
      const made = await run(TIMONE, ['token', 'create', '--user', user, ...scope, '--expires', '1h'], {
        cwd: this.folder,
        env: { ...this.env, TIMONE_TOKEN_SECRET: TOKEN_SECRET, TIMONE_ENDPOINT_URL: server.url },
      })
      if (made.code !== 0) throw new Error(`timone token create failed: ${made.stderr}`)
      token = made.stdout.trim()
    }
    await writeFile(this.path('home', 'credentials'), `http://${user}:${token}@127.0.0.1:${server.port}\n`, {
      mode: 0o600,
    })
    return token
  }

  /** `timone install --global`: this user has the agent. */
  async install(): Promise<void> {
    const ran = await this.timone(this.folder, 'install', '--global')
    if (ran.code !== 0) throw new Error(`timone install failed: ${ran.stderr}`)
  }

  /** A bare origin and a clone of it (called `folder` where there are several) that tracks `*.bin` and names the server in a committed `.lfsconfig`. */
  async repository(
    server: RunningServer,
    name = 'org/repo',
    folder?: string,
  ): Promise<{ origin: string; work: string }> {
    const origin = this.path(`${folder ?? 'origin'}.git`)
    const work = this.path(folder ?? 'work')
    await this.git(this.folder, 'init', '-q', '--bare', origin)
    await this.git(this.folder, 'clone', '-q', origin, work)
    await this.git(work, 'lfs', 'track', '*.bin')
    await this.git(work, 'config', '-f', '.lfsconfig', 'lfs.url', `${server.url}/${name}/info/lfs`)
    await this.git(work, 'config', '-f', '.lfsconfig', 'lfs.locksverify', 'false')
    await this.commit(work, 'Track large files')
    return { origin, work }
  }

  async commit(work: string, message = 'Change files'): Promise<void> {
    await this.git(work, 'add', '-A')
    await this.git(work, 'commit', '-q', '-m', message)
  }

  async remove(): Promise<void> {
    await rm(this.folder, { recursive: true, force: true })
  }
}

/** Writes a file of `size` bytes that no other has, and gives its oid. */
export async function writeRandom(path: string, size: number): Promise<string> {
  await mkdir(dirname(path), { recursive: true })
  const content = randomBytes(size)
  await writeFile(path, content)
  return createHash('sha256').update(content).digest('hex')
}

/** SHA-256 of each `.bin` file under `folder`, by relative path. */
export async function hashTree(folder: string): Promise<Record<string, string>> {
  const hashes: Record<string, string> = {}
  for (const name of (await readdir(folder, { recursive: true })).sort()) {
    if (!name.endsWith('.bin') || name.startsWith('.git')) continue
    hashes[name] = createHash('sha256')
      .update(await readFile(join(folder, name)))
      .digest('hex')
  }
  return hashes
}

/** Path of an object in a clone's LFS storage. */
export function lfsObject(work: string, oid: string): string {
  return join(work, '.git/lfs/objects', oid.slice(0, 2), oid.slice(2, 4), oid)
}

/** True when the clone holds the object. */
export function hasObject(work: string, oid: string): boolean {
  return existsSync(lfsObject(work, oid))
}
