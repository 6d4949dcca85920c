import type { Kysely, Selectable } from 'kysely'
import { LookUps } from '../database/look-ups.ts'
import type { Schema, TokensTable } from '../database/schema.ts'
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
  /** Its name, where others must be able to tell it beforehand. */
  id?: string
}

/** Finds tokens that are good now, with their users. */
export class TokenRows {
  readonly #now: () => number
  readonly #byId: LookUps<string, StoredToken>
  readonly #byHash: LookUps<string, StoredToken>

  /** `now` gives milliseconds since the epoch. */
  constructor(db: Kysely<Schema>, now: () => number) {
    this.#now = now
    const by = (column: 'tokens.id' | 'tokens.hash', nameOf: (row: Row) => string) =>
      new LookUps<string, StoredToken>(
        async (keys) => {
          const rows = await selectTokens(db).where(column, 'in', keys).execute()
          return new Map(rows.map((row) => [nameOf(row), storedToken(row)]))
        },
        (key) => key,
      )
    this.#byId = by('tokens.id', ({ id }) => id)
    this.#byHash = by('tokens.hash', ({ hash }) => hash ?? '')
  }

  /** Undefined for one that is unknown, expired, revoked, or of a disabled user. */
  async byId(id: string): Promise<StoredToken | undefined> {
    return this.#good(await this.#byId.find(id))
  }

  /** As {@link byId}, by the SHA-256 of an opaque token. */
  async byHash(hash: string): Promise<StoredToken | undefined> {
    return this.#good(await this.#byHash.find(hash))
  }

  #good(token: StoredToken | undefined): StoredToken | undefined {
    if (token === undefined || token.revokedAt !== null) return undefined
    if (token.expiresAt !== null && Date.parse(token.expiresAt) <= this.#now()) return undefined
    const { userId, user } = token
    return userId !== null && (user === undefined || user.disabledAt !== null) ? undefined : token
  }
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

/** Tokens with their users, in one query. */
export function selectTokens(db: Kysely<Schema>) {
  return db
    .selectFrom('tokens')
    .leftJoin('users', 'users.id', 'tokens.user_id')
    .selectAll('tokens')
    .select([
      'users.login',
      'users.name',
      'users.email',
      'users.email_key',
      'users.picture_url',
      'users.quota',
      'users.disabled_at',
      'users.created_at as user_created_at',
    ])
}

type Row = Awaited<ReturnType<ReturnType<typeof selectTokens>['execute']>>[number]

/** What {@link selectTokens} gives, as the rest of the program knows it. */
export function storedToken(row: Row): StoredToken {
  const { user_id: userId, login } = row
  const user =
    userId === null || login === null
      ? undefined
      : userOf({
          ...row,
          id: userId,
          login,
          name: row.name ?? login,
          created_at: row.user_created_at ?? row.created_at,
        })
  return {
    id: row.id,
    userId,
    user,
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
