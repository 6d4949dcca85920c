import { chmod, mkdir, open } from 'node:fs/promises'
import path from 'node:path'
import type { DatabaseSync, SQLInputValue, StatementSync } from 'node:sqlite'
import {
  CompiledQuery,
  type DatabaseConnection,
  type Driver,
  SqliteAdapter,
  type SqliteDatabase,
  SqliteDialect,
  type SqliteDialectConfig,
  SqliteDriver,
  type SqliteStatement,
} from 'kysely'
import { type ErrorCode, systemCode, TimoneError } from '../errors.ts'

/** Milliseconds to wait for another process that writes. It blocks this one meanwhile. */
const BUSY_TIMEOUT = 5_000

/**
 * A dialect on the SQLite of Node itself. The file is made, readable to its owner only, when it is not there.
 * @param file absolute path, or `:memory:`
 * @throws {TimoneError} `unavailable`: it cannot be opened
 */
export async function sqliteDialect(file: string): Promise<SqliteDialect> {
  try {
    if (file !== ':memory:') await makeFile(file)
    const { DatabaseSync } = await import('node:sqlite')
    const database = new DatabaseSync(file, { timeout: BUSY_TIMEOUT })
    // WAL: readers and the writer do not wait for each other. FULL: what was answered survives a power cut.
    database.exec('PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON')
    return new NodeSqliteDialect({ database: adapt(database) })
  } catch (error) {
    const reason = systemCode(error) === 'ERR_SQLITE_ERROR' ? (error as Error).message : systemCode(error)
    throw new TimoneError('unavailable', `cannot open the database ${file} (${reason})`, { cause: error })
  }
}

async function makeFile(file: string): Promise<void> {
  // The server's data folder as a rule, whose other files are nobody else's business either.
  await mkdir(path.dirname(file), { recursive: true, mode: 0o700 })
  try {
    const made = await open(file, 'wx', 0o600)
    await made.close()
    // Whatever the umask; SQLite gives the mode of the file to those that it puts beside it.
    await chmod(file, 0o600)
  } catch (error) {
    if (systemCode(error) !== 'EEXIST') throw error
  }
}

/** A transaction takes the lock for writing when it begins: one that read first could fail halfway when it writes. */
class NodeSqliteDialect extends SqliteDialect {
  readonly #config: SqliteDialectConfig

  constructor(config: SqliteDialectConfig) {
    super(config)
    this.#config = config
  }

  override createDriver(): Driver {
    return new ImmediateDriver(this.#config)
  }

  override createAdapter(): SqliteAdapter {
    return new TransactionalAdapter()
  }
}

class ImmediateDriver extends SqliteDriver {
  override async beginTransaction(connection: DatabaseConnection): Promise<void> {
    await connection.executeQuery(CompiledQuery.raw('begin immediate'))
  }
}

class TransactionalAdapter extends SqliteAdapter {
  /** So that kysely makes a migration whole or not at all. */
  override get supportsTransactionalDdl(): boolean {
    return true
  }
}

function adapt(database: DatabaseSync): SqliteDatabase {
  return {
    close: () => database.close(),
    prepare: (text) => {
      const statement = translated(() => database.prepare(text))
      return {
        reader: statement.columns().length > 0,
        all: (values) => translated(() => statement.all(...inputs(values))),
        run: (values) => translated(() => statement.run(...inputs(values))),
        iterate: (values) => iterate(statement, values),
      } satisfies SqliteStatement
    },
  }
}

function inputs(values: readonly unknown[]): SQLInputValue[] {
  return values as SQLInputValue[]
}

function* iterate(statement: StatementSync, values: readonly unknown[]): IterableIterator<unknown> {
  try {
    yield* statement.iterate(...inputs(values))
  } catch (error) {
    throw sqliteError(error)
  }
}

function translated<T>(work: () => T): T {
  try {
    return work()
  } catch (error) {
    throw sqliteError(error)
  }
}

/** Primary result codes of SQLite (https://sqlite.org/rescode.html) that are not the fault of the query. */
const CODES: ReadonlyMap<number, readonly [ErrorCode, string]> = new Map([
  [5, ['unavailable', 'the database is busy']],
  [6, ['unavailable', 'the database is busy']],
  [8, ['read_only', 'the database cannot be written to']],
  [10, ['unavailable', 'the disk of the database does not work']],
  [11, ['unavailable', 'the database file is damaged']],
  [13, ['disk_full', 'the disk of the database is full']],
  [14, ['unavailable', 'the database file cannot be opened']],
  [26, ['unavailable', 'the database file is no SQLite database']],
])

function sqliteError(error: unknown): unknown {
  if (systemCode(error) !== 'ERR_SQLITE_ERROR') return error
  const { errcode } = error as { errcode?: number }
  // The lower eight bits are the primary code.
  const [code, message] = CODES.get((errcode ?? 0) & 0xff) ?? ['internal', 'the database refused a query']
  return new TimoneError(code, message, { cause: error })
}
