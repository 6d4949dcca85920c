import { randomBytes } from 'node:crypto'
import pg from 'pg'

export interface TestDatabase {
  /** What `connect` and TIMONE_DATABASE_URL take. */
  url: string
  /** Runs one statement, past the code under test. */
  query(text: string): Promise<unknown[]>
  drop(): Promise<void>
}

/**
 * An empty database of its own on the Postgres of the tests. Tests that need it fail without it: a suite that skips
 * itself proves nothing.
 */
export async function testPostgres(): Promise<TestDatabase> {
  const admin = process.env.TIMONE_TEST_POSTGRES_URL
  if (!admin) {
    throw new Error(
      'TIMONE_TEST_POSTGRES_URL is not set: these tests need a Postgres server. ' +
        'Run them with `scripts/services run -- vitest run …`, or set it to a user who may create databases.',
    )
  }
  const run = async (address: string, text: string): Promise<unknown[]> => {
    const client = new pg.Client({ connectionString: address })
    await client.connect()
    try {
      return (await client.query(text)).rows
    } finally {
      await client.end()
    }
  }
  const name = `timone_test_${randomBytes(6).toString('hex')}`
  await run(admin, `create database ${name}`)
  const url = new URL(admin)
  url.pathname = `/${name}`
  return {
    url: url.href,
    query: (text) => run(url.href, text),
    drop: async () => void (await run(admin, `drop database ${name} with (force)`)),
  }
}
