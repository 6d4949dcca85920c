import { type Context, Hono } from 'hono'
import type { Gate } from '../access/authorize.ts'
import { type RouteEnv, readJson } from '../access/route-env.ts'
import type { Principal } from '../auth/principal.ts'
import { isTimoneError, TimoneError } from '../errors.ts'
import { parseRepository, repositoryName } from '../repository.ts'
import type { Lock, LockPage, LockStore } from './lock-store.ts'
import {
  parseListRequest,
  parseLockRequest,
  parseLocksVerifyRequest,
  parseUnlockRequest,
  type WireLock,
} from './lock-wire.ts'
import { LFS_MEDIA_TYPE } from './wire.ts'

export interface LockRoutesOptions {
  gate: Gate
  locks: LockStore
}

/** `GET` and `POST …/info/lfs/locks`, `POST …/locks/verify` and `…/locks/{id}/unlock` (git-lfs `docs/api/locking.md`). */
export function lockRoutes({ gate, locks }: LockRoutesOptions): Hono<RouteEnv> {
  const app = new Hono<RouteEnv>()

  /** Locks name people, so also a public repository shows them only to who has signed in. */
  const enter = async (
    c: Context<RouteEnv>,
    right: 'read' | 'write',
  ): Promise<{ repository: string; principal: Principal }> => {
    const repository = parseRepository(c.req.param('org') ?? '', c.req.param('repo') ?? '')
    const known = await gate.identify(c.req.header('authorization'), repository)
    c.set('subject', known?.subject)
    if (known === undefined) throw new TimoneError('unauthorized', 'sign in to see or take locks')
    const principal = right === 'write' ? gate.allow(known, repository, 'upload') : known
    return { repository: repositoryName(repository), principal }
  }

  const answer = (c: Context<RouteEnv>, status: 200 | 201 | 409, body: object): Response =>
    c.body(JSON.stringify(body), status, { 'Content-Type': LFS_MEDIA_TYPE, 'Cache-Control': 'no-store' })

  app.get('/:org/:repo/info/lfs/locks', async (c) => {
    const { repository } = await enter(c, 'read')
    const page = await locks.list(
      repository,
      parseListRequest((name) => c.req.query(name)),
    )
    return answer(c, 200, { locks: page.locks.map(toWire), ...nextCursor(page) })
  })

  app.post('/:org/:repo/info/lfs/locks', async (c) => {
    const { repository, principal } = await enter(c, 'write')
    const { path } = parseLockRequest(await readJson(c.req))
    const { created, lock } = await locks.create(repository, path, ownerOf(principal))
    // No message with a lock that was made: git-lfs takes any for a failure (locking/locks.go).
    if (created) return answer(c, 201, { lock: toWire(lock) })
    const message = inTheWay(lock, path, principal.subject)
    return answer(c, 409, { lock: toWire(lock), message, request_id: c.get('requestId') })
  })

  app.post('/:org/:repo/info/lfs/locks/verify', async (c) => {
    const { repository, principal } = await enter(c, 'write').catch((error: unknown) => {
      // A 404 makes git-lfs write locksverify=false into the clone, for good (commands/lockverifier.go).
      if (!isTimoneError(error, 'not_found')) throw error
      throw new TimoneError('forbidden', 'no such repository, or you may not read it', { cause: error })
    })
    const page = await locks.list(repository, parseLocksVerifyRequest(await readJson(c.req)))
    const ours = page.locks.filter((lock) => lock.owner_subject === principal.subject)
    const theirs = page.locks.filter((lock) => lock.owner_subject !== principal.subject)
    return answer(c, 200, { ours: ours.map(toWire), theirs: theirs.map(toWire), ...nextCursor(page) })
  })

  app.post('/:org/:repo/info/lfs/locks/:id/unlock', async (c) => {
    const { repository, principal } = await enter(c, 'write')
    const { force } = parseUnlockRequest(await readJson(c.req))
    const removed = await locks.remove(repository, c.req.param('id'), principal.subject, force)
    return answer(c, 200, { lock: toWire(removed) })
  })

  return app
}

function ownerOf({ subject }: Principal): { subject: string; name: string } {
  return { subject, name: subject }
}

function toWire(lock: Lock): WireLock {
  return { id: lock.id, path: lock.path, locked_at: lock.locked_at, owner: { name: lock.owner_name } }
}

/** On the last page there is none: git-lfs asks on for as long as it gets one. */
function nextCursor({ next }: LockPage): { next_cursor?: string } {
  return next === undefined ? {} : { next_cursor: next }
}

function inTheWay(lock: Lock, asked: string, subject: string): string {
  const owner = lock.owner_subject === subject ? 'you' : lock.owner_name
  const held = `${lock.path} is already locked by ${owner} since ${lock.locked_at}`
  return lock.path === asked ? held : `${held}, and ${asked} is the same file on Windows or macOS`
}
