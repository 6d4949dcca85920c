import { createPrivateKey, type KeyObject } from 'node:crypto'
import { calculateJwkThumbprint, exportJWK, exportPKCS8, generateKeyPair, importJWK, type JWK } from 'jose'
import type { Kysely, Selectable } from 'kysely'
import type { SecretBox } from '../auth/secret-box.ts'
import type { Schema, SigningKeysTable } from '../database/schema.ts'
import { recordEvent } from './events.ts'

/** Algorithms with keys that others can check tokens with. */
export type KeyAlgorithm = 'EdDSA' | 'RS256'

/** Milliseconds until a key signs nothing new any more. */
const SIGNS_FOR = 90 * 86_400_000
/** Milliseconds for which a key checks tokens after that; no token lives longer. */
const CHECKS_FOR = 400 * 86_400_000
/** Milliseconds for which another instance may go on with a key that it has read. */
const KNOWN_FOR = 60_000

type Row = Selectable<SigningKeysTable>

/** The keys that sign tokens: in the database, the private half encrypted, one after the other. */
export class SigningKeys {
  readonly #db: Kysely<Schema>
  readonly #box: SecretBox
  readonly #now: () => number
  #known: { rows: Row[]; at: number } | undefined
  readonly #private = new Map<string, KeyObject>()

  constructor(db: Kysely<Schema>, box: SecretBox, now: () => number = Date.now) {
    this.#db = db
    this.#box = box
    this.#now = now
  }

  /** The key to sign with, made when there is none or the newest is too old. @throws {TimoneError} `config`: cannot be decrypted */
  async current(alg: KeyAlgorithm): Promise<{ kid: string; key: KeyObject }> {
    const usable = (rows: Row[]) =>
      rows.find(
        (row) =>
          row.alg === alg && row.retired_at === null && this.#now() - Date.parse(row.created_at) < SIGNS_FOR,
      )
    // Asked afresh: two instances that begin at once are to find each other's key.
    const row = usable(await this.#rows()) ?? usable(await this.#rows(true)) ?? (await this.rotate(alg))
    let key = this.#private.get(row.kid)
    if (key === undefined) {
      key = createPrivateKey(this.#box.open(row.private_key))
      this.#private.set(row.kid, key)
    }
    return { kid: row.kid, key }
  }

  /** The public key that a token names; undefined for one that we do not have, or that is too old. */
  async find(kid: string, alg: string): Promise<Awaited<ReturnType<typeof importJWK>> | undefined> {
    const match = (rows: Row[]) => rows.find((row) => row.kid === kid && row.alg === alg)
    const row = match(await this.#rows()) ?? match(await this.#rows(true))
    return row === undefined ? undefined : importJWK(JSON.parse(row.public_key) as JWK, row.alg)
  }

  /** `GET /.well-known/jwks.json` (RFC 7517, section 5). */
  async jwks(): Promise<{ keys: JWK[] }> {
    const rows = await this.#rows()
    return {
      keys: rows.map(({ kid, alg, public_key }) => ({
        ...(JSON.parse(public_key) as JWK),
        kid,
        alg,
        use: 'sig',
      })),
    }
  }

  /** A new key, which signs from now on; those before it only check. */
  async rotate(alg: KeyAlgorithm, by: { actor?: string } = {}): Promise<Row> {
    const { publicKey, privateKey } = await generateKeyPair(alg, { extractable: true })
    const jwk = await exportJWK(publicKey)
    const at = new Date(this.#now()).toISOString()
    const row: Row = {
      kid: await calculateJwkThumbprint(jwk),
      alg,
      public_key: JSON.stringify(jwk),
      private_key: this.#box.seal(await exportPKCS8(privateKey)),
      created_at: at,
      retired_at: null,
    }
    await this.#db.transaction().execute(async (db) => {
      await db
        .updateTable('signing_keys')
        .set({ retired_at: at })
        .where('alg', '=', alg)
        .where('retired_at', 'is', null)
        .execute()
      await db.insertInto('signing_keys').values(row).execute()
      const event = { actor: by.actor ?? '', action: 'key.rotate', subject: `key:${row.kid}`, source: '' }
      await recordEvent(db, event, this.#now())
    })
    this.#known = undefined
    return row
  }

  /** Drops every key but one, and with them what they signed. Gives their ids. */
  async forgetOthers(kept: string, by: { actor?: string } = {}): Promise<string[]> {
    const gone = await this.#db.transaction().execute(async (db) => {
      const rows = await db.deleteFrom('signing_keys').where('kid', '!=', kept).returning('kid').execute()
      for (const { kid } of rows) {
        const event = { actor: by.actor ?? '', action: 'key.forget', subject: `key:${kid}`, source: '' }
        await recordEvent(db, event, this.#now())
      }
      return rows.map(({ kid }) => kid)
    })
    this.#known = undefined
    return gone
  }

  /** Newest first, without those that check nothing any more. */
  async #rows(fresh = false): Promise<Row[]> {
    const now = this.#now()
    const known = this.#known
    // An unknown kid in a forged token must not make us ask the database more than once a second.
    if (known !== undefined && now - known.at < (fresh ? 1000 : KNOWN_FOR)) return known.rows
    const rows = await this.#db
      .selectFrom('signing_keys')
      .selectAll()
      .orderBy('created_at', 'desc')
      .limit(100)
      .execute()
    const kept = rows.filter(
      ({ retired_at }) => retired_at === null || now - Date.parse(retired_at) < CHECKS_FOR,
    )
    this.#known = { rows: kept, at: now }
    return kept
  }
}
