import { Hono } from 'hono'
import type { Gate } from '../access/authorize.ts'
import type { Broker } from '../access/broker.ts'
import type { ObjectName } from '../access/object-location.ts'
import type { RouteEnv } from '../access/route-env.ts'
import { accessRoutes } from '../access/routes.ts'
import type { Transfers } from '../access/transfers.ts'
import { TimoneError } from '../errors.ts'
import type { IdentityEnv } from '../identity/identity-env.ts'
import { type LockRoutesOptions, lockRoutes } from '../lfs/lock-routes.ts'
import { type LfsRoutesOptions, lfsRoutes } from '../lfs/routes.ts'
import { VERSION } from '../version.ts'
import { type Problem, problemBody, problemOf, problemType } from './error-response.ts'
import type { Readiness } from './health.ts'
import type { RequestRecord } from './request-record.ts'

export interface AppEnv extends RouteEnv {
  Bindings: { record: RequestRecord }
}

export interface AppOptions extends LfsRoutesOptions, LockRoutesOptions {
  gate: Gate
  broker: Broker
  transfers: Transfers
  /** Routes of sign-in. */
  identity: Hono<IdentityEnv>
  stored: (name: ObjectName) => Promise<void>
  ready: () => Promise<Readiness>
  /** Routes that let apps into users' storage; undefined: there is none. */
  apps?: Hono<IdentityEnv> | undefined
  /** Routes of the lease broker. */
  leases: Hono<IdentityEnv>
  /** Told of each error before it is answered. */
  report: (error: unknown, problem: Problem, record: RequestRecord) => void
}

/** Types that a JSON body is certainly not sent as; anything else is read as JSON, whatever it is called. */
const NOT_JSON =
  /^\s*(multipart\/|image\/|audio\/|video\/|text\/html|application\/x-www-form-urlencoded|application\/xml)/i

/** All routes but the bytes of objects. Bodies are read, and found not too large, before they come here. */
export function createApp(options: AppOptions): Hono<AppEnv> {
  const app = new Hono<AppEnv>()

  app.use(async (c, next) => {
    const { record } = c.env
    c.set('requestId', record.id)
    c.set('subject', undefined)
    await next()
    record.subject = c.get('subject')
    c.res.headers.set('X-Request-Id', record.id)
  })

  app.get('/healthz', (c) => c.json({ status: 'ok', version: VERSION }, 200, { 'Cache-Control': 'no-store' }))

  app.get('/readyz', async (c) => {
    const { ready, ...checks } = await options.ready()
    const answer = { status: ready ? 'ok' : 'unavailable', checks }
    return c.json(answer, ready ? 200 : 503, { 'Cache-Control': 'no-store' })
  })

  app.use('/:org/:repo/info/lfs/*', async (c, next) => {
    if (NOT_JSON.test(c.req.header('content-type') ?? '')) {
      const message = 'the body must be JSON (Content-Type: application/vnd.git-lfs+json)'
      return c.body(problemBody({ message, code: 'invalid' }, c.env.record.id), 415, {
        'Content-Type': problemType(c.req.path),
      })
    }
    return next()
  })

  app.route('/', options.identity)
  if (options.apps !== undefined) app.route('/', options.apps)
  app.route('/', options.leases)
  app.route('/', lfsRoutes(options))
  app.route('/', lockRoutes(options))
  app.route('/', accessRoutes(options))

  app.notFound(() => {
    throw new TimoneError('not_found', 'not found')
  })

  app.onError((error, c) => {
    const { record } = c.env
    const problem = problemOf(error, c.req.path)
    record.subject = c.get('subject')
    options.report(error, problem, record)
    return new Response(problemBody(problem, record.id, c.req.path), {
      status: problem.status,
      headers: { ...problem.headers, 'Content-Type': problemType(c.req.path), 'X-Request-Id': record.id },
    })
  })

  return app
}
