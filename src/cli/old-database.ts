import path from 'node:path'
import { TimoneError } from '../errors.ts'

/**
 * What `query` gives from the database of an earlier system, which is only read.
 * @param from a SQLite file, `sqlite:PATH`, or `postgres://…`
 * @param what for messages: "the table tokens of tokman"
 * @throws {TimoneError} `config`
 */
export async function readOldDatabase(
  from: string,
  { query, cwd, what }: { query: string; cwd: string; what: string },
): Promise<unknown[]> {
  try {
    return /^postgres(ql)?:\/\//.test(from)
      ? await readPostgres(from, query)
      : await readSqlite(path.resolve(cwd, from.replace(/^sqlite:(\/\/\/)?/, '')), query)
  } catch (error) {
    const reason = error instanceof Error ? error.message : 'unknown reason'
    throw new TimoneError('config', `cannot read ${what}: ${reason}`, { cause: error })
  }
}

async function readSqlite(file: string, query: string): Promise<unknown[]> {
  const { DatabaseSync } = await import('node:sqlite')
  const database = new DatabaseSync(file, { readOnly: true })
  try {
    return database.prepare(query).all()
  } finally {
    database.close()
  }
}

async function readPostgres(url: string, query: string): Promise<unknown[]> {
  const { default: pg } = await import('pg')
  const client = new pg.Client({ connectionString: url, connectionTimeoutMillis: 5_000 })
  try {
    await client.connect()
    return (await client.query(query)).rows
  } finally {
    await client.end()
  }
}
