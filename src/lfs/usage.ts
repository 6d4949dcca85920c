import { type Kysely, sql, type Transaction } from 'kysely'
import type { Schema } from '../database/schema.ts'
import { TimoneError } from '../errors.ts'

/** Bytes and objects that a repository has been counted for. */
export interface RepositoryUsage {
  repository: string
  bytes: number
  objects: number
}

export interface CountedObject {
  oid: string
  /** Bytes. */
  size: number
}

export interface UsageOptions {
  db: Kysely<Schema>
  /** Bytes that a repository may hold; 0: no bound. */
  quota: number
  /** Milliseconds since the epoch. */
  now?: () => number
}

/** Rows in one statement; SQLite takes 32 766 values, of which a row has four. */
const ROWS = 500

/**
 * How much each repository holds, by the objects that were counted for it: when their upload was verified or completed,
 * or by a recount of the store. The sums are kept beside them, so that asking costs nothing.
 */
export class Usage {
  readonly quota: number
  readonly #db: Kysely<Schema>
  readonly #now: () => number

  constructor(options: UsageOptions) {
    this.#db = options.db
    this.quota = options.quota
    this.#now = options.now ?? Date.now
  }

  /** Bytes that are counted for `repository`. */
  async bytes(repository: string): Promise<number> {
    const row = await this.#db
      .selectFrom('lfs_usage')
      .select('bytes')
      .where('repository', '=', repository)
      .executeTakeFirst()
    return Number(row?.bytes ?? 0)
  }

  /** The sizes that are counted for those of `oids` that are. */
  async counted(repository: string, oids: readonly string[]): Promise<ReadonlyMap<string, number>> {
    const found = new Map<string, number>()
    for (let at = 0; at < oids.length; at += ROWS) {
      const rows = await this.#db
        .selectFrom('lfs_objects')
        .select(['oid', 'size'])
        .where('repository', '=', repository)
        .where('oid', 'in', oids.slice(at, at + ROWS))
        .execute()
      for (const { oid, size } of rows) found.set(oid, Number(size))
    }
    return found
  }

  /**
   * Counts an object that is in the store; one that is counted already changes nothing.
   * @throws {TimoneError} `quota_exceeded` when the repository would hold too much: then it is not counted
   */
  async count(repository: string, object: CountedObject): Promise<void> {
    const counted = await this.counted(repository, [object.oid])
    if (counted.get(object.oid) === object.size) return
    await this.#db.transaction().execute(async (tx) => {
      // The row of the sum is taken first: whoever counts for the same repository waits here.
      await add(tx, repository, 0, 0)
      const before = await tx
        .selectFrom('lfs_objects')
        .select('size')
        .where('repository', '=', repository)
        .where('oid', '=', object.oid)
        .executeTakeFirst()
      const more = object.size - Number(before?.size ?? 0)
      await upsert(tx, repository, [object], this.#time())
      const bytes = await add(tx, repository, more, before === undefined ? 1 : 0)
      if (this.quota > 0 && more > 0 && bytes > this.quota) throw exceeded(repository, bytes, this.quota)
    })
  }

  /** Every repository that something is counted for, by name. */
  async list(): Promise<RepositoryUsage[]> {
    const rows = await this.#db.selectFrom('lfs_usage').selectAll().orderBy('repository').execute()
    return rows.map(({ repository, bytes, objects }) => ({
      repository,
      bytes: Number(bytes),
      objects: Number(objects),
    }))
  }

  /** Puts what the store holds in place of what is counted; what is counted while this runs stays. */
  async recount(repository: string, objects: AsyncIterable<CountedObject>): Promise<RepositoryUsage> {
    const begun = this.#time()
    return this.#db.transaction().execute(async (tx) => {
      await add(tx, repository, 0, 0)
      await tx
        .deleteFrom('lfs_objects')
        .where('repository', '=', repository)
        .where('counted_at', '<', begun)
        .execute()
      let rows: CountedObject[] = []
      for await (const object of objects) {
        rows.push(object)
        if (rows.length < ROWS) continue
        await upsert(tx, repository, rows, begun)
        rows = []
      }
      await upsert(tx, repository, rows, begun)
      const { bytes, count } = await tx
        .selectFrom('lfs_objects')
        .where('repository', '=', repository)
        .select((eb) => [eb.fn.sum<string | null>('size').as('bytes'), eb.fn.countAll<string>().as('count')])
        .executeTakeFirstOrThrow()
      const sums = { bytes: Number(bytes ?? 0), objects: Number(count) }
      await tx.updateTable('lfs_usage').set(sums).where('repository', '=', repository).execute()
      return { repository, ...sums }
    })
  }

  /** Forgets repositories that a recount of the whole store did not find. */
  async forget(repositories: readonly string[]): Promise<void> {
    for (const repository of repositories) {
      await this.#db.transaction().execute(async (tx) => {
        await tx.deleteFrom('lfs_objects').where('repository', '=', repository).execute()
        await tx.deleteFrom('lfs_usage').where('repository', '=', repository).execute()
      })
    }
  }

  #time(): string {
    return new Date(this.#now()).toISOString()
  }
}

/** What a client is told whose repository is full. */
export function exceeded(repository: string, bytes: number, quota: number): TimoneError {
  const message = `${repository} would hold ${bytes} bytes, and may hold ${quota}: ask the operator of the server for a larger quota (lfs.quota)`
  return new TimoneError('quota_exceeded', message)
}

type Tx = Transaction<Schema>

/** Adds to the sums and gives the bytes. The row is locked until the transaction ends. */
async function add(tx: Tx, repository: string, bytes: number, objects: number): Promise<number> {
  const row = await tx
    .insertInto('lfs_usage')
    .values({ repository, bytes, objects })
    .onConflict((conflict) =>
      conflict.column('repository').doUpdateSet({
        bytes: sql`lfs_usage.bytes + excluded.bytes`,
        objects: sql`lfs_usage.objects + excluded.objects`,
      }),
    )
    .returning('bytes')
    .executeTakeFirstOrThrow()
  return Number(row.bytes)
}

async function upsert(tx: Tx, repository: string, rows: readonly CountedObject[], at: string): Promise<void> {
  if (rows.length === 0) return
  await tx
    .insertInto('lfs_objects')
    .values(rows.map(({ oid, size }) => ({ repository, oid, size, counted_at: at })))
    .onConflict((conflict) =>
      conflict.columns(['repository', 'oid']).doUpdateSet({
        size: sql`excluded.size`,
        counted_at: sql`excluded.counted_at`,
      }),
    )
    .execute()
}
