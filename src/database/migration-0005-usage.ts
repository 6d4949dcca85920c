import { type Kysely, type Migration, sql } from 'kysely'

/** What is counted for quotas: each object of a repository once, and the sums. */
export const usage: Migration = {
  async up(db: Kysely<unknown>) {
    await db.schema
      .createTable('lfs_objects')
      .addColumn('repository', 'text', (column) => column.notNull())
      .addColumn('oid', 'text', (column) => column.notNull())
      .addColumn('size', 'bigint', (column) => column.notNull())
      .addColumn('counted_at', 'text', (column) => column.notNull())
      .addPrimaryKeyConstraint('lfs_objects_pkey', ['repository', 'oid'])
      .execute()
    await db.schema
      .createTable('lfs_usage')
      .addColumn('repository', 'text', (column) => column.primaryKey())
      .addColumn('bytes', 'bigint', (column) => column.notNull().defaultTo(sql`0`))
      .addColumn('objects', 'bigint', (column) => column.notNull().defaultTo(sql`0`))
      .execute()
  },
}
