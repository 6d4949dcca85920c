import { createHash } from 'node:crypto'
import { Kysely, sql } from 'kysely'

/**
 * Milliseconds that a lock is waited for and held, at most: longer than the call to somebody else that is made under it,
 * which has a hard time-out of its own. Postgres gives the lock back when its connection ends, so it has no other end.
 */
const LONGEST = 25_000
/** Connections that hold or wait; queries have others, so that a slow call never keeps them waiting. */
const CONNECTIONS = 8

/** Locks among all processes on one Postgres: `pg_advisory_xact_lock` (PostgreSQL manual, section 13.3.5). */
export class AdvisoryLocks {
  readonly #url: string
  #db: Promise<Kysely<unknown>> | undefined

  constructor(url: string) {
    this.#url = url
  }

  async hold<T>(name: string, work: () => Promise<T>): Promise<T> {
    this.#db ??= this.#open()
    const db = await this.#db
    return db.transaction().execute(async (transaction) => {
      await sql`select pg_advisory_xact_lock(${keyOf(name)}::bigint)`.execute(transaction)
      return work()
    })
  }

  async close(): Promise<void> {
    await (await this.#db)?.destroy()
  }

  async #open(): Promise<Kysely<unknown>> {
    const { postgresDialect } = await import('./postgres.ts')
    return new Kysely({ dialect: postgresDialect(this.#url, { connections: CONNECTIONS, query: LONGEST }) })
  }
}

/** Locks within this process, which is the only one that a SQLite file is served by. */
export class ProcessLocks {
  readonly #last = new Map<string, Promise<unknown>>()

  async hold<T>(name: string, work: () => Promise<T>): Promise<T> {
    const before = this.#last.get(name) ?? Promise.resolve()
    const mine = before.then(work, work)
    this.#last.set(name, mine)
    try {
      return await mine
    } finally {
      if (this.#last.get(name) === mine) this.#last.delete(name)
    }
  }

  async close(): Promise<void> {}
}

/** 64 bits, signed: two names that share them would only wait for each other. */
function keyOf(name: string): string {
  return createHash('sha256').update(name).digest().readBigInt64BE().toString()
}
