import type { IncomingMessage, ServerResponse } from 'node:http'
import { getRequestListener } from '@hono/node-server'
import { Gate } from '../access/authorize.ts'
import { Broker, type LeaseOf } from '../access/broker.ts'
import { fileSignerSource, type ObjectName, type S3Site, s3SignerSource } from '../access/object-location.ts'
import { RateLimit } from '../access/rate-limit.ts'
import { RoleSessions } from '../access/role-sessions.ts'
import { SignedUrls } from '../access/signed-urls.ts'
import type { AssumeRole } from '../access/sts.ts'
import { Transfers } from '../access/transfers.ts'
import { authenticate, basicPassword } from '../auth/authenticate.ts'
import { Tokens } from '../auth/tokens.ts'
import type { Database } from '../database/connect.ts'
import { TimoneError } from '../errors.ts'
import { GithubUsers, type GithubUsersOptions } from '../identity/github-users.ts'
import { createIdentity, type IdentitySettings } from '../identity/identity.ts'
import type { TrustRule } from '../identity/trust-rules.ts'
import { createLeases, type LeaseSettings, STS } from '../leases/leases.ts'
import { createBatch } from '../lfs/batch.ts'
import { LockStore } from '../lfs/lock-store.ts'
import { Presence } from '../lfs/presence.ts'
import { Usage } from '../lfs/usage.ts'
import type { Logger } from '../log.ts'
import { repositoryName } from '../repository.ts'
import type { ObjectStore } from '../storage/object-store.ts'
import { createApp } from './app.ts'
import { ClientAddresses } from './client-address.ts'
import { drain } from './drain.ts'
import { type Problem, problemBody, problemOf, problemType } from './error-response.ts'
import { createReadiness } from './health.ts'
import { LoadGate, type LoadLimits } from './load-gate.ts'
import { errorFields } from './logger.ts'
import { createMetrics } from './metrics.ts'
import { admitToMetrics } from './metrics-route.ts'
import { createObjectRoute, isObjectPath } from './object-route.ts'
import { announcedLength, readBody } from './read-body.ts'
import { createAppRoutes, createRemoteStorage, type RemoteStorageOptions } from './remotestorage.ts'
import { type RequestRecord, recordRequest } from './request-record.ts'
import { parseTarget } from './request-target.ts'
import { setStorageHeaders } from './storage-headers.ts'
import { originCheck } from './storage-origin.ts'
import { isStorageTarget, rawPath } from './storage-route.ts'

export interface HandlerOptions {
  store: ObjectStore
  database: Database
  /** Public URL, without a slash at its end. */
  url: string
  tokenSecret: string
  /** Fernet keys for what is secret in the database: the first encrypts, all decrypt. */
  secretKeys: readonly string[]
  requireScope: boolean
  /** How people sign in, and what they may do. */
  identity?: IdentitySettings | undefined
  /** `org/repo` or `org/*`. */
  publicRepositories: readonly string[]
  /** Seconds that signed URLs, tokens and credentials last. */
  objectExpiresIn: number
  /** Bytes that each repository may hold; 0: no bound. */
  quota: number
  /** How often each user may ask; 0: as often as they like. */
  requestsPerMinute: number
  /** Who sends it sees the metrics; undefined: programs of this machine do. */
  metricsToken?: string | undefined
  /** Addresses and networks of proxies that are believed where a request came from; none unless said otherwise. */
  trustedProxies?: readonly string[] | undefined
  /** The bucket behind an S3 store, and how to get credentials that open parts of it. */
  s3?: { site: S3Site; sts?: { assumeRole: AssumeRole; roleArn: string } } | undefined
  /** Present: tokens of GitHub are taken for these repositories. */
  githubUsers?: Pick<GithubUsersOptions, 'apiUrl' | 'repositories'> | undefined
  /** Whose identity tokens are exchanged; none: nobody's. */
  trust?: readonly TrustRule[]
  /** Whose credentials are handed out beside those of the store. */
  leases?: LeaseSettings | undefined
  /** Called after users were changed by request. */
  usersChanged?: (() => void) | undefined
  /** Storage of users for their apps; undefined: there is none. */
  remoteStorage?: RemoteStorageOptions | undefined
  logger: Logger
  /** What is worked on at once on JSON routes. */
  load?: LoadLimits
  /** Milliseconds since the epoch. */
  now?: () => number
}

const LOAD: LoadLimits = { requests: 512, bytes: 128 * 2 ** 20 }
/** For those who did not sign in: they can get in each other's way only. */
const LOAD_OF_STRANGERS: LoadLimits = { requests: 128, bytes: 32 * 2 ** 20 }

/** Answers every request of node:http; never throws. */
export type Handler = (request: IncomingMessage, response: ServerResponse) => void

