import type { Kysely } from 'kysely'
import { parseScope, printScope, type Scope } from '../auth/scope.ts'
import { LookUps } from '../database/look-ups.ts'
import type { Schema } from '../database/schema.ts'
import { TimoneError } from '../errors.ts'
import { recordEvent } from './events.ts'
import { isLogin } from './login-name.ts'
import type { User } from './users.ts'

/** Whom a grant is given to: `user:LOGIN`, or `group:NAME` for everyone whom the identity provider puts there. */
export type GrantPrincipal = `user:${string}` | `group:${string}`

export interface Grant {
  principal: GrantPrincipal
  /** Of `auth/scope.ts`. */
  scope: string
}

/** Groups of one user beyond which the rest is not looked at. */
const MAX_GROUPS = 500
/** Users whose rights one query asks for: with all their groups, fewer values than a query may have. */
const USERS_AT_ONCE = 20

/** What each user may do. All methods throw what the database throws. */
export class Grants {
  readonly #db: Kysely<Schema>
  readonly #fixed: readonly Grant[]
  readonly #now: () => number
  readonly #rights: LookUps<User, Scope[]>

  /** `fixed` are the grants of the settings, which no command takes away. */
  constructor(db: Kysely<Schema>, fixed: readonly Grant[] = [], now: () => number = Date.now) {
    this.#db = db
    this.#fixed = fixed
    this.#now = now
    this.#rights = new LookUps(
      (users) => this.#load(users),
      ({ id }) => String(id),
      USERS_AT_ONCE,
    )
  }

  /** All that a user may do now: by their own grants and by those of their groups. */
  async rightsOf(user: User): Promise<Scope[]> {
    return [...((await this.#rights.find(user)) ?? [])]
  }

  async #load(users: readonly User[]): Promise<Map<string, Scope[]>> {
    const ids = users.map(({ id }) => id)
    const groups = await this.#db
      .selectFrom('user_groups')
      .select(['user_id', 'name'])
      .where('user_id', 'in', ids)
      .execute()
    const principalsOf = ({ id, login }: User): string[] => [
      `user:${login}`,
      ...groups.filter(({ user_id }) => user_id === id).map(({ name }) => `group:${name}`),
    ]
    const all = [...new Set(users.flatMap(principalsOf))]
    const rows = await this.#db
      .selectFrom('grants')
      .select(['principal', 'scope'])
      .where('principal', 'in', all)
      .execute()
    return new Map(
      users.map((user) => {
        const principals = new Set(principalsOf(user))
        const own = [...rows, ...this.#fixed].filter(({ principal }) => principals.has(principal))
        return [String(user.id), [...new Set(own.map(({ scope }) => scope))].map(parseScope)]
      }),
    )
  }

  /** The groups that a user was in when they signed in last. */
  async groupsOf(userId: number): Promise<string[]> {
    const rows = await this.#db
      .selectFrom('user_groups')
      .select('name')
      .where('user_id', '=', userId)
      .execute()
    return rows.map(({ name }) => name)
  }

  /** Puts a user into these groups, and out of all others. */
  async setGroups(userId: number, groups: readonly string[]): Promise<void> {
    const names = [...new Set(groups)].filter(isGroup).slice(0, MAX_GROUPS)
    await this.#db.transaction().execute(async (db) => {
      await db.deleteFrom('user_groups').where('user_id', '=', userId).execute()
      if (names.length === 0) return
      const rows = names.map((name) => ({ user_id: userId, name }))
      await db
        .insertInto('user_groups')
        .values(rows)
        // Of another sign-in of this user, at the same time.
        .onConflict((conflict) => conflict.doNothing())
        .execute()
    })
  }

  /** The grants of one principal, or all; those of the settings too. */
  async list(principal?: GrantPrincipal): Promise<(Grant & { fixed: boolean })[]> {
    let query = this.#db.selectFrom('grants').select(['principal', 'scope'])
    if (principal !== undefined) query = query.where('principal', '=', principal)
    const rows = (await query.orderBy('principal').orderBy('scope').execute()) as Grant[]
    const fixed = this.#fixed.filter((grant) => principal === undefined || grant.principal === principal)
    return [
      ...fixed.map((grant) => ({ ...grant, fixed: true })),
      ...rows.map((grant) => ({ ...grant, fixed: false })),
    ]
  }

  /** Gives a right. False when they had it. @throws {TimoneError} `invalid` for a malformed scope or principal */
  async grant(
    principal: string,
    scope: string,
    by: { actor?: string; source?: string } = {},
  ): Promise<boolean> {
    const grant = checkGrant({ principal, scope })
    return this.#db.transaction().execute(async (db) => {
      const made = await db
        .insertInto('grants')
        .values({ ...grant, created_at: new Date(this.#now()).toISOString() })
        .onConflict((conflict) => conflict.doNothing())
        .returning('scope')
        .executeTakeFirst()
      if (made === undefined) return false
      await this.#record(db, 'grant.add', grant, by)
      return true
    })
  }

  /** Takes a right away. False when there is no such grant. @throws {TimoneError} `invalid` */
  async revoke(
    principal: string,
    scope: string,
    by: { actor?: string; source?: string } = {},
  ): Promise<boolean> {
    const grant = checkGrant({ principal, scope })
    return this.#db.transaction().execute(async (db) => {
      const gone = await db
        .deleteFrom('grants')
        .where('principal', '=', grant.principal)
        .where('scope', '=', grant.scope)
        .returning('scope')
        .executeTakeFirst()
      if (gone === undefined) return false
      await this.#record(db, 'grant.remove', grant, by)
      return true
    })
  }

  #record(
    db: Kysely<Schema>,
    action: string,
    { principal, scope }: Grant,
    { actor = '', source = '' }: { actor?: string; source?: string },
  ): Promise<void> {
    return recordEvent(db, { actor, action, subject: principal, source, data: { scope } }, this.#now())
  }
}

/** Checks a grant from outside. @throws {TimoneError} `invalid` */
export function checkGrant({ principal, scope }: { principal: string; scope: string }): Grant {
  const [, kind, name = ''] = /^(user|group):(.+)$/s.exec(principal) ?? []
  const printed = printScope(parseScope(scope))
  if (kind === 'user' && isLogin(name.toLowerCase()))
    return { principal: `user:${name.toLowerCase()}`, scope: printed }
  if (kind === 'group' && isGroup(name)) return { principal: `group:${name}`, scope: printed }
  throw new TimoneError('invalid', 'a grant is for user:LOGIN or group:NAME')
}

function isGroup(name: string): boolean {
  return name.length > 0 && name.length <= 255 && !/\p{Cc}/u.test(name)
}
