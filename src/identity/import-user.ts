import { type Kysely, PostgresAdapter, sql } from 'kysely'
import type { Schema } from '../database/schema.ts'
import { recordEvent } from './events.ts'
import type { Service } from './ident-document.ts'
import { documentsOf, insertLink, saveToken } from './ident-store.ts'
import { loginFrom, withNumber } from './login-name.ts'
import { newRow } from './users.ts'

/** A user of glotpod.ident, checked. */
export interface OldUser {
  id: number
  name: string
  email: string | null
  pictureUrl: string | null
  /** `sealed` is encrypted with a key of ours. */
  links: readonly { service: Service; subject: string; sealed: string | undefined }[]
}

/** `taken`: number, address or an identity is somebody else's here. */
export type ImportOutcome = 'imported' | 'present' | 'taken'

/** Thrown to undo a transaction. */
class Undo extends Error {
  readonly outcome: ImportOutcome

  constructor(outcome: ImportOutcome) {
    super(outcome)
    this.outcome = outcome
  }
}

/**
 * Takes over a user under the same number, which other programs know, or nothing of them.
 * @param options.write false: only say what would come of it
 */
export async function importUser(
  db: Kysely<Schema>,
  user: OldUser,
  { write, now = Date.now() }: { write: boolean; now?: number },
): Promise<ImportOutcome> {
  try {
    return await db.transaction().execute(async (within) => {
      const row = await within.selectFrom('users').selectAll().where('id', '=', user.id).executeTakeFirst()
      if (row !== undefined) {
        const [document] = await documentsOf(within, [row])
        const same =
          row.email_key === (user.email?.toLowerCase() ?? null) &&
          // Without address and identities, the name is all that there is to tell them by.
          (user.email !== null || user.links.length > 0 || row.name === user.name) &&
          user.links.every(({ service, subject }) => String(document?.[service]?.id) === subject)
        return same ? 'present' : 'taken'
      }
      await insert(within, user, now)
      for (const { service, subject, sealed } of user.links) {
        if (!(await insertLink(within, user.id, service, subject, now))) throw new Undo('taken')
        if (sealed !== undefined) await saveToken(within, user.id, service, sealed, now)
      }
      // Nobody is notified of users whom they know already.
      const event = { actor: '', action: 'user.import', subject: `user:${user.id}`, source: '' }
      await recordEvent(within, event, now)
      if (!write) throw new Undo('imported')
      return 'imported'
    })
  } catch (error) {
    if (error instanceof Undo) return error.outcome
    throw error
  }
}

/** New users get numbers beyond those that were taken over. */
export async function moveNumbers(db: Kysely<Schema>): Promise<void> {
  // SQLite sees to it by itself.
  if (!(db.getExecutor().adapter instanceof PostgresAdapter)) return
  await sql`select setval(pg_get_serial_sequence('users', 'id'), greatest(
    (select coalesce(max(id), 1) from users), nextval(pg_get_serial_sequence('users', 'id'))))`.execute(db)
}

async function insert(db: Kysely<Schema>, user: OldUser, now: number): Promise<void> {
  const wanted = loginFrom([user.email ?? undefined, user.name])
  const { name, email, pictureUrl } = user
  const email_key = email?.toLowerCase() ?? null
  for (let number = 1; number <= 1000; number++) {
    const made = await db
      .insertInto('users')
      .values({
        id: user.id,
        ...newRow({ login: withNumber(wanted, number), name, email, pictureUrl }, now),
      })
      .onConflict((conflict) => conflict.doNothing())
      .returning('id')
      .executeTakeFirst()
    if (made !== undefined) return
    const holder =
      email_key === null
        ? undefined
        : await db.selectFrom('users').select('id').where('email_key', '=', email_key).executeTakeFirst()
    if (holder !== undefined) break
  }
  throw new Undo('taken')
}
