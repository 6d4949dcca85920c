import { execFileSync } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { appendFile, copyFile, mkdir, readFile, rm, writeFile } from 'node:fs/promises'
import { join, resolve } from 'node:path'
import { testS3 } from '../../test/helpers/s3.ts'
import {
  backendSettings,
  type RunningServer,
  run,
  startServer,
  TIMONE,
  World,
} from '../../test/helpers/world.ts'
import { emptyStore } from './bench-case.ts'
import { DATA_SETS, type DataFile, type DataSetName, writeCommit, writeDataSet } from './data-set.ts'
import { childrenCpu, ProcessWatch, type Taken } from './process-watch.ts'
import { startWan, type Wan } from './wan.ts'

/** Where the store is: on this machine, or at the other end of a long line. The server is near in both. */
export type Net = 'loopback' | 'wan'

/** What the line to the store is like. */
export interface LineOptions {
  /** Of a hundred packets lost, of a hundred connections stalled: see wan-proxy.ts. */
  loss: number
  stall: number
  tls: boolean
}

/** One measured run of one command. */
export interface Measured extends Taken {
  seconds: number
  /** CPU seconds of the command and everything it waited for: git, git-lfs, agents. */
  client: number
}

/** A data set as files and as a repository. */
export interface PreparedSet {
  files: DataFile[]
  bytes: number
  /** A repository that has the objects, and `main` with their pointers; its remote `origin` is empty. */
  work: string
  /** A bare repository with `main`. */
  origin: string
  /** A folder with the files themselves. */
  plain: string
}

/** No single command takes longer, ms. */
const PATIENCE = 1_800_000

/** Everything that the transfer cases share: servers, line, a user with and without the agent, repositories. */
export class Stage {
  readonly world: World
  readonly wan: Wan
  readonly servers: Record<Net, RunningServer>
  /** The user's environment with the agent installed, and without: then git-lfs transfers by itself, 8 at a time. */
  readonly env: { agent: NodeJS.ProcessEnv; plain: NodeJS.ProcessEnv }
  readonly token: string
  /** The certificate of the store, with TLS. */
  readonly ca: string | undefined
  /** Address of the store without the line. */
  readonly s3Url: string
  readonly #prefix: string
  readonly #sets = new Map<DataSetName, PreparedSet>()
  readonly #seeded = new Set<DataSetName>()
  #clones = 0

  private constructor(parts: {
    world: World
    wan: Wan
    servers: Record<Net, RunningServer>
    token: string
    prefix: string
    ca: string | undefined
    s3Url: string
  }) {
    this.world = parts.world
    this.wan = parts.wan
    this.servers = parts.servers
    this.token = parts.token
    this.ca = parts.ca
    this.s3Url = parts.s3Url
    this.#prefix = parts.prefix
    this.env = {
      agent: parts.world.env,
      plain: { ...parts.world.env, GIT_CONFIG_GLOBAL: parts.world.path('home', 'without-agent') },
    }
  }

