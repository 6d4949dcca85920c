import type { Writable } from 'node:stream'
import { setFlagsFromString } from 'node:v8'
import { createAssumeRole, createStsClient, serverKeys } from '../access/sts.ts'
import { SecretBox } from '../auth/secret-box.ts'
import { loadSettings } from '../config/load-settings.ts'
import type { S3StorageSettings, ServerSettings } from '../config/server-settings.ts'
import { connect, type Database } from '../database/connect.ts'
import { watchDatabase } from '../database/watch.ts'
import { isTimoneError, systemCode, TimoneError } from '../errors.ts'
import { checkGrant } from '../identity/grants.ts'
import type { IdentitySettings } from '../identity/identity.ts'
import { checkTrustRules } from '../identity/trust-rules.ts'
import { checkSealingKeys } from '../leases/sealing.ts'
import type { Logger } from '../log.ts'
import type { HandlerOptions } from '../server/handler.ts'
import { createLogger, errorFields } from '../server/logger.ts'
import { createServer, type TimoneServer } from '../server/server.ts'
import { createFileStore } from '../storage/file-store.ts'
import type { ObjectStore } from '../storage/object-store.ts'
import { openLeases } from './open-leases.ts'
import { openBucketStore } from './open-store.ts'
import { type IdentService, startIdent } from './serve-ident.ts'

export interface ServeOptions {
  listen?: string
  data?: string
  /** Path of the TOML file. */
  config?: string
  insecure?: boolean
}

/** What a command talks to; the process's own, or a test's. */
export interface ServeIo {
  stdout: Writable
  stderr: Writable
  env: Readonly<Record<string, string | undefined>>
  cwd: string
}

const DAY = 24 * 3600 * 1000

/** Exit code when database or broker cannot be reached at the start, or are lost: for the monitor that starts us again. */
const LOST = 129
/** Milliseconds between looks at the database, and for which it may be away: 129 is to come within 10 s. */
const WATCH = { every: 1_500, patience: 5_000 }
/** Milliseconds that requests under way have once database or broker are lost. */
const LOST_GRACE = 2_000

/**
 * `timone serve`: runs until SIGTERM (exit code 0) or SIGINT (130), then lets the requests under way end. A second
 * signal ends it at once. Gives the exit code; 1 when it could not listen, 129 without its database or broker.
 * @throws {TimoneError} `config` for settings that must be put right first.
 */
export async function serve(options: ServeOptions, io: ServeIo): Promise<number> {
  // V8 lets the space for new objects grow to 64 MiB under load and keeps it. Streams leave small garbage, which
  // is collected just as well from the space that it begins with.
  setFlagsFromString('--semi-space-growth-factor=1')
  const { listen, data, insecure } = options
  const { settings, warnings, inForce } = await loadSettings({
    flags: { listen, data, insecure },
    configFile: options.config,
    env: io.env,
    cwd: io.cwd,
  })
  const logger = createLogger({ level: settings.logLevel, destination: io.stderr })
  for (const warning of warnings) logger.warn({}, warning)
  const box = new SecretBox(settings.secretKeys)
  checkTrustRules(settings.trust)
  const identity = identitySettings(settings)
  const database = await openDatabase(settings.databaseUrl, io)
  if (database === undefined) return LOST
  await checkKeys(database, box)
  const storage = await openStorage(settings, logger)
  let ident: IdentService | undefined
  const server = createServer({
    ...storage,
    database,
    // Port 0: the address is only known when we listen on it.
    url: settings.listen.port === 0 ? undefined : settings.url,
    tokenSecret: settings.tokenSecret,
    secretKeys: settings.secretKeys,
    requireScope: settings.requireScope,
    publicRepositories: settings.publicRepositories,
    objectExpiresIn: settings.objectExpiresIn,
    quota: settings.quota,
    trust: settings.trust,
    identity,
    githubUsers: { apiUrl: settings.github.api, repositories: settings.githubRepositories },
    requestsPerMinute: settings.requestsPerMinute,
    metricsToken: settings.metricsToken,
    trustedProxies: settings.trustedProxies,
    leases: await openLeases(settings),
    usersChanged: () => ident?.changed(),
    remoteStorage: settings.remoteStorage,
    logger,
  })
  const both = {
    close: async () => (await Promise.all([server.close(), ident?.close()]))[0],
    destroy: () => server.destroy(),
  }
  const stopped = waitForSignal(both, logger)
  const lose = (what: string) => (error: unknown) => {
    logger.error(errorFields(error), `${what} is lost: stopping`)
    stopped.stop(LOST)
    setTimeout(() => server.destroy(), LOST_GRACE).unref()
  }
  let address: string
  try {
    address = await server.listen(settings.listen)
  } catch (error) {
    io.stderr.write(`timone: ${cannotListen(error, settings)}\n`)
    storage.close()
    stopped.forget()
    await database.close()
    return 1
  }
  const url = settings.listen.port === 0 ? address : settings.url
  const secret = inForce.find(({ key }) => key === 'auth.token_secret')?.source.kind
  io.stdout.write(greeting(url, settings, secret === 'generated' || secret === 'default'))
  logger.info({ address, url, storage: settings.storage.driver }, 'listening')
  warnIfBroken(storage.store, logger)
  const unwatch = watchDatabase(database, { ...WATCH, lost: lose('the database') })
  ident = await startIdent({ settings, database, box, logger, lost: lose('the message broker') }, io)
  if (ident === undefined) stopped.stop(LOST)
  const code = await stopped.code
  unwatch()
  storage.close()
  await database.close()
  return code
}

