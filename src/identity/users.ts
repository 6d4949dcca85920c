import type { Insertable, Kysely, Selectable } from 'kysely'
import { LookUps } from '../database/look-ups.ts'
import type { Schema, UsersTable } from '../database/schema.ts'
import { TimoneError } from '../errors.ts'
import { recordEvent } from './events.ts'
import { tellOfLink } from './link-notice.ts'
import { isLogin, loginFrom, withNumber } from './login-name.ts'

/** Somebody we know. */
export interface User {
  readonly id: number
  /** The user name of Basic authentication and the subject of tokens. */
  readonly login: string
  readonly name: string
  readonly email: string | null
  readonly pictureUrl: string | null
  /** Bytes; null: the server's default. */
  readonly quota: number | null
  /** ISO 8601; null: may sign in. */
  readonly disabledAt: string | null
  readonly createdAt: string
}

/** What somebody else's sign-in says of a person. Only issuer and subject say who it is. */
export interface ForeignIdentity {
  issuer: string
  subject: string
  /** For people: the login or address at the issuer. */
  label?: string | undefined
  email?: string | undefined
  emailVerified?: boolean | undefined
  name?: string | undefined
  picture?: string | undefined
  /** The login that they would like. */
  login?: string | undefined
}

export interface NewUser {
  login: string
  name?: string | undefined
  email?: string | undefined
  pictureUrl?: string | undefined
}

/** Thrown to undo a transaction whose identity somebody else made at the same time. */
class Lost extends Error {}

/** Everybody we know, and how others' sign-ins know them. All methods throw what the database throws. */
export class Users {
  readonly #db: Kysely<Schema>
  readonly #now: () => number
  readonly #byLogin: LookUps<string, User>

