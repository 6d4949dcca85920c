import type { Kysely } from 'kysely'
import type { Schema } from '../database/schema.ts'
import { recordEvent } from './events.ts'
import { SERVICES } from './ident-document.ts'
import { removeToken } from './ident-store.ts'
import { tellOfLink } from './link-notice.ts'
import { type ForeignIdentity, type User, Users } from './users.ts'

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
  readonly #changed: () => void

  /**
   * @param now gives milliseconds since the epoch
   * @param changed called after others are to be told of a change
   */
  constructor(db: Kysely<Schema>, now: () => number = Date.now, changed: () => void = () => {}) {
    this.#db = db
    this.#now = now
    this.#changed = changed
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
   * Lets a sign-in lead to this user from now on.
   * @throws {TimoneError} `forbidden` when it leads to somebody else, `exists` when the user has another of this issuer
   */
  async link(user: User, identity: ForeignIdentity, source: string): Promise<void> {
    await new Users(this.#db, this.#now).link(user.id, identity, source)
    this.#changed()
  }

  /**
   * Makes a sign-in lead to this user no more. The last one stays: without any, the user would be locked out, and be
   * taken over by whoever has their address at the provider later.
   * @returns false when there is none of this issuer, or no other
   */
  async unlink(user: User, issuer: string, source: string): Promise<boolean> {
    const gone = await this.#db.transaction().execute(async (db) => {
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
      const service = SERVICES.find((name) => name === issuer)
      if (service !== undefined) await removeToken(db, user.id, service)
      await tellOfLink(db, user, { issuer }, { source, now: this.#now() })
      return true
    })
    if (gone) this.#changed()
    return gone
  }
}