/** Puts the rooms together, and sends each request to the bytes of objects or to the app. */
export function createHandler(
  options: HandlerOptions,
  limits: { body: number; idle: number; answer: number },
): Handler {
  const { store, url, logger, now = Date.now } = options
  const report = (error: unknown, problem: Problem, record: RequestRecord): void => {
    const level = problem.status >= 500 ? 'error' : problem.status === 429 ? 'warn' : 'debug'
    logger[level]({ request_id: record.id, ...errorFields(error) }, 'request failed')
  }
  const urls = new SignedUrls({ url, secret: options.tokenSecret, now })
  const identity = createIdentity({ ...options, ...options.identity, db: options.database.db, now })
  const tokens = new Tokens({
    secret: options.tokenSecret,
    issuer: url,
    requireScope: options.requireScope,
    issued: identity.check,
    now,
  })
  const github =
    (options.githubUsers?.repositories.length ?? 0) === 0
      ? undefined
      : new GithubUsers({ ...(options.githubUsers as GithubUsersOptions), now })
  const sessions = roleSessionsOf(options)
  const leases = createLeases({ ...options, ...options.leases, sts: sessions, tokens, now })
  const lease: LeaseOf = (key) => leases.broker.lease({ ...key, source: STS })
  leases.keepAlive(({ source, error }) =>
    logger.warn({ source, ...errorFields(error) }, 'cannot renew a lease'),
  )
  const app = createApp({
    ...buildRooms(options, urls, tokens, now, github, sessions && { sessions, lease }),
    apps:
      options.remoteStorage &&
      createAppRoutes(identity, {
        ...{ url, storageUrl: options.remoteStorage.origin ?? url, db: options.database.db, now },
        signIn: options.identity?.login !== undefined,
      }),
    identity: identity.routes(tokens, leases.connections),
    leases: leases.routes(),
    ready: createReadiness(
      { storage: store, database: options.database },
      { report: (check, error) => logger.warn({ check, ...errorFields(error) }, 'not ready'), now },
    ),
    report,
  })
  const metrics = createMetrics()
  const addresses = new ClientAddresses(options.trustedProxies ?? [])
  const records = new WeakMap<IncomingMessage, RequestRecord>()
  const answerApp = getRequestListener(
    async (request, env) => {
      const answer = await app.fetch(request, { record: records.get(env.incoming as IncomingMessage) })
      limitReader(env.outgoing as ServerResponse, limits)
      return answer
    },
    { hostname: 'localhost' },
  )
  const answerObject = createObjectRoute({ store, urls, idleTimeout: limits.idle })
  const prefix = options.s3?.site.prefix ?? ''
  const answerStorage =
    options.remoteStorage &&
    createRemoteStorage(options.remoteStorage, {
      ...{ database: options.database, store, prefix, url, now },
      idleTimeout: limits.idle,
      warn: (error) => logger.warn(errorFields(error), 'cannot tidy up the storage of users'),
    })
  const isAtItsOrigin = originCheck(options.remoteStorage?.origin)
  const users = new LoadGate(options.load ?? LOAD)
  const strangers = new LoadGate(LOAD_OF_STRANGERS)
  /** Decided before a byte of the body is read, so that only who signed in can use up what is there for them. */
  const mayBring = async (request: IncomingMessage): Promise<LoadGate> => {
    if (announcedLength(request) === 0) return users
    const { authorization } = request.headers
    // Asking their issuer takes longer than reading a body: until then they are strangers.
    if (github?.isToken(basicPassword(authorization) ?? '')) return strangers
    const principal = await authenticate(authorization, tokens)
    return principal === undefined ? strangers : users
  }
  const receive = async (request: IncomingMessage, response: ServerResponse): Promise<Buffer> => {
    const visit = (await mayBring(request)).enter()
    response.once('close', visit.leave)
    try {
      const body = await readBody(request, { limit: limits.body, take: visit.take })
      if (response.destroyed) throw new TimoneError('cancelled', 'the client has gone')
      visit.start()
      return body
    } catch (error) {
      visit.leave()
      throw error
    }
  }

  const answerMetrics = async (
    request: IncomingMessage,
    response: ServerResponse,
    record: RequestRecord,
  ): Promise<void> => {
    const { headers, socket } = request
    admitToMetrics(options.metricsToken, { peer: socket.remoteAddress, headers })
    const { type, text } = await metrics.print()
    const length = Buffer.byteLength(text)
    const head = { 'Content-Type': type, 'Content-Length': length, 'X-Request-Id': record.id }
    response.writeHead(200, { ...head, 'Cache-Control': 'no-store' }).end(text)
  }

  return (request, response) => {
    const raw = request.url ?? ''
    const isStorage = answerStorage !== undefined && isStorageTarget(raw)
    // The storage reads its path itself: a name may be what other routes refuse, and folders end with a slash.
    const target = isStorage ? { path: rawPath(raw), query: new URLSearchParams() } : parseTarget(raw)
    const record = recordRequest(logger, request, response, target, addresses)
    metrics.observe(request, response, target)
    const fail = (error: unknown): void => {
      const problem = problemOf(error, target?.path)
      report(error, problem, record)
      drain(request, response)
      sendProblem(response, problem, record)
    }
    if (target === undefined) return fail(new TimoneError('not_found', 'not found'))
    if (isStorage) setStorageHeaders(request, response)
    if (!isAtItsOrigin(request, isStorage)) return fail(new TimoneError('not_found', 'not found'))
    if (isStorage) {
      response.setHeader('X-Request-Id', record.id)
      answerStorage(request, response, { path: target.path, source: record.address }).catch(
        (error: unknown) => {
          if (!response.destroyed) fail(error)
        },
      )
      return
    }
    if (isObjectPath(target.path)) {
      response.setHeader('X-Request-Id', record.id)
      answerObject(request, response, target).catch((error: unknown) => {
        // A client that has gone is no failure, and there is nobody to tell.
        if (!response.destroyed) fail(error)
        else if (error instanceof TimoneError && !LEFT.has(error.code))
          report(error, problemOf(error), record)
      })
      return
    }
    if (target.path === '/metrics' && request.method === 'GET') {
      answerMetrics(request, response, record).catch(fail)
      return
    }
    records.set(request, record)
    receive(request, response).then(
      // Where @hono/node-server looks for a body that was read already.
      (rawBody) => answerApp(Object.assign(request, { rawBody }), response),
      (error: unknown) => {
        if (!response.destroyed) fail(error)
      },
    )
  }
}

