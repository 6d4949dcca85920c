import type { Kysely, Migration } from 'kysely'

/** The groups that a user was in when they signed in last. */
export const signIn: Migration = {
  async up(db: Kysely<unknown>) {
    await db.schema
      .createTable('user_groups')
      .addColumn('user_id', 'integer', (column) =>
        column.notNull().references('users.id').onDelete('cascade'),
      )
      .addColumn('name', 'text', (column) => column.notNull())
      .addPrimaryKeyConstraint('user_groups_pkey', ['user_id', 'name'])
      .execute()
  },
}
