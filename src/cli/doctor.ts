import { tmpdir } from 'node:os'
import { GitEnvironment } from '../agent/git-environment.ts'
import { LfsConfig } from '../agent/lfs-config.ts'
import { remoteAddress } from '../agent/lfs-endpoint.ts'
import type { StandalonePlace } from '../agent/standalone-config.ts'
import type { PointerEntry } from '../git/pointer-entry.ts'
import { pointersOfTree } from '../git/scan.ts'
import { checkStandalone } from './doctor-bucket.ts'
import {
  checkCache,
  checkGit,
  checkGitLfs,
  checkInstall,
  checkRoom,
  checkSettings,
} from './doctor-machine.ts'
import { type Finding, failed, report, skip, warn } from './doctor-report.ts'
import { checkServer, type ServerToCheck } from './doctor-server.ts'
import { runGit } from './git.ts'
import type { Io } from './io.ts'
import { parseLfsAddress } from './lfs-address.ts'
import { defaultRemote, type LfsClone, openClone } from './lfs-clone.ts'
import { type LfsWay, type ServerEndpoint, wayTo } from './lfs-way.ts'

export interface DoctorOptions {
  /** `https://host/org/repo`; undefined: the server of the clone around the working folder. */
  readonly url?: string | undefined
  readonly json: boolean
}

/** Checks that need what another one found wanting. */
const OF_SERVER = ['server', 'clock', 'token', 'storage credentials', 'storage']

/**
 * `timone doctor`: looks at everything that a transfer needs, changes nothing and asks nobody. Gives 1 when something
 * is broken.
 * @throws {TimoneError} `config` for a malformed `url`, `cancelled`
 */
export async function doctor({ url, json }: DoctorOptions, io: Io): Promise<number> {
  const address = url === undefined ? undefined : parseLfsAddress(url)
  const git = await checkGit(io)
  if (git.status === 'fail') {
    const rest = ['git-lfs', 'install', 'settings', ...OF_SERVER, 'cache', 'disk space']
    return report([git, ...rest.map((name) => skip(name, 'not checked without git'))], json, io)
  }
  const environment = new GitEnvironment({ cwd: io.cwd, env: io.env })
  const [gitLfs, install, { finding, settings }] = await Promise.all([
    checkGitLfs(io),
    checkInstall(io, environment),
    checkSettings(environment),
  ])
  const server = await findServer(address, environment, io)
  const answers =
    'bucket' in server
      ? await checkStandalone(server, environment, io)
      : 'name' in server
        ? [server, ...OF_SERVER.slice(1).map((name) => skip(name, 'not checked without a server'))]
        : await checkServer(server, io)
  const storage = await environment.lfsStorage().catch(() => undefined)
  const room = await checkRoom([
    ...(storage === undefined ? [] : [{ folder: storage, what: 'objects', fix: 'git lfs prune' }]),
    ...(settings?.cacheDir === undefined
      ? []
      : [{ folder: settings.cacheDir, what: 'the cache', fix: 'timone cache prune --all' }]),
    ...(storage === undefined
      ? [{ folder: tmpdir(), what: 'temporary files', fix: `du -sh ${tmpdir()}` }]
      : []),
  ])
  const cache = await checkCache(settings)
  return report([git, gitLfs, install, finding, ...answers, cache, room], json, io)
}

/** Where objects are in standalone mode. */
type Bucket = Extract<StandalonePlace, { kind: 'bucket' }>

/** The server to look at, or the bucket, or why there is none. */
async function findServer(
  address: ReturnType<typeof parseLfsAddress> | undefined,
  git: GitEnvironment,
  io: Io,
): Promise<ServerToCheck | Bucket | Finding> {
  if (address !== undefined) {
    const endpoint = {
      kind: 'http' as const,
      url: new URL(address.url),
      login: undefined,
      foreign: false,
    }
    const config = new LfsConfig(await git.configEntries())
    return { git, config, endpoint, remoteUrl: undefined, sample: async () => undefined }
  }
  const name = 'server'
  const { code } = await runGit(['rev-parse', '--git-dir'], io)
  if (code !== 0)
    return skip(name, 'this is no clone: go into one, or name a server (timone doctor https://HOST/ORG/REPO)')
  try {
    const clone = await openClone(io, io.signal ?? new AbortController().signal)
    const remote = defaultRemote(clone, 'upload')
    const way = wayTo(clone.config, io.env, 'upload', remote)
    if (way.kind === 'git-lfs') {
      const fix = 'timone init https://HOST/ORG/REPO, to use a server'
      return warn(name, 'objects go where only git-lfs can reach', fix)
    }
    if (way.kind === 'standalone' && way.place.kind === 'bucket') return way.place
    return {
      git,
      config: clone.config,
      endpoint: endpointToCheck(way),
      remoteUrl: remoteAddress(clone.config, 'upload', remote),
      sample: () => firstPointer(clone),
    }
  } catch (error) {
    return failed(name, error, 'timone init https://HOST/ORG/REPO')
  }
}

/** In standalone mode the server that gives credentials, which is a whole server. */
function endpointToCheck(way: Exclude<LfsWay, { kind: 'git-lfs' }>): ServerEndpoint {
  if (way.kind === 'server') return way.endpoint
  if (way.place.kind !== 'server') throw new TypeError('a bucket is no server')
  return { kind: 'http', url: way.place.url, login: undefined, foreign: way.place.foreign }
}

/** Some object of what is checked out, for who may only read. */
async function firstPointer({ repository }: LfsClone): Promise<PointerEntry | undefined> {
  try {
    for await (const entry of pointersOfTree(repository, 'HEAD')) return entry
  } catch {
    // No commit yet, or one that cannot be read: then there is none.
  }
  return undefined
}