  static async open(line: LineOptions): Promise<Stage> {
    const world = await World.create()
    const s3 = testS3()
    const certificates = line.tls ? await makeCertificate(world.path('tls')) : undefined
    const ca = certificates === undefined ? undefined : join(certificates, 'cert.pem')
    const wan = await startWan({
      target: new URL(s3.url).host,
      loss: line.loss,
      stall: line.stall,
      tls: certificates,
    })
    const data = (net: Net): string => world.path(`data-${net}`)
    const scheme = line.tls ? 'https' : 'http'
    const s3Url = wan.tlsPort === undefined ? s3.url : `https://127.0.0.1:${wan.tlsPort}`
    const settings: NodeJS.ProcessEnv = {
      ...backendSettings('s3-sts', data('loopback')),
      TIMONE_STORAGE_S3_STS_URL: s3.url,
      TIMONE_STORAGE_S3_URL: s3Url,
      TIMONE_LOG_LEVEL: 'warn',
      ...(ca === undefined ? {} : { NODE_EXTRA_CA_CERTS: ca }),
    }
    const servers = {
      loopback: await startServer(data('loopback'), settings),
      wan: await startServer(data('wan'), {
        ...settings,
        TIMONE_STORAGE_S3_URL: `${scheme}://127.0.0.1:${wan.port}`,
        NEXT_TO_STORE: `${wan.port}:${new URL(s3Url).port}`,
        NODE_OPTIONS: `--import=${resolve('scripts/bench-cases/next-to-store.ts')}`,
      }),
    }
    const token = await world.signIn(servers.loopback)
    await appendFile(world.path('home', 'credentials'), `http://ada:${token}@127.0.0.1:${servers.wan.port}\n`)
    const global = (...args: string[]): Promise<string> =>
      world.git(world.folder, 'config', '--global', ...args)
    await global('lfs.concurrenttransfers', '8')
    await global('lfs.locksverify', 'false')
    await global('gc.auto', '0')
    if (ca !== undefined) await global('http.sslCAInfo', ca)
    await copyFile(world.path('home', '.gitconfig'), world.path('home', 'without-agent'))
    await world.install()
    const stage = new Stage({
      world,
      wan,
      servers,
      token,
      prefix: settings.TIMONE_STORAGE_S3_PREFIX as string,
      ca,
      s3Url,
    })
    await stage.trust(servers.wan)
    return stage
  }

  /** Signs the user in to a further server. */
  async trust(server: RunningServer): Promise<void> {
    const line = `http://ada:${this.token}@127.0.0.1:${server.port}\n`
    await appendFile(this.world.path('home', 'credentials'), line)
  }

