import type { Kysely } from 'kysely'
import type { Schema } from '../database/schema.ts'
import { recordEvent } from './events.ts'
import type { User } from './users.ts'

/** How somebody else's sign-in knows a user. */
export interface LinkedIdentity {
  readonly issuer: string
  readonly subject: string
  /** For people: the login or address at the issuer. */
  readonly label: string | null
  /** ISO 8601. */
  readonly createdAt: string
}

/** The sign-ins that lead to a user. All methods throw what the database throws. */
export class LinkedIdentities {
  readonly #db: Kysely<Schema>
  readonly #now: () => number

  /** `now` gives milliseconds since the epoch. */
  constructor(db: Kysely<Schema>, now: () => number = Date.now) {
    this.#db = db
    this.#now = now
  }

  /** By issuer. */
  async of(userId: number): Promise<LinkedIdentity[]> {
    const rows = await this.#db
      .selectFrom('identities')
      .select(['issuer', 'subject', 'label', 'created_at'])
      .where('user_id', '=', userId)
      .orderBy('issuer')
      .execute()
    return rows.map(({ created_at, ...rest }) => ({ ...rest, createdAt: created_at }))
  }

  /**
   * Makes a sign-in lead to this user no more. The last one stays: without any, the user would be locked out, and be
   * taken over by whoever has their address at the provider later.
   * @returns false when there is none of this issuer, or no other
   */
  async unlink(user: User, issuer: string, source: string): Promise<boolean> {
    return this.#db.transaction().execute(async (db) => {
      // Writes the row as it is, so that two who unlink at once wait for each other.
      await db
        .updateTable('users')
        .set(({ ref }) => ({ name: ref('name') }))
        .where('id', '=', user.id)
        .execute()
      const issuers = await db
        .selectFrom('identities')
        .select('issuer')
        .where('user_id', '=', user.id)
        .execute()
      if (issuers.length < 2 || !issuers.some((found) => found.issuer === issuer)) return false
      await db.deleteFrom('identities').where('user_id', '=', user.id).where('issuer', '=', issuer).execute()
      const event = { actor: user.login, action: 'identity.unlink', subject: `user:${user.id}`, source }
      await recordEvent(db, { ...event, data: { issuer } }, this.#now())
      return true
    })
  }
}
