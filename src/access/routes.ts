import { type Context, Hono } from 'hono'
import * as z from 'zod/mini'
import type { Principal, TokenUse } from '../auth/principal.ts'
import { TimoneError } from '../errors.ts'
import { parseOid } from '../oid.ts'
import { parseRepository, type Repository } from '../repository.ts'
import type { Gate } from './authorize.ts'
import type { Broker } from './broker.ts'
import type { Operation } from './credentials.ts'
import type { ObjectName } from './object-location.ts'
import { type RouteEnv, readJson } from './route-env.ts'
import { parseCompletion, parseTransferRequest, type Transfers } from './transfers.ts'

/** Each answer here opens the store: no cache may keep it (RFC 9111, section 5.2.2.5). */
const SECRET = { 'Cache-Control': 'no-store' }

const CredentialsRequest = z.object({ operation: z.enum(['upload', 'download']) })

/** `POST …/info/lfs/credentials`, `…/transfers`, `…/transfers/complete` and `…/transfers/abort`. */
export function accessRoutes(deps: {
  gate: Gate
  broker: Broker
  transfers: Transfers
  /** Told of each object that a completed upload has made appear. @throws {TimoneError} `quota_exceeded` */
  stored: (name: ObjectName) => Promise<void>
}): Hono<RouteEnv> {
  const { gate, broker, transfers, stored } = deps
  const app = new Hono<RouteEnv>()

  /** The repository of the request's path, and who asks: decided before the body is looked at. */
  const enter = async (
    c: Context<RouteEnv>,
    uses: readonly TokenUse[],
  ): Promise<{ repository: Repository; allow: (operation: Operation) => Principal }> => {
    const repository = parseRepository(c.req.param('org') ?? '', c.req.param('repo') ?? '')
    const known = await gate.identify(c.req.header('authorization'), repository, uses)
    c.set('subject', known?.subject)
    return { repository, allow: (operation) => gate.allow(known, repository, operation) }
  }

  app.post('/:org/:repo/info/lfs/credentials', async (c) => {
    const { repository, allow } = await enter(c, ['transfer', 'renew'])
    const { data } = CredentialsRequest.safeParse(await readJson(c.req))
    if (data === undefined) {
      throw new TimoneError(
        'invalid',
        'the request must be {"operation":"upload"} or {"operation":"download"}',
      )
    }
    const answer = await broker.credentials(allow(data.operation), repository, data.operation)
    return c.json(answer, 200, SECRET)
  })

  app.post('/:org/:repo/info/lfs/transfers', async (c) => {
    const { repository, allow } = await enter(c, ['transfer'])
    const request = parseTransferRequest(await readJson(c.req))
    return c.json(await transfers.start(allow(request.operation), repository, request), 200, SECRET)
  })

  app.post('/:org/:repo/info/lfs/transfers/complete', async (c) => {
    const { repository, allow } = await enter(c, ['verify'])
    allow('upload')
    const { name, uploadId } = parseCompletion(repository, new URL(c.req.url).searchParams)
    await transfers.complete(name, uploadId)
    await stored(name)
    return c.json({}, 200, SECRET)
  })

  app.post('/:org/:repo/info/lfs/transfers/abort', async (c) => {
    const { repository, allow } = await enter(c, ['transfer'])
    const { oid, size, upload_id } = parseTransferRequest(await readJson(c.req))
    allow('upload')
    if (upload_id === undefined) throw new TimoneError('invalid', 'the request must name an upload_id')
    await transfers.abort({ repository, oid: parseOid(oid), size }, upload_id)
    return c.json({}, 200, SECRET)
  })

  return app
}