/** What a store says of a body whose sender has left. */
const LEFT: ReadonlySet<string> = new Set(['connection', 'cancelled'])

/** Cuts off a client that does not take its answer, which is held in memory until then. */
function limitReader(response: ServerResponse, limits: { idle: number; answer: number }): void {
  if (response.destroyed) return
  response.socket?.setTimeout(limits.idle)
  // Also one that sends a byte now and then to look alive.
  const timer = setTimeout(() => response.destroy(), limits.answer)
  response.once('close', () => clearTimeout(timer))
}

function roleSessionsOf({ s3, objectExpiresIn: expiresIn }: HandlerOptions): RoleSessions | undefined {
  return s3?.sts && new RoleSessions({ site: s3.site, ...s3.sts, expiresIn })
}

function buildRooms(
  options: HandlerOptions,
  urls: SignedUrls,
  tokens: Tokens,
  now: () => number,
  foreign: GithubUsers | undefined,
  shared: { sessions: RoleSessions; lease: LeaseOf } | undefined,
) {
  const { store, url, objectExpiresIn: expiresIn, publicRepositories, s3 } = options
  const prefix = s3?.site.prefix ?? ''
  const prepareSigner =
    s3 === undefined
      ? fileSignerSource(urls, { expiresIn, now })
      : s3SignerSource(s3.site, { expiresIn, now })
  const presence = new Presence({ store, now })
  const sts = s3 === undefined || shared === undefined ? {} : { sts: { site: s3.site, ...shared } }
  const usage = new Usage({ db: options.database.db, quota: options.quota, now })
  const rateLimit = new RateLimit(options.requestsPerMinute, now)
  const stored = async ({ repository, oid, size }: ObjectName): Promise<void> => {
    if (usage.quota > 0) await usage.count(repositoryName(repository), { oid, size })
  }
  return {
    gate: new Gate({ tokens, publicRepositories, rateLimit, now, foreign }),
    usage,
    stored,
    locks: new LockStore(options.database.db, now),
    store,
    prefix,
    batch: createBatch({ presence, prefix, prepareSigner, usage, tokens, url, expiresIn, now }),
    broker: new Broker({ tokens, url, expiresIn, now, ...sts }),
    transfers: new Transfers({ store, prefix, prepareSigner, tokens, url, now }),
  }
}

function sendProblem(response: ServerResponse, problem: Problem, record: RequestRecord): void {
  if (response.headersSent) {
    // Too late to say so: a short body tells the client that something is wrong.
    response.destroy()
    return
  }
  const body = problemBody(problem, record.id, record.path)
  for (const name of ['ETag', 'Accept-Ranges', 'Cache-Control']) response.removeHeader(name)
  response
    .writeHead(problem.status, {
      ...problem.headers,
      'Content-Type': problemType(record.path),
      'Content-Length': Buffer.byteLength(body),
      'X-Request-Id': record.id,
    })
    .end(body)
}
