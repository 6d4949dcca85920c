import { randomBytes } from 'node:crypto'
import type { Kysely, Selectable } from 'kysely'
import type { LfsLocksTable, Schema } from '../database/schema.ts'
import { TimoneError } from '../errors.ts'
import { lockPathKey } from './lock-path.ts'
import { isLockId, type PageRequest } from './lock-wire.ts'

export type Lock = Selectable<LfsLocksTable>

/** Who takes a lock. */
export interface LockOwner {
  subject: string
  name: string
}

/** One page of locks, oldest first. */
export interface LockPage {
  locks: Lock[]
  /** Id of the last one when there are more. */
  next: string | undefined
}

/** The locks of all repositories, by `org/repo`. All methods throw what the database throws. */
export class LockStore {
  readonly #db: Kysely<Schema>
  readonly #now: () => number

  /** `now` gives milliseconds since the epoch. */
  constructor(db: Kysely<Schema>, now: () => number = Date.now) {
    this.#db = db
    this.#now = now
  }

  /**
   * Takes the lock, or gives the one that is in the way: on this path, or on one that is the same file elsewhere.
   * Whoever asks at the same time, of this server or of another, one gets it.
   */
  async create(
    repository: string,
    path: string,
    owner: LockOwner,
  ): Promise<{ created: boolean; lock: Lock }> {
    const key = lockPathKey(path)
    // The lock in the way may go between the two questions; the third time that is no coincidence.
    for (let turn = 0; turn < 3; turn++) {
      const now = this.#now()
      const made = await this.#db
        .insertInto('lfs_locks')
        .values({
          id: lockId(now),
          repository,
          path,
          path_key: key,
          owner_subject: owner.subject,
          owner_name: owner.name,
          locked_at: new Date(now).toISOString(),
        })
        .onConflict((conflict) => conflict.columns(['repository', 'path_key']).doNothing())
        .returningAll()
        .executeTakeFirst()
      if (made !== undefined) return { created: true, lock: made }
      const held = await this.#db
        .selectFrom('lfs_locks')
        .selectAll()
        .where('repository', '=', repository)
        .where('path_key', '=', key)
        .executeTakeFirst()
      if (held !== undefined) return { created: false, lock: held }
    }
    throw new TimoneError('throttled', 'the lock is being taken and given back: try again')
  }

  /** The locks after `after`, so that one which goes in between neither hides nor repeats another. */
  async list(
    repository: string,
    request: PageRequest & { path?: string | undefined; id?: string | undefined },
  ): Promise<LockPage> {
    const { path, id, after, limit } = request
    // No lock has such a name, and a database need not be able to say so.
    if ((id !== undefined && !isLockId(id)) || path?.includes('\0')) return { locks: [], next: undefined }
    let query = this.#db.selectFrom('lfs_locks').selectAll().where('repository', '=', repository)
    if (path !== undefined) {
      query = query.where('path_key', '=', lockPathKey(path)).where('path', '=', path)
    }
    if (id !== undefined) query = query.where('id', '=', id)
    if (after !== undefined) query = query.where('id', '>', after)
    const locks = await query
      .orderBy('id')
      .limit(limit + 1)
      .execute()
    if (locks.length <= limit) return { locks, next: undefined }
    locks.length = limit
    return { locks, next: locks.at(-1)?.id }
  }

  /**
   * Gives a lock back: one's own, or anyone's with `force`.
   * @throws {TimoneError} `not_found`; `forbidden` for somebody else's without `force`.
   */
  async remove(repository: string, id: string, subject: string, force: boolean): Promise<Lock> {
    if (!isLockId(id)) throw noSuchLock()
    let query = this.#db.deleteFrom('lfs_locks').where('repository', '=', repository).where('id', '=', id)
    if (!force) query = query.where('owner_subject', '=', subject)
    const removed = await query.returningAll().executeTakeFirst()
    if (removed !== undefined) return removed
    const { locks } = await this.list(repository, { id, after: undefined, limit: 1 })
    const held = locks[0]
    if (held === undefined) throw noSuchLock()
    throw new TimoneError(
      'forbidden',
      `${held.path} is locked by ${held.owner_name}: only they may unlock it, unless you force it`,
    )
  }
}

/** The time, so that later ids are greater, and 80 bits that nobody can guess. */
function lockId(now: number): string {
  return now.toString(16).padStart(12, '0') + randomBytes(10).toString('hex')
}

function noSuchLock(): TimoneError {
  return new TimoneError('not_found', 'no such lock: it may have been given back')
}
