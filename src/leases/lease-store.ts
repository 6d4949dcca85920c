import type { Kysely, Selectable } from 'kysely'
import type { SecretBox } from '../auth/secret-box.ts'
import { LookUps } from '../database/look-ups.ts'
import type { LeasesTable, Schema } from '../database/schema.ts'
import type { Lease, LeaseKey, LeaseState, Minted } from './lease.ts'

/** A row as the broker sees it: nothing in it is decrypted yet. */
export type LeaseRow = Selectable<LeasesTable>

/** Rows of the table `leases`: encrypts what it writes, decrypts what is asked for. */
export class LeaseStore {
  readonly #db: Kysely<Schema>
  readonly #box: SecretBox
  readonly #now: () => number
  readonly #rows: LookUps<LeaseKey, LeaseRow>
  /** Of rows that several callers were given by one query: decrypted once for all of them, forgotten with the row. */
  readonly #opened = new WeakMap<LeaseRow, Lease>()

  constructor(options: { db: Kysely<Schema>; box: SecretBox; now?: () => number }) {
    this.#db = options.db
    this.#box = options.box
    this.#now = options.now ?? Date.now
    this.#rows = new LookUps(async (keys) => {
      const rows = await this.#db
        .selectFrom('leases')
        .selectAll()
        .where(({ eb, refTuple, tuple }) =>
          eb(
            refTuple('owner', 'source', 'resource'),
            'in',
            keys.map(({ owner, source, resource }) => tuple(owner, source, resource)),
          ),
        )
        .execute()
      return new Map(rows.map((row) => [nameOf(row), row]))
    }, nameOf)
  }

  find(key: LeaseKey): Promise<LeaseRow | undefined> {
    return this.#rows.find(key)
  }

  /** Undefined for a row without an access token: it was imported and is renewed at its first use. */
  lease(row: LeaseRow): Lease | undefined {
    if (row.access_token === null) return undefined
    const known = this.#opened.get(row)
    if (known !== undefined) return known
    const lease = {
      accessToken: this.#box.open(row.access_token),
      tokenType: row.token_type,
      scope: row.scope,
      expiresAt: time(row.expires_at),
    }
    this.#opened.set(row, lease)
    return lease
  }

  /** The tokens of a row, for its renewal and its end. */
  secrets(row: LeaseRow): { accessToken: string | undefined; refreshToken: string | undefined } {
    const open = (sealed: string | null) => (sealed === null ? undefined : this.#box.open(sealed))
    return { accessToken: open(row.access_token), refreshToken: open(row.refresh_token) }
  }

  /** Writes what was minted, in one statement: it is on disk when this returns. */
  async save(key: LeaseKey, minted: Minted, before?: LeaseRow): Promise<Lease> {
    const { accessToken, refreshToken, expiresAt, refreshExpiresAt } = minted
    const kept = refreshToken === undefined ? (before?.refresh_token ?? null) : this.#box.seal(refreshToken)
    const values = {
      access_token: this.#box.seal(accessToken),
      refresh_token: kept,
      token_type: minted.tokenType ?? before?.token_type ?? null,
      // RFC 6749, section 5.1: absent means as it was.
      scope: minted.scope ?? before?.scope ?? null,
      expires_at: text(expiresAt),
      refresh_expires_at: text(refreshExpiresAt),
      state: 'active',
      error: null,
      updated_at: this.#text(),
    }
    await this.#db
      .insertInto('leases')
      .values({ ...pick(key), ...values })
      .onConflict((conflict) => conflict.columns(['owner', 'source', 'resource']).doUpdateSet(values))
      .execute()
    return { accessToken, tokenType: values.token_type, scope: values.scope, expiresAt: expiresAt ?? null }
  }

  /** Marks a row as one that only its owner can put right. */
  async markBroken({ owner, source, resource }: LeaseKey, error: string): Promise<void> {
    await this.#db
      .updateTable('leases')
      .set({ state: 'broken', error, updated_at: this.#text() })
      .where('owner', '=', owner)
      .where('source', '=', source)
      .where('resource', '=', resource)
      .execute()
  }

  async remove({ owner, source, resource }: LeaseKey): Promise<void> {
    await this.#db
      .deleteFrom('leases')
      .where('owner', '=', owner)
      .where('source', '=', source)
      .where('resource', '=', resource)
      .execute()
  }

  /** All leases of `owner`, by source and resource. */
  async list(owner: string): Promise<LeaseState[]> {
    const rows = await this.#db
      .selectFrom('leases')
      .select(['owner', 'source', 'resource', 'state', 'error', 'scope', 'expires_at', 'updated_at'])
      .where('owner', '=', owner)
      .orderBy('source')
      .orderBy('resource')
      .execute()
    return rows.map((row) => ({
      ...pick(row),
      state: row.state === 'active' ? 'active' : 'broken',
      error: row.error,
      scope: row.scope,
      expiresAt: time(row.expires_at),
      updatedAt: Date.parse(row.updated_at),
    }))
  }

  /** Those that can be renewed and were not since `before`, milliseconds since the epoch. */
  async unused(before: number): Promise<LeaseKey[]> {
    const rows = await this.#db
      .selectFrom('leases')
      .select(['owner', 'source', 'resource'])
      .where('refresh_token', 'is not', null)
      .where('state', '=', 'active')
      .where('updated_at', '<', new Date(before).toISOString())
      .execute()
    return rows.map(pick)
  }

  /** Removes credentials of these sources that ended before `before`, milliseconds since the epoch. Gives their number. */
  async removeExpired(sources: readonly string[], before: number): Promise<number> {
    if (sources.length === 0) return 0
    const { numDeletedRows } = await this.#db
      .deleteFrom('leases')
      .where('source', 'in', sources)
      .where('refresh_token', 'is', null)
      .where('expires_at', '<', new Date(before).toISOString())
      .executeTakeFirst()
    return Number(numDeletedRows)
  }

  #text(): string {
    return new Date(this.#now()).toISOString()
  }
}

/** One key, one name. */
export function nameOf({ owner, source, resource }: LeaseKey): string {
  return JSON.stringify([owner, source, resource])
}

function pick({ owner, source, resource }: LeaseKey): LeaseKey {
  return { owner, source, resource }
}

function time(value: string | null): number | null {
  return value === null ? null : Date.parse(value)
}

function text(value: number | undefined): string | null {
  return value === undefined ? null : new Date(value).toISOString()
}
