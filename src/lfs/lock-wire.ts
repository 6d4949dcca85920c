import * as z from 'zod/mini'
import { TimoneError } from '../errors.ts'
import { parseLockPath } from './lock-path.ts'

/** Wire types of the Git LFS File Locking API (git-lfs `docs/api/locking.md`). No I/O in this file. */

/** A lock as clients see it. */
export interface WireLock {
  /** A string, and one that can stand in a path: git-lfs does not escape it (locking/api.go). */
  id: string
  path: string
  /** ISO 8601. */
  locked_at: string
  /** Always there: without it git-lfs crashes (commands/lockverifier.go). */
  owner: { name: string }
}

/** Which page of the locks is asked for. */
export interface PageRequest {
  /** Id of the last lock of the page before; undefined: the first page. */
  after: string | undefined
  /** Locks on a page. */
  limit: number
}

/** Locks on a page unless asked, and at most. */
const LIMIT = { usual: 100, most: 1000 }

/** What an id, and with it a cursor, looks like. */
const ID = /^[0-9a-f]{32}$/

// Rights do not depend on the ref, so nothing is done with it; it only must not be of another shape.
const Ref = z.nullish(z.object({ name: z.string('ref.name must be a string') }, 'ref must be {"name"}'))
const LockRequest = z.object({ path: z.string('path must be a string'), ref: Ref }, 'it must be an object')
const UnlockRequest = z.object(
  { force: z.nullish(z.boolean('force must be true or false')), ref: Ref },
  'it must be an object',
)
const VerifyRequest = z.object(
  {
    cursor: z.nullish(z.string('cursor must be a string')),
    limit: z.nullish(z.number('limit must be a number')),
    ref: Ref,
  },
  'it must be an object',
)

/** Checks the body of a request for a lock. @throws {TimoneError} `invalid` */
export function parseLockRequest(value: unknown): { path: string } {
  return { path: parseLockPath(parse(LockRequest, value).path) }
}

/** Checks the body of a request to give a lock back. @throws {TimoneError} `invalid` */
export function parseUnlockRequest(value: unknown): { force: boolean } {
  return { force: parse(UnlockRequest, value).force === true }
}

/** Checks the body of a request for the locks that matter to a push. @throws {TimoneError} `invalid` */
export function parseLocksVerifyRequest(value: unknown): PageRequest {
  const { cursor, limit } = parse(VerifyRequest, value)
  return { after: parseCursor(cursor ?? ''), limit: parseLimit(limit ?? 0) }
}

/** Checks the query of a request for a list; an empty value is none. @throws {TimoneError} `invalid` */
export function parseListRequest(
  query: (name: string) => string | undefined,
): PageRequest & { path: string | undefined; id: string | undefined } {
  const limit = query('limit') || '0'
  return {
    path: query('path') || undefined,
    id: query('id') || undefined,
    after: parseCursor(query('cursor') ?? ''),
    limit: parseLimit(/^\d{1,9}$/.test(limit) ? Number(limit) : Number.NaN),
  }
}

/** Can there be a lock of this id? */
export function isLockId(id: string): boolean {
  return ID.test(id)
}

function parse<T>(shape: z.ZodMiniType<T>, value: unknown): T {
  const { data, error } = shape.safeParse(value)
  if (error !== undefined)
    throw new TimoneError('invalid', `not a lock request: ${error.issues[0]?.message ?? 'wrong shape'}`)
  return data as T
}

function parseCursor(cursor: string): string | undefined {
  if (cursor === '') return undefined
  if (!isLockId(cursor)) throw new TimoneError('invalid', 'the cursor is not one that this server gave')
  return cursor
}

/** 0 is how clients written in Go may say that they do not care. */
function parseLimit(limit: number): number {
  if (!Number.isSafeInteger(limit) || limit < 0)
    throw new TimoneError('invalid', 'limit must be a whole number, 1 or more')
  return limit === 0 ? LIMIT.usual : Math.min(limit, LIMIT.most)
}