  /** The data set on this disk. Only one is kept: it and its copy in the store would fill the memory. */
  async dataSet(set: DataSetName): Promise<PreparedSet> {
    const there = this.#sets.get(set)
    if (there !== undefined) return there
    for (const other of this.#sets.keys()) {
      await rm(this.world.path(other), { recursive: true, force: true })
      if (this.#seeded.has(other)) await this.drop(`data/${other}`)
    }
    this.#sets.clear()
    this.#seeded.clear()
    process.stderr.write(`  making the data set ${set} (${DATA_SETS[set].length} files)\n`)
    const work = await this.makeRepository(set)
    const plain = this.world.path(set, 'plain')
    const files = await writeDataSet(set, work, plain)
    const prepared = {
      files,
      bytes: files.reduce((sum, { size }) => sum + size, 0),
      work,
      plain,
      origin: await this.commit(set, work, files),
    }
    this.#sets.set(set, prepared)
    return prepared
  }

  /** An empty repository with an empty `origin`, in a folder of that name. */
  async makeRepository(name: string): Promise<string> {
    const work = this.world.path(name, 'work')
    await this.world.git(this.world.folder, 'init', '-q', '--bare', this.world.path(name, 'empty.git'))
    await this.world.git(this.world.folder, 'init', '-q', work)
    await this.world.git(work, 'remote', 'add', 'origin', this.world.path(name, 'empty.git'))
    await copyFile(join(work, '.git/config'), join(work, '.git/config-without-url'))
    return work
  }

  /** Gives `work` a `main` with the pointers of `files`, and the path of a bare repository that has it too. */
  async commit(name: string, work: string, files: DataFile[]): Promise<string> {
    const stream = this.world.path(name, 'commit')
    await writeCommit(stream, files)
    execFileSync('git', ['fast-import', '--quiet', '--done'], {
      cwd: work,
      env: this.env.plain,
      input: await readFile(stream),
    })
    await rm(stream)
    const origin = this.world.path(name, 'origin.git')
    await this.world.git(this.world.folder, 'clone', '-q', '--bare', work, origin)
    return origin
  }

  /** Puts a data set into the store, once; gives the name of the repository that has it. */
  async seed(set: DataSetName): Promise<string> {
    const repository = `data/${set}`
    if (this.#seeded.has(set)) return repository
    const { work } = await this.dataSet(set)
    process.stderr.write(`  storing the data set ${set}\n`)
    await this.point(work, 'loopback', repository)
    await this.run('git', ['lfs', 'push', 'origin', 'main'], work, this.env.plain)
    this.#seeded.add(set)
    return repository
  }

  /** Makes `folder` use that repository of the server; whatever else was configured there is gone. */
  async point(folder: string, server: Net | RunningServer, repository: string): Promise<void> {
    const config = join(folder, '.git/config')
    await copyFile(join(folder, '.git/config-without-url'), config)
    const { url } = typeof server === 'string' ? this.servers[server] : server
    await appendFile(config, `[lfs]\n\turl = ${url}/${repository}/info/lfs\n`)
  }

  /** A new clone without its objects, its work tree full of pointers. */
  async clone(origin: string): Promise<string> {
    const folder = this.world.path(`clone-${this.#clones++}`)
    await run('git', ['clone', '-q', origin, folder], {
      cwd: this.world.folder,
      env: { ...this.env.plain, GIT_LFS_SKIP_SMUDGE: '1' },
    })
    await copyFile(join(folder, '.git/config'), join(folder, '.git/config-without-url'))
    return folder
  }

  /** A name that no repository on the server has had. */
  newRepository(): string {
    return `run/${randomBytes(6).toString('hex')}`
  }

  /** The keys of a repository begin with it. */
  prefix(repository: string): string {
    return `${this.#prefix}${repository}/`
  }

  /** Removes a repository's objects from the store. */
  async drop(repository: string): Promise<void> {
    await emptyStore(this.prefix(repository))
  }

  /** Whether this timone has the command: the commands are younger than the agent. */
  async hasCommand(name: string): Promise<boolean> {
    const help = await run(TIMONE, [name, '--help'], { cwd: this.world.folder, env: this.world.env })
    // Of an unknown command it tells the usage of timone itself.
    return help.stdout.startsWith(`Usage: timone ${name}`)
  }

  /** Runs a command to its end. @throws {Error} when it fails, with the end of what it printed. */
  async run(command: string, args: string[], cwd: string, env: NodeJS.ProcessEnv): Promise<void> {
    const { code, stdout, stderr } = await run(command, args, { cwd, env, timeout: PATIENCE })
    if (code === 0) return
    const ended = Object.entries(this.servers).flatMap(([net, server]) => {
      const { exitCode, signalCode } = server.process
      if (exitCode === null && signalCode === null) return []
      return [`\nthe server for ${net} had ended, ${signalCode ?? exitCode}: ${server.log().slice(-2000)}`]
    })
    const printed = `${stdout}${stderr}`.slice(-2000)
    throw new Error(`${command} ${args.join(' ')} exited with ${code}:\n${printed}${ended.join('')}`)
  }

  /** Runs a command and measures it. What others have written is on the disk before it starts. */
  async measure(command: string, args: string[], cwd: string, env: NodeJS.ProcessEnv): Promise<Measured> {
    execFileSync('sync')
    const watch = new ProcessWatch(this.world.path('home'))
    watch.start()
    const before = childrenCpu()
    const started = performance.now()
    try {
      await this.run(command, args, cwd, env)
    } catch (error) {
      await watch.stop()
      throw error
    }
    const seconds = (performance.now() - started) / 1000
    const taken = await watch.stop()
    return { seconds, client: childrenCpu() - before, ...taken }
  }

  /** Ends the servers and the line, and removes every file. */
  async close(): Promise<void> {
    await Promise.all(Object.values(this.servers).map((server) => server.stop()))
    await this.wan.close()
    await this.world.remove()
  }
}

/** A self-signed certificate for 127.0.0.1 in `folder`. */
async function makeCertificate(folder: string): Promise<string> {
  await mkdir(folder)
  await writeFile(join(folder, 'key.pem'), '', { mode: 0o600 })
  execFileSync(
    'openssl',
    'req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=127.0.0.1 -keyout key.pem -out cert.pem'
      .split(' ')
      .concat('-addext', 'subjectAltName=IP:127.0.0.1'),
    { cwd: folder, stdio: 'ignore' },
  )
  return folder
}
