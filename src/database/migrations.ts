import { type Kysely, type Migration, Migrator } from 'kysely'
import { isTimoneError, TimoneError } from '../errors.ts'
import { identity } from './migration-0002-identity.ts'
import { signIn } from './migration-0003-sign-in.ts'
import { usage } from './migration-0005-usage.ts'
import { sealingKeys } from './migration-0006-leases.ts'
import { outbox } from './migration-0007-outbox.ts'

/** In the order of their names, never changed once released, forward only. */
const MIGRATIONS: Readonly<Record<string, Migration>> = {
  '0001_lfs_locks': {
    async up(db: Kysely<unknown>) {
      await db.schema
        .createTable('lfs_locks')
        .addColumn('id', 'text', (column) => column.primaryKey())
        .addColumn('repository', 'text', (column) => column.notNull())
        .addColumn('path', 'text', (column) => column.notNull())
        .addColumn('path_key', 'text', (column) => column.notNull())
        .addColumn('owner_subject', 'text', (column) => column.notNull())
        .addColumn('owner_name', 'text', (column) => column.notNull())
        .addColumn('locked_at', 'text', (column) => column.notNull())
        .addUniqueConstraint('lfs_locks_repository_path_key', ['repository', 'path_key'])
        .execute()
      await db.schema
        .createIndex('lfs_locks_repository_id')
        .on('lfs_locks')
        .columns(['repository', 'id'])
        .execute()
    },
  },
  '0002_identity': identity,
  '0003_sign_in': signIn,
  '0005_usage': usage,
  '0006_leases': sealingKeys,
  '0007_outbox': outbox,
}

/**
 * Brings the tables up to date, in one transaction, while others that start at the same time wait.
 * @throws {TimoneError} `config` when the tables cannot be brought up to date, for example because a newer timone made
 * them; `unavailable` when the database is away.
 * @returns names of the migrations that were missing
 */
export async function migrate<S>(db: Kysely<S>, migrations = MIGRATIONS): Promise<string[]> {
  const migrator = new Migrator({ db, provider: { getMigrations: async () => migrations } })
  const { error, results = [] } = await migrator.migrateToLatest()
  if (error === undefined) return results.map(({ migrationName }) => migrationName)
  if (isTimoneError(error, 'unavailable')) throw error
  const cause = error instanceof Error ? error.cause : undefined
  // duplicate_table (PostgreSQL manual, appendix A).
  const foreign =
    cause instanceof Error && 'code' in cause && cause.code === '42P07'
      ? ' (tables of another program are there: give timone a database of its own, TIMONE_DATABASE_URL, and take over ' +
        'what the old one holds with timone import)'
      : ''
  const reason = error instanceof Error ? error.message : 'unknown reason'
  throw new TimoneError('config', `cannot bring the tables of the database up to date: ${reason}${foreign}`, {
    cause: error,
  })
}
