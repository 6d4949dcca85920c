import { afterAll, beforeAll, describe } from 'vitest'
import { connect, type Database } from '../../src/database/connect.ts'
import { type TestDatabase, testPostgres } from '../helpers/postgres.ts'

/** Describes tests that run on SQLite and on Postgres alike, each on an empty database of its own. */
export function onEachDatabase(title: string, tests: (open: () => Database['db']) => void): void {
  describe.each(['sqlite', 'postgres'] as const)(`${title} in %s`, (kind) => {
    let postgres: TestDatabase | undefined
    let database: Database
    beforeAll(async () => {
      postgres = kind === 'postgres' ? await testPostgres() : undefined
      database = await connect(postgres?.url ?? 'sqlite::memory:')
    })
    afterAll(async () => {
      await database.close()
      await postgres?.drop()
    })
    tests(() => database.db)
  })
}
