import { type Kysely, type Migration, sql } from 'kysely'

/**
 * Events that nobody is told of count as published: the index of what is still to be published, which is looked through
 * every second, would hold all that ever happened otherwise.
 */
export const outbox: Migration = {
  async up(db: Kysely<unknown>) {
    await sql`update events set published_at = at where published_at is null
      and action not in ('user.create', 'user.patch', 'user.delete')`.execute(db)
  },
}
