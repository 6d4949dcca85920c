import { createHash, randomBytes, randomUUID } from 'node:crypto'
import type { Kysely, Selectable } from 'kysely'
import type { Schema, TokensTable } from '../database/schema.ts'
import { TimoneError } from '../errors.ts'
import { recordEvent } from './events.ts'
import { type User, userOf } from './users.ts'

/** What a token is for; one kind is never taken for another. */
export type TokenKind = 'session' | 'jwt' | 'personal' | 'app' | 'code'

/** A token as the database knows it: everything but the token itself. */
export interface StoredToken {
  readonly id: string
  readonly userId: number | null
  readonly user: User | undefined
  readonly kind: TokenKind
  /** As text, of `auth/scope.ts`. */
  readonly scopes: readonly string[]
  /** Origin of an app, or what asked for the token. */
  readonly client: string
  /** What belongs to the kind. */
  readonly data: unknown
  /** ISO 8601, as all times here. */
  readonly createdAt: string
  readonly expiresAt: string | null
  readonly lastUsedAt: string | null
  readonly revokedAt: string | null
}

export interface NewToken {
  userId: number | null
  kind: TokenKind
  scopes: readonly string[]
  client: string
  /** Seconds; undefined: until revoked. */
  expiresIn?: number | undefined
  /** JSON; never a secret. */
  data?: unknown
}

const TOKEN = /^tmo_[A-Za-z0-9_-]{43}$/
/** Milliseconds between two notes that a token was used. */
const USED_EVERY = 60_000

/** Tokens that mean nothing by themselves: 256 random bits, of which the database keeps the hash. */
export class OpaqueTokens {
  readonly #db: Kysely<Schema>
  readonly #now: () => number

  /** `now` gives milliseconds since the epoch. */
  constructor(db: Kysely<Schema>, now: () => number = Date.now) {
    this.#db = db
    this.#now = now
  }

  /** A new token. It is given once, here, and cannot be found again. */
  async issue(options: NewToken): Promise<{ token: string; id: string; expiresAt: string | null }> {
    const token = `tmo_${randomBytes(32).toString('base64url')}`
    const row = tokenRow(options, randomUUID(), hashOf(token), this.#now())
    await this.#db.insertInto('tokens').values(row).execute()
    return { token, id: row.id, expiresAt: row.expires_at }
  }

  /** What a token is; undefined for one that is unknown, expired, revoked, of another kind, or of a disabled user. */
  async find(token: string, kind?: TokenKind): Promise<StoredToken | undefined> {
    if (!isOpaqueToken(token)) return undefined
    const found = await findToken(this.#db, { hash: hashOf(token) }, this.#now())
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
   * Takes a token that is good for one use. Of several who do so at once, one gets it.
   * @throws {TimoneError} `unauthorized`
   */
  async spend(token: string, kind: TokenKind): Promise<StoredToken> {
    const found = await this.find(token, kind)
    if (found === undefined || !(await this.revoke(found.id)))
      throw new TimoneError('unauthorized', 'this code is not valid, or was used before')
    return found
  }

  /** The tokens of one user, or of all; newest first, those that can no longer be used left out. */
  async list(userId?: number, limit = 1000): Promise<StoredToken[]> {
    let query = selectTokens(this.#db)
      .where('revoked_at', 'is', null)
      .where(({ eb, or }) =>
        or([eb('expires_at', 'is', null), eb('expires_at', '>', new Date(this.#now()).toISOString())]),
      )
    if (userId !== undefined) query = query.where('user_id', '=', userId)
    const rows = await query.orderBy('tokens.created_at', 'desc').limit(limit).execute()
    return Promise.all(rows.map((row) => withUser(this.#db, row)))
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

/** The row of a new token. `hash` is null for a JWT, which its signature proves. */
export function tokenRow(
  token: NewToken,
  id: string,
  hash: string | null,
  now: number,
): Selectable<TokensTable> {
  const { userId, kind, scopes, client, expiresIn, data } = token
  return {
    id,
    user_id: userId,
    kind,
    hash,
    scopes: scopes.join(' '),
    client,
    data: data === undefined ? null : JSON.stringify(data),
    created_at: new Date(now).toISOString(),
    expires_at: expiresIn === undefined ? null : new Date(now + expiresIn * 1000).toISOString(),
    last_used_at: null,
    revoked_at: null,
  }
}

/** A token that is good now, by its hash or its name; undefined for every other. */
export async function findToken(
  db: Kysely<Schema>,
  by: { hash: string } | { id: string },
  now: number,
): Promise<StoredToken | undefined> {
  const query = selectTokens(db)
  const row = await ('hash' in by
    ? query.where('hash', '=', by.hash)
    : query.where('tokens.id', '=', by.id)
  ).executeTakeFirst()
  if (row === undefined || row.revoked_at !== null) return undefined
  if (row.expires_at !== null && Date.parse(row.expires_at) <= now) return undefined
  const token = await withUser(db, row)
  if (token.userId !== null && (token.user === undefined || token.user.disabledAt !== null)) return undefined
  return token
}

function selectTokens(db: Kysely<Schema>) {
  return db.selectFrom('tokens').selectAll('tokens')
}

async function withUser(db: Kysely<Schema>, row: Selectable<TokensTable>): Promise<StoredToken> {
  const user =
    row.user_id === null
      ? undefined
      : await db.selectFrom('users').selectAll().where('id', '=', row.user_id).executeTakeFirst()
  return {
    id: row.id,
    userId: row.user_id,
    user: user && userOf(user),
    kind: row.kind as TokenKind,
    scopes: row.scopes.split(' ').filter((scope) => scope !== ''),
    client: row.client,
    data: row.data === null ? undefined : JSON.parse(row.data),
    createdAt: row.created_at,
    expiresAt: row.expires_at,
    lastUsedAt: row.last_used_at,
    revokedAt: row.revoked_at,
  }
}

function hashOf(token: string): string {
  return createHash('sha256').update(token).digest('hex')
}
