import { type Context, Hono } from 'hono'
import type { Gate } from '../access/authorize.ts'
import { type RouteEnv, readJson } from '../access/route-env.ts'
import type { Principal, TokenUse } from '../auth/principal.ts'
import { parseRepository, repositoryName } from '../repository.ts'
import type { ObjectStore } from '../storage/object-store.ts'
import type { createBatch } from './batch.ts'
import type { Usage } from './usage.ts'
import { verifyObject } from './verify.ts'
import { LFS_MEDIA_TYPE, parseBatchRequest, parseVerifyRequest } from './wire.ts'

export interface LfsRoutesOptions {
  gate: Gate
  batch: ReturnType<typeof createBatch>
  store: ObjectStore
  usage: Usage
  /** The deployment's key prefix. */
  prefix: string
}

/** `POST …/info/lfs/objects/batch` and `…/objects/verify` (git-lfs `docs/api/batch.md`, `basic-transfers.md`). */
export function lfsRoutes({ gate, batch, store, usage, prefix }: LfsRoutesOptions): Hono<RouteEnv> {
  const app = new Hono<RouteEnv>()

  const enter = async (c: Context<RouteEnv>, uses: readonly TokenUse[]) => {
    const repository = parseRepository(c.req.param('org') ?? '', c.req.param('repo') ?? '')
    const known = await gate.identify(c.req.header('authorization'), repository, uses)
    c.set('subject', known?.subject)
    return { repository, known }
  }

  app.post('/:org/:repo/info/lfs/objects/batch', async (c) => {
    const { repository, known } = await enter(c, [])
    const request = parseBatchRequest(await readJson(c.req))
    const principal = gate.allow(known, repository, request.operation)
    const answer = await batch(principal, repository, request, c.req.raw.signal)
    return c.body(JSON.stringify(answer), 200, {
      'Content-Type': LFS_MEDIA_TYPE,
      'Cache-Control': 'no-store',
    })
  })

  app.post('/:org/:repo/info/lfs/objects/verify', async (c) => {
    // The right to read is enough, and a public repository needs no token: it tells no more than Batch does.
    const { repository, known } = await enter(c, ['verify'])
    const object = parseVerifyRequest(await readJson(c.req))
    await verifyObject(store, prefix, { repository, ...object })
    if (usage.quota > 0 && mayCount(known)) await usage.count(repositoryName(repository), object)
    return c.body('{}', 200, { 'Content-Type': LFS_MEDIA_TYPE })
  })

  return app
}

/** Who may only read asks what is there, and adds nothing. */
function mayCount(known: Principal | undefined): boolean {
  return known?.use === 'verify'
}
