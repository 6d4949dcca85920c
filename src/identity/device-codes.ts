import { createHash, randomBytes, randomInt } from 'node:crypto'
import type { Kysely } from 'kysely'
import type { Schema } from '../database/schema.ts'
import { recordEvent } from './events.ts'
import { OAuthError } from './oauth-error.ts'
import type { User } from './users.ts'

/** Consonants that no two of look alike, and no word is made of (RFC 8628, section 6.1). */
const LETTERS = 'BCDFGHJKLMNPQRSTVWXZ'
/** Seconds for which a code waits for its approval. */
export const LIFETIME = 600
/** Milliseconds for which a code that is over is still known as such. */
const REMEMBERED = 3_600_000
/** Seconds between two questions of a device. */
export const INTERVAL = 5

/** A sign-in that waits for somebody to approve it. */
export interface PendingDevice {
  hash: string
  client: string
  scopes: string
}

/** Sign-ins of programs without a browser (RFC 8628). */
export class DeviceCodes {
  readonly #db: Kysely<Schema>
  readonly #now: () => number

  constructor(db: Kysely<Schema>, now: () => number = Date.now) {
    this.#db = db
    this.#now = now
  }

  async begin(client: string, scopes: string): Promise<{ deviceCode: string; userCode: string }> {
    const now = this.#now()
    await this.#db
      .deleteFrom('device_codes')
      .where('expires_at', '<', new Date(now - REMEMBERED).toISOString())
      .execute()
    for (let turn = 0; turn < 5; turn++) {
      const deviceCode = randomBytes(32).toString('base64url')
      const letters = Array.from({ length: 8 }, () => LETTERS[randomInt(LETTERS.length)]).join('')
      const made = await this.#db
        .insertInto('device_codes')
        .values({
          hash: hashOf(deviceCode),
          user_code: letters,
          client,
          scopes,
          state: 'pending',
          user_id: null,
          created_at: new Date(now).toISOString(),
          expires_at: new Date(now + LIFETIME * 1000).toISOString(),
          polled_at: null,
        })
        .onConflict((conflict) => conflict.column('user_code').doNothing())
        .returning('hash')
        .executeTakeFirst()
      if (made !== undefined) return { deviceCode, userCode: `${letters.slice(0, 4)}-${letters.slice(4)}` }
    }
    throw new OAuthError('temporarily_unavailable', 'no code is free: try again')
  }

  /** The sign-in that somebody typed the code of, in whatever spelling; undefined when none waits. */
  async pending(userCode: string): Promise<PendingDevice | undefined> {
    return this.#db
      .selectFrom('device_codes')
      .select(['hash', 'client', 'scopes'])
      .where('user_code', '=', readUserCode(userCode))
      .where('state', '=', 'pending')
      .where('expires_at', '>', new Date(this.#now()).toISOString())
      .executeTakeFirst()
  }

  /** Says yes or no to a sign-in. False when it waits no longer. */
  async decide(hash: string, user: User, approved: boolean, source: string): Promise<boolean> {
    return this.#db.transaction().execute(async (db) => {
      const decided = await db
        .updateTable('device_codes')
        .set({ state: approved ? 'approved' : 'denied', user_id: user.id })
        .where('hash', '=', hash)
        .where('state', '=', 'pending')
        .where('expires_at', '>', new Date(this.#now()).toISOString())
        .returning('client')
        .executeTakeFirst()
      if (decided === undefined) return false
      const event = {
        actor: user.login,
        action: approved ? 'device.approve' : 'device.deny',
        subject: `user:${user.id}`,
        source,
        data: { client: decided.client },
      }
      await recordEvent(db, event, this.#now())
      return true
    })
  }

  /**
   * What a device gets for its code: once, and only after the approval.
   * @throws {OAuthError} `authorization_pending`, `slow_down`, `access_denied`, `expired_token`, `invalid_grant`
   */
  async redeem(deviceCode: string, client: string): Promise<{ userId: number; scopes: string }> {
    const now = this.#now()
    const hash = hashOf(deviceCode)
    const row = await this.#db
      .selectFrom('device_codes')
      .selectAll()
      .where('hash', '=', hash)
      .executeTakeFirst()
    if (row === undefined || row.client !== client)
      throw new OAuthError('invalid_grant', 'this device code is not known: begin again')
    if (row.state === 'used')
      throw new OAuthError('invalid_grant', 'this device code was used before: begin again')
    if (Date.parse(row.expires_at) <= now)
      throw new OAuthError('expired_token', 'nobody approved this sign-in in time: begin again')
    if (row.state === 'denied') throw new OAuthError('access_denied', 'this sign-in was refused')
    if (row.state === 'approved' && row.user_id !== null) {
      const used = await this.#db
        .updateTable('device_codes')
        .set({ state: 'used' })
        .where('hash', '=', hash)
        .where('state', '=', 'approved')
        .returning('hash')
        .executeTakeFirst()
      if (used === undefined)
        throw new OAuthError('invalid_grant', 'this device code was used before: begin again')
      return { userId: row.user_id, scopes: row.scopes }
    }
    const tooSoon = row.polled_at !== null && now - Date.parse(row.polled_at) < (INTERVAL - 1) * 1000
    const polled = { polled_at: new Date(now).toISOString() }
    await this.#db.updateTable('device_codes').set(polled).where('hash', '=', hash).execute()
    if (tooSoon) throw new OAuthError('slow_down', 'wait longer between two questions')
    throw new OAuthError('authorization_pending', 'nobody has approved this sign-in yet')
  }
}

function readUserCode(text: string): string {
  return text
    .toUpperCase()
    .replace(/[^A-Z]/g, '')
    .slice(0, 20)
}

function hashOf(code: string): string {
  return createHash('sha256').update(code).digest('hex')
}
