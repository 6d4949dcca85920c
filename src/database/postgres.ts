import { PostgresDialect, type PostgresPoolClient } from 'kysely'
import pg from 'pg'
import { type ErrorCode, systemCode, TimoneError } from '../errors.ts'

/** Connections of one server. */
const CONNECTIONS = 10
/** Milliseconds to wait for a connection, and for the answer to one query. */
const CONNECT_TIMEOUT = 5_000
const QUERY_TIMEOUT = 10_000

/** What a pool is for: queries, which are short, or locks, which are held for as long as a call to somebody else takes. */
export interface PoolLimits {
  connections: number
  /** Milliseconds for the answer to one query, and between two of a transaction. */
  query: number
}

/**
 * A dialect on a pool of Postgres connections; nothing is connected yet.
 * @param url `postgres://…`, with `?sslmode=verify-full` and the like as libpq has them
 */
export function postgresDialect(
  url: string,
  limits: PoolLimits = { connections: CONNECTIONS, query: QUERY_TIMEOUT },
): PostgresDialect {
  const pool = new pg.Pool({
    connectionString: url,
    max: limits.connections,
    connectionTimeoutMillis: CONNECT_TIMEOUT,
    query_timeout: limits.query,
    statement_timeout: limits.query,
    idle_in_transaction_session_timeout: limits.query,
    keepAlive: true,
    application_name: 'timone',
  })
  // A connection that dies says so by an event, which ends the process when nobody listens; its query fails as well.
  pool.on('error', () => {})
  pool.on('connect', (client) => client.on('error', () => {}))
  return new PostgresDialect({
    pool: {
      connect: async () => {
        try {
          return checked(await pool.connect())
        } catch (error) {
          // Also for a name or password that the server does not know: whoever runs it may be about to change that.
          const { message } = postgresError(error)
          throw new TimoneError('unavailable', message, { cause: error })
        }
      },
      end: () => pool.end(),
    },
  })
}

/** A client whose failures are ours, and that is not used again once its connection is in doubt. */
function checked(client: pg.PoolClient): PostgresPoolClient {
  let broken = false
  const query = async (text: string, values: readonly unknown[]): Promise<unknown> => {
    try {
      return await client.query(text, [...values])
    } catch (error) {
      const failure = postgresError(error)
      if (failure.code === 'unavailable') broken = true
      throw failure
    }
  }
  return { query: query as PostgresPoolClient['query'], release: () => client.release(broken) }
}

/** SQLSTATE classes and codes (PostgreSQL manual, appendix A) that say that the same query may work later. */
const LATER = /^(08|40|53|57|25006)/

/**
 * A server's own error carries a SQLSTATE and a severity; everything else is about the connection. No query and no
 * values get into the message.
 */
function postgresError(error: unknown): TimoneError {
  const { severity, code: state } = error as { severity?: string; code?: string }
  if (severity === undefined || state === undefined) {
    const reason = systemCode(error) ?? (error instanceof Error ? error.message : 'unknown reason')
    return new TimoneError('unavailable', `the database cannot be reached (${reason})`, { cause: error })
  }
  if (state === '53100') {
    return new TimoneError('disk_full', 'the disk of the database is full', { cause: error })
  }
  const code: ErrorCode = LATER.test(state) ? 'unavailable' : 'internal'
  return new TimoneError(code, `the database refused a query (SQLSTATE ${state})`, { cause: error })
}
