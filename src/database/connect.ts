import { Kysely, sql } from 'kysely'
import { isTimoneError, TimoneError } from '../errors.ts'
import { AdvisoryLocks, ProcessLocks } from './locks.ts'
import { migrate } from './migrations.ts'
import type { Schema } from './schema.ts'

/** An open database whose tables are up to date. Each query throws TimoneErrors: `unavailable` when it may work later. */
export interface Database {
  readonly db: Kysely<Schema>
  /** Names of the migrations that were missing when it was opened. */
  readonly migrated: readonly string[]
  /** Throws when the database does not answer; for `/readyz`. @throws {TimoneError} */
  check(): Promise<void>
  /**
   * Runs `work` while nobody else, of all processes on this database, runs work under the same name.
   * @throws {TimoneError} `unavailable` when the others take too long, or what `work` throws
   */
  lock<T>(name: string, work: () => Promise<T>): Promise<T>
  /** Closes all connections, once the queries under way are done. */
  close(): Promise<void>
}

/**
 * Opens the database and brings its tables up to date.
 * @param url `sqlite:PATH` (`sqlite::memory:` is gone when it is closed) or `postgres://USER:PASSWORD@HOST:PORT/NAME`
 * @throws {TimoneError} `unavailable` when it cannot be reached or opened, `config` when it is of no use to this timone
 */
export async function connect(url: string): Promise<Database> {
  const db = new Kysely<Schema>({ dialect: await dialectOf(url) })
  let migrated: string[]
  try {
    migrated = await migrate(db)
  } catch (error) {
    await db.destroy()
    if (isTimoneError(error, 'config')) throw error
    throw new TimoneError('unavailable', `the database ${placeOf(url)} cannot be used: ${reasonOf(error)}`, {
      cause: error,
    })
  }
  const locks = url.startsWith('sqlite:') ? new ProcessLocks() : new AdvisoryLocks(url)
  return {
    db,
    migrated,
    lock: (name, work) => locks.hold(name, work),
    check: async () => {
      await sql`select 1 from lfs_locks limit 1`.execute(db)
    },
    close: async () => {
      await locks.close()
      await db.destroy()
    },
  }
}

async function dialectOf(url: string) {
  // Each is loaded only where it is used.
  if (url.startsWith('sqlite:')) {
    const { sqliteDialect } = await import('./sqlite.ts')
    return sqliteDialect(url.slice('sqlite:'.length))
  }
  if (/^postgres(ql)?:\/\//.test(url)) {
    const { postgresDialect } = await import('./postgres.ts')
    return postgresDialect(url)
  }
  throw new TypeError('a database URL begins with sqlite: or postgres://')
}

/** Where the database is, without the password in its URL. */
function placeOf(url: string): string {
  if (url.startsWith('sqlite:')) return url.slice('sqlite:'.length)
  const { host, pathname } = URL.parse(url) ?? { host: '', pathname: '' }
  return `${pathname.slice(1)} at ${host || 'the local socket'}`
}

/** The message of a server that refuses to let us in names user or database, never the password. */
function reasonOf(error: unknown): string {
  const cause = error instanceof Error ? error.cause : undefined
  if (cause instanceof Error && 'severity' in cause) return cause.message
  return error instanceof Error ? error.message : 'unknown reason'
}
