import { createHmac, timingSafeEqual } from 'node:crypto'
import type { Kysely } from 'kysely'
import type { Schema } from '../database/schema.ts'
import { TimoneError } from '../errors.ts'
import { readCookie } from './cookies.ts'
import { recordEvent } from './events.ts'
import { OpaqueTokens } from './opaque-tokens.ts'
import { type User, Users } from './users.ts'

/** Somebody who is signed in with a browser. */
export interface Session {
  readonly id: string
  readonly user: User
  /** What the hidden field `csrf` of every form must hold. */
  readonly csrf: string
}

export interface SessionsOptions {
  db: Kysely<Schema>
  /** Public URL of the server. */
  url: string
  /** Milliseconds since the epoch. */
  now?: () => number
}

/** Seconds that a sign-in in a browser lasts. */
const LIFETIME = 12 * 3600

/** Sign-ins in browsers: an opaque token in a cookie that no script can read and other sites cannot make it send along. */
export class Sessions {
  readonly #db: Kysely<Schema>
  readonly #tokens: OpaqueTokens
  readonly #users: Users
  readonly #now: () => number
  readonly #secure: boolean

  constructor({ db, url, now = Date.now }: SessionsOptions) {
    this.#db = db
    this.#tokens = new OpaqueTokens(db, now)
    this.#users = new Users(db, now)
    this.#now = now
    this.#secure = url.startsWith('https:')
  }

  /**
   * Signs a user in.
   * @param from.source address of the browser
   * @param from.client what the browser calls itself, for the user's own list
   * @returns `cookie` for a `Set-Cookie` header
   * @throws {TimoneError} `forbidden` for a disabled user
   */
  async start(
    userId: number,
    from: { source: string; client: string },
  ): Promise<{ cookie: string; session: Session }> {
    const user = await this.#users.byId(userId)
    if (user === undefined || user.disabledAt !== null)
      throw new TimoneError('forbidden', 'this user may not sign in: ask the operator of this server')
    const client = from.client.replace(/\p{Cc}/gu, '').slice(0, 200)
    const { token, id } = await this.#tokens.issue({
      userId,
      kind: 'session',
      scopes: [],
      client,
      expiresIn: LIFETIME,
    })
    const event = {
      actor: user.login,
      action: 'session.start',
      subject: `user:${userId}`,
      source: from.source,
    }
    await recordEvent(this.#db, event, this.#now())
    return { cookie: this.#cookie(token, LIFETIME), session: { id, user, csrf: csrfOf(token) } }
  }

  /** Whoever's browser sent these headers; undefined: nobody who is signed in. */
  async of(headers: { cookie?: string | undefined }): Promise<Session | undefined> {
    const token = readCookie(headers.cookie, this.#name)
    const found = token === undefined ? undefined : await this.#tokens.find(token, 'session')
    if (token === undefined || found?.user === undefined) return undefined
    return { id: found.id, user: found.user, csrf: csrfOf(token) }
  }

  /** Signs out, on every instance at once. Gives the `Set-Cookie` value that makes the browser forget. */
  async end(id: string): Promise<{ cookie: string }> {
    await this.#tokens.revoke(id)
    return { cookie: this.#cookie('', 0) }
  }

  /** The prefix makes browsers refuse the cookie from other hosts and over plain http (RFC 6265bis, section 4.1.3). */
  get #name(): string {
    return this.#secure ? '__Host-timone' : 'timone-session'
  }

  #cookie(value: string, seconds: number): string {
    const secure = this.#secure ? '; Secure' : ''
    return `${this.#name}=${value}; Path=/; Max-Age=${seconds}; HttpOnly; SameSite=Lax${secure}`
  }
}

/** @throws {TimoneError} `forbidden` when a form was not made for this session */
export function checkCsrf(session: Session, value: unknown): void {
  const given = Buffer.from(typeof value === 'string' ? value : '')
  const wanted = Buffer.from(session.csrf)
  if (given.length !== wanted.length || !timingSafeEqual(given, wanted))
    throw new TimoneError(
      'forbidden',
      'this form is out of date: go back, load the page again, and send it again',
    )
}

/** Nothing to keep: made from the cookie's token, which it does not give away. */
function csrfOf(token: string): string {
  return createHmac('sha256', token).update('timone csrf').digest('base64url')
}