  /** `now` gives milliseconds since the epoch. */
  constructor(db: Kysely<Schema>, now: () => number = Date.now) {
    this.#db = db
    this.#now = now
    this.#byLogin = new LookUps(
      async (logins) => {
        const rows = await db.selectFrom('users').selectAll().where('login', 'in', logins).execute()
        return new Map(rows.map((row) => [row.login, userOf(row)]))
      },
      (login) => login,
    )
  }

  async byId(id: number): Promise<User | undefined> {
    const row = await this.#db.selectFrom('users').selectAll().where('id', '=', id).executeTakeFirst()
    return row && userOf(row)
  }

  /** Logins are kept in lower case, and found in any. */
  async byLogin(login: string): Promise<User | undefined> {
    return isLogin(login.toLowerCase()) ? this.#byLogin.find(login.toLowerCase()) : undefined
  }

  async byIdentity(issuer: string, subject: string): Promise<User | undefined> {
    const row = await this.#db
      .selectFrom('identities')
      .innerJoin('users', 'users.id', 'identities.user_id')
      .selectAll('users')
      .where('issuer', '=', issuer)
      .where('subject', '=', subject)
      .executeTakeFirst()
    return row && userOf(row)
  }

  /** One page of users, by their number. */
  async list(page: { after?: number; limit?: number } = {}): Promise<User[]> {
    const rows = await this.#db
      .selectFrom('users')
      .selectAll()
      .where('id', '>', page.after ?? 0)
      .orderBy('id')
      .limit(page.limit ?? 1000)
      .execute()
    return rows.map(userOf)
  }

  /**
   * Adds a user whom nobody's sign-in knows yet.
   * @throws {TimoneError} `invalid` for a malformed login, `exists` when login or address are taken
   */
  async add(user: NewUser, source: string, actor = ''): Promise<User> {
    const login = user.login.toLowerCase()
    if (!isLogin(login)) {
      throw new TimoneError(
        'invalid',
        'a login is 1 to 64 of a-z 0-9 . _ -, beginning with a letter or digit',
      )
    }
    return this.#db.transaction().execute(async (db) => {
      const made = await insertUser(db, { ...user, login }, this.#now())
      if (made === undefined) {
        throw new TimoneError('exists', `there is a user with the login ${login} or this address already`)
      }
      await recordEvent(db, userEvent('user.create', made, source, actor), this.#now())
      return made
    })
  }

  /**
   * The user whom this sign-in belongs to. At first sight one is made; or, when the issuer has verified the address, it
   * is the user whom the operator added with that address and whom no sign-in knows yet.
   * A disabled user is given too: whether they get in is the caller's affair.
   */
  async signIn(identity: ForeignIdentity, source: string): Promise<User> {
    for (let turn = 0; turn < 3; turn++) {
      const known = await this.byIdentity(identity.issuer, identity.subject)
      if (known !== undefined) return known
      try {
        return await this.#db.transaction().execute((db) => this.#meet(db, identity, source))
      } catch (error) {
        if (!(error instanceof Lost)) throw error
      }
    }
    throw new TimoneError('throttled', 'this user is being made by another request: try again')
  }

  /**
   * Lets a sign-in lead to this user from now on. One that does already stays.
   * @throws {TimoneError} `forbidden` when it leads to somebody else, `exists` when the user has another of this issuer
   */
  async link(userId: number, identity: ForeignIdentity, source: string): Promise<void> {
    const user = await this.byId(userId)
    if (user === undefined) throw new TimoneError('not_found', 'no such user')
    await this.#db.transaction().execute(async (db) => {
      if (await insertIdentity(db, userId, identity, this.#now())) {
        const event = userEvent('identity.link', user, source, user.login)
        await recordEvent(db, { ...event, data: { issuer: identity.issuer } }, this.#now())
        await tellOfLink(db, user, identity, { source, now: this.#now() })
        return
      }
      const holder = await db
        .selectFrom('identities')
        .select('user_id')
        .where('issuer', '=', identity.issuer)
        .where('subject', '=', identity.subject)
        .executeTakeFirst()
      if (holder?.user_id === userId) return
      if (holder !== undefined) {
        throw new TimoneError('forbidden', `this account at ${identity.issuer} belongs to another user here`)
      }
      throw new TimoneError('exists', `another account at ${identity.issuer} is linked to this user already`)
    })
  }

  /**
   * Disabled, a user cannot sign in, and none of their tokens opens anything.
   * @throws {TimoneError} `not_found`
   */
  async setDisabled(login: string, disabled: boolean, source: string, actor = ''): Promise<User> {
    const user = await this.byLogin(login)
    if (user === undefined) throw new TimoneError('not_found', `no such user: ${login}`)
    if ((user.disabledAt !== null) === disabled) return user
    const disabledAt = disabled ? new Date(this.#now()).toISOString() : null
    await this.#db.transaction().execute(async (db) => {
      await db.updateTable('users').set({ disabled_at: disabledAt }).where('id', '=', user.id).execute()
      const action = disabled ? 'user.disable' : 'user.enable'
      await recordEvent(db, userEvent(action, user, source, actor), this.#now())
    })
    return { ...user, disabledAt }
  }

  async #meet(db: Kysely<Schema>, identity: ForeignIdentity, source: string): Promise<User> {
    const user = (await this.#expected(db, identity)) ?? (await this.#make(db, identity, source))
    if (!(await insertIdentity(db, user.id, identity, this.#now()))) throw new Lost()
    return user
  }

  /** The user whom the operator added for this person. */
  async #expected(db: Kysely<Schema>, identity: ForeignIdentity): Promise<User | undefined> {
    if (identity.emailVerified !== true || identity.email === undefined) return undefined
    const row = await db
      .selectFrom('users')
      .selectAll()
      .where('email_key', '=', identity.email.toLowerCase())
      // One who has signed in before is never handed over to whoever has their address now.
      .where(({ not, exists, selectFrom }) =>
        not(exists(selectFrom('identities').select('subject').whereRef('user_id', '=', 'users.id'))),
      )
      .executeTakeFirst()
    return row && userOf(row)
  }

  async #make(db: Kysely<Schema>, identity: ForeignIdentity, source: string): Promise<User> {
    const wanted = loginFrom([identity.login, identity.email, identity.name])
    const { name = wanted, email, picture: pictureUrl } = identity
    // An address that nobody verified could keep its owner from having it here.
    const address = identity.emailVerified === true ? email : undefined
    for (let number = 1; number <= 1000; number++) {
      const login = withNumber(wanted, number)
      const made =
        (await insertUser(db, { login, name, email: address, pictureUrl }, this.#now())) ??
        (await insertUser(db, { login, name, pictureUrl }, this.#now()))
      if (made === undefined) continue
      await recordEvent(db, userEvent('user.create', made, source, made.login), this.#now())
      return made
    }
    throw new TimoneError('conflict', `no login like ${wanted} is free: ask your operator to add you`)
  }
}

/** A row of `users` that is about to be made. `now`: milliseconds since the epoch. */
export function newRow(
  user: Omit<NewUser, 'email' | 'pictureUrl'> & {
    email?: string | null | undefined
    pictureUrl?: string | null | undefined
  },
  now: number,
): Insertable<UsersTable> {
  const { login, name, email, pictureUrl } = user
  return {
    login,
    name: name ?? login,
    email: email ?? null,
    email_key: email?.toLowerCase() ?? null,
    picture_url: pictureUrl ?? null,
    quota: null,
    disabled_at: null,
    created_at: new Date(now).toISOString(),
  }
}

/** Undefined when login or address are taken. */
async function insertUser(db: Kysely<Schema>, user: NewUser, now: number): Promise<User | undefined> {
  const row = await db
    .insertInto('users')
    .values(newRow(user, now))
    .onConflict((conflict) => conflict.doNothing())
    .returningAll()
    .executeTakeFirst()
  return row && userOf(row)
}

/** False when it is there already, or the user has another one of this issuer. */
export async function insertIdentity(
  db: Kysely<Schema>,
  userId: number,
  { issuer, subject, label }: Pick<ForeignIdentity, 'issuer' | 'subject' | 'label'>,
  now: number,
): Promise<boolean> {
  const made = await db
    .insertInto('identities')
    .values({
      issuer,
      subject,
      user_id: userId,
      label: label ?? null,
      created_at: new Date(now).toISOString(),
    })
    .onConflict((conflict) => conflict.doNothing())
    .returning('user_id')
    .executeTakeFirst()
  return made !== undefined
}

function userEvent(action: string, user: User, source: string, actor: string) {
  return { actor, action, subject: `user:${user.id}`, source, data: { login: user.login } }
}

/** A row of `users` as the rest of the program knows it. */
export function userOf(row: Selectable<UsersTable>): User {
  return {
    id: row.id,
    login: row.login,
    name: row.name,
    email: row.email,
    pictureUrl: row.picture_url,
    // Postgres gives text for 64 bits.
    quota: row.quota === null ? null : Number(row.quota),
    disabledAt: row.disabled_at,
    createdAt: row.created_at,
  }
}
