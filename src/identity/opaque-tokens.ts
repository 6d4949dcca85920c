import { createHash, randomBytes, randomUUID } from 'node:crypto'
import type { Kysely } from 'kysely'
import type { Schema } from '../database/schema.ts'
import { recordEvent } from './events.ts'
import {
  type NewToken,
  type StoredToken,
  selectTokens,
  storedToken,
  type TokenKind,
  TokenRows,
  tokenRow,
} from './token-rows.ts'

const TOKEN = /^tmo_[A-Za-z0-9_-]{43}$/
/** Milliseconds between two notes that a token was used. */
const USED_EVERY = 60_000

/** Tokens that mean nothing by themselves: 256 random bits, of which the database keeps the hash. */
export class OpaqueTokens {
  readonly #db: Kysely<Schema>
  readonly #now: () => number
  readonly #rows: TokenRows

  /** `now` gives milliseconds since the epoch. */
  constructor(db: Kysely<Schema>, now: () => number = Date.now) {
    this.#db = db
    this.#now = now
    this.#rows = new TokenRows(db, now)
  }

  /** A new token. It is given once, here, and cannot be found again. */
  async issue(options: NewToken): Promise<{ token: string; id: string; expiresAt: string | null }> {
    const token = `tmo_${randomBytes(32).toString('base64url')}`
    const row = tokenRow(options, options.id ?? randomUUID(), hashOf(token), this.#now())
    await this.#db.insertInto('tokens').values(row).execute()
    return { token, id: row.id, expiresAt: row.expires_at }
  }

  /** What a token is; undefined for one that is unknown, expired, revoked, of another kind, or of a disabled user. */
  async find(token: string, kind?: TokenKind): Promise<StoredToken | undefined> {
    if (!isOpaqueToken(token)) return undefined
    const found = await this.#rows.byHash(hashOf(token))
    if (found === undefined || (kind !== undefined && found.kind !== kind)) return undefined
    await this.#noteUse(found)
    return found
  }

  /**
   * Ends a token at once, on every instance. False when there is none, or it was ended before.
   * @param by.userId only a token of this user
   */
  async revoke(id: string, by: { actor?: string; source?: string; userId?: number } = {}): Promise<boolean> {
    const { actor = '', source = '', userId } = by
    return this.#db.transaction().execute(async (db) => {
      const revoked = await db
        .updateTable('tokens')
        .set({ revoked_at: new Date(this.#now()).toISOString() })
        .where('id', '=', id)
        .where('revoked_at', 'is', null)
        .$if(userId !== undefined, (query) => query.where('user_id', '=', userId as number))
        .returning(['kind', 'client'])
        .executeTakeFirst()
      if (revoked === undefined) return false
      const event = { actor, action: 'token.revoke', subject: `token:${id}`, source, data: revoked }
      await recordEvent(db, event, this.#now())
      return true
    })
  }

  /**
   * Gives a token for one that is good for one use, which is spent: both happen, or neither. Of several who ask at once,
   * one gets it.
   * @param id of the one that is spent
   * @returns undefined when it was spent before
   */
  exchange(id: string, next: NewToken): Promise<{ token: string } | undefined> {
    return this.#db.transaction().execute(async (db) => {
      const inside = new OpaqueTokens(db, this.#now)
      const spent = await db
        .updateTable('tokens')
        .set({ revoked_at: new Date(this.#now()).toISOString() })
        .where('id', '=', id)
        .where('revoked_at', 'is', null)
        .returning('id')
        .executeTakeFirst()
      return spent === undefined ? undefined : inside.issue(next)
    })
  }

  /** The name of a token, also of one that is spent, revoked or expired; undefined for one that never was. */
  async nameOf(token: string, kind: TokenKind): Promise<string | undefined> {
    const row = await this.#db
      .selectFrom('tokens')
      .select('id')
      .where('hash', '=', hashOf(token))
      .where('kind', '=', kind)
      .executeTakeFirst()
    return row?.id
  }

  /** The tokens of one user, or of all; newest first, those that can no longer be used left out. */
  async list(userId?: number, limit = 1000): Promise<StoredToken[]> {
    let query = selectTokens(this.#db)
      .where('tokens.revoked_at', 'is', null)
      .where(({ eb, or }) =>
        or([
          eb('tokens.expires_at', 'is', null),
          eb('tokens.expires_at', '>', new Date(this.#now()).toISOString()),
        ]),
      )
    if (userId !== undefined) query = query.where('tokens.user_id', '=', userId)
    const rows = await query.orderBy('tokens.created_at', 'desc').limit(limit).execute()
    return rows.map(storedToken)
  }

  async #noteUse({ id, lastUsedAt }: StoredToken): Promise<void> {
    const now = this.#now()
    if (lastUsedAt !== null && now - Date.parse(lastUsedAt) < USED_EVERY) return
    const at = new Date(now).toISOString()
    await this.#db.updateTable('tokens').set({ last_used_at: at }).where('id', '=', id).execute()
  }
}

/** Does this look like one of our opaque tokens? */
export function isOpaqueToken(text: string): boolean {
  return TOKEN.test(text)
}

function hashOf(token: string): string {
  return createHash('sha256').update(token).digest('hex')
}