/** @throws {TimoneError} `config` for a malformed grant */
function identitySettings({ login, signing, grants, providers }: ServerSettings): IdentitySettings {
  try {
    const signInProviders = providers.filter(({ signIn }) => signIn)
    return { login, signing, grants: grants.map(checkGrant), signInProviders }
  } catch (error) {
    throw new TimoneError('config', `grant: ${(error as Error).message}`)
  }
}

/** Undefined when it cannot be reached, which has then been said. @throws {TimoneError} `config` */
async function openDatabase(url: string, io: ServeIo): Promise<Database | undefined> {
  try {
    return await connect(url)
  } catch (error) {
    if (!isTimoneError(error, 'unavailable')) throw error
    io.stderr.write(`timone: ${error.message}\n`)
    return undefined
  }
}

/** @throws {TimoneError} `config` when secrets in the database were encrypted with a key that we do not have */
async function checkKeys(database: Database, box: SecretBox): Promise<void> {
  try {
    await checkSealingKeys(database.db, box)
  } catch (error) {
    await database.close()
    throw error
  }
}

type Storage = Pick<HandlerOptions, 's3'> & { store: ObjectStore; close: () => void }

async function openStorage({ storage }: ServerSettings, logger: Logger): Promise<Storage> {
  if (storage.driver === 's3') return openBucket(storage)
  const store = createFileStore(storage.root)
  const sweep = (): void => {
    store.sweep().then(
      (swept) => {
        if (swept > 0) logger.info({ swept }, 'removed what abandoned uploads left')
      },
      (error: unknown) => logger.warn(errorFields(error), 'cannot remove what abandoned uploads left'),
    )
  }
  sweep()
  const timer = setInterval(sweep, DAY)
  return { store, close: () => clearInterval(timer) }
}

async function openBucket(storage: S3StorageSettings): Promise<Storage> {
  const { region, credentials, prefix, roleArn } = storage
  const store = await openBucketStore(storage)
  const options = { region, url: storage.stsUrl, credentials }
  const client = createStsClient(options)
  const site = { ...store.location, prefix, keys: serverKeys(options, client) }
  const sts = roleArn === undefined ? {} : { sts: { assumeRole: createAssumeRole(roleArn, client), roleArn } }
  return { store, s3: { site, ...sts }, close: () => {} }
}

/** A store that is away now may be back when it is needed: say so, and go on. */
function warnIfBroken(store: ObjectStore, logger: Logger): void {
  store.check({ signal: AbortSignal.timeout(10_000) }).catch((error: unknown) => {
    logger.warn(errorFields(error), 'the storage cannot be used yet')
  })
}

interface Ending {
  code: Promise<number>
  /** Lets the requests under way end, as a signal does. */
  stop: (exitCode: number) => void
  forget: () => void
}

function waitForSignal(server: Pick<TimoneServer, 'close' | 'destroy'>, logger: Logger): Ending {
  let forget = (): void => {}
  let stop = (_exitCode: number): void => {}
  const code = new Promise<number>((resolve) => {
    let stopping = false
    stop = (exitCode) => {
      stopping = true
      void server.close().then((clean) => {
        if (!clean) logger.warn({}, 'some requests took too long and were cut off')
        forget()
        resolve(exitCode)
      })
    }
    const obey = (name: NodeJS.Signals): void => {
      const exitCode = name === 'SIGINT' ? 130 : 0
      if (stopping) {
        logger.warn({ signal: name }, 'second signal: leaving at once')
        server.destroy()
        // Whatever the store is doing keeps the process alive otherwise.
        process.exit(exitCode)
      }
      logger.info({ signal: name }, 'stopping: no new requests, those under way end first')
      stop(exitCode)
    }
    forget = () => {
      process.off('SIGTERM', obey)
      process.off('SIGINT', obey)
    }
    process.on('SIGTERM', obey)
    process.on('SIGINT', obey)
  })
  return { code, stop, forget }
}

function cannotListen(error: unknown, { listen: { host, port } }: ServerSettings): string {
  const code = systemCode(error)
  if (code === 'EADDRINUSE') {
    return `${host}:${port} is in use: is timone running already? Choose another address with --listen HOST:PORT`
  }
  if (code === 'EACCES')
    return `${host}:${port} needs more rights: choose a port above 1023 with --listen HOST:PORT`
  const reason = isTimoneError(error) ? error.message : (code ?? String(error))
  return `cannot listen on ${host}:${port}: ${reason}`
}

function greeting(url: string, settings: ServerSettings, withHints: boolean): string {
  const { storage } = settings
  const where = storage.driver === 'file' ? storage.root : `bucket ${storage.bucket}`
  const said = `timone serves Git LFS at ${url} (objects in ${where})\n`
  if (!withHints) return said
  return `${said}
To let somebody in, make a token; it is their password, with their name as user:
  timone token create --user NAME --scope 'lfs:*:rw' --expires 30d --data ${quoted(settings.data)}
Once for each user, for fast and resumable transfers:
  timone install --global
In a repository that is to keep its large files here:
  timone init ${url}/ORG/REPO
`
}

function quoted(path: string): string {
  return /^[\w@%+=:,./-]+$/.test(path) ? path : `'${path.replaceAll("'", "'\\''")}'`
}
