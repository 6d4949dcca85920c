import { type Kysely, type Selectable, sql } from 'kysely'
import type { Schema, UsersTable } from '../database/schema.ts'
import {
  type IdentDocument,
  type IdentQuery,
  type NewIdent,
  SERVICES,
  type Service,
  subjectText,
  subjectValue,
} from './ident-document.ts'
import { loginFrom, withNumber } from './login-name.ts'
import { insertIdentity, newRow } from './users.ts'

type UserRow = Selectable<UsersTable>
type Db = Kysely<Schema>

/** What a list of users is narrowed by; names in any case, as a part of the name. */
export interface UserFilter extends IdentQuery {
  name?: string | undefined
}

/** Where a service's token of a user lies in the table `leases`. */
const TOKEN = 'token'

const ownerOf = (id: number): string => `user:${id}`

function matching(db: Db, { user_id, email, name, ...ids }: UserFilter) {
  let query = db.selectFrom('users').selectAll('users')
  if (user_id !== undefined) query = query.where('users.id', '=', user_id)
  if (email !== undefined) query = query.where('email_key', '=', email.toLowerCase())
  if (name !== undefined) {
    // Wildcards of the caller are letters like others.
    const pattern = `%${name.toLowerCase().replace(/[\\%_]/g, '\\$&')}%`
    query = query.where(sql<boolean>`lower(users.name) like ${pattern} escape '\\'`)
  }
  for (const service of SERVICES) {
    const id = ids[`${service}_id`]
    if (id === undefined) continue
    query = query.where(({ exists, selectFrom }) =>
      exists(
        selectFrom('identities')
          .select('subject')
          .whereRef('user_id', '=', 'users.id')
          .where('issuer', '=', service)
          .where('subject', '=', subjectText(id)),
      ),
    )
  }
  return query
}

/** The user that all of `query` fits. */
export function findUser(db: Db, query: IdentQuery): Promise<UserRow | undefined> {
  return matching(db, query).executeTakeFirst()
}

export function listUsers(
  db: Db,
  filter: UserFilter,
  { after, limit }: { after: number; limit: number },
): Promise<UserRow[]> {
  return matching(db, filter).where('users.id', '>', after).orderBy('users.id').limit(limit).execute()
}

/** A user who is changed by nobody else until the transaction ends. */
export function lockUser(db: Db, id: number): Promise<UserRow | undefined> {
  // Writes the row as it is: SQLite has no SELECT … FOR UPDATE.
  return db
    .updateTable('users')
    .set(({ ref }) => ({ name: ref('name') }))
    .where('id', '=', id)
    .returningAll()
    .executeTakeFirst()
}

/** Users as callers see them, without tokens, in the order of `rows`. */
export async function documentsOf(db: Db, rows: readonly UserRow[]): Promise<IdentDocument[]> {
  if (rows.length === 0) return []
  const ids = rows.map(({ id }) => id)
  const links = await db
    .selectFrom('identities')
    .select(['user_id', 'issuer', 'subject'])
    .where('user_id', 'in', ids)
    .where('issuer', 'in', [...SERVICES])
    .execute()
  return rows.map(({ id, name, email, picture_url }) => ({
    id,
    name,
    ...(email === null ? {} : { email }),
    ...(picture_url === null ? {} : { picture_url }),
    ...Object.fromEntries(
      links
        .filter(({ user_id }) => user_id === id)
        .map(({ issuer, subject }) => [issuer, { id: subjectValue(subject) }]),
    ),
  }))
}

/** Undefined when the address is taken. */
export async function insertUser(db: Db, user: NewIdent, now: number): Promise<number | undefined> {
  const wanted = loginFrom([user.email, user.name])
  const taken = await db
    .selectFrom('users')
    .select('login')
    .where(sql<boolean>`login like ${`${wanted.replaceAll('_', '\\_')}%`} escape '\\'`)
    .execute()
  const logins = new Set(taken.map(({ login }) => login))
  for (let number = 1; number <= 1_000_000; number++) {
    const login = withNumber(wanted, number)
    if (logins.has(login)) continue
    const made = await db
      .insertInto('users')
      .values(newRow({ login, name: user.name, email: user.email, pictureUrl: user.picture_url }, now))
      .onConflict((conflict) => conflict.doNothing())
      .returning('id')
      .executeTakeFirst()
    if (made !== undefined) return made.id
    if (user.email !== undefined && (await findUser(db, { email: user.email })) !== undefined)
      return undefined
  }
  return undefined
}

/** False when somebody else has the address. */
export async function updateUser(db: Db, user: IdentDocument): Promise<boolean> {
  const email_key = user.email?.toLowerCase() ?? null
  const { numUpdatedRows } = await db
    .updateTable('users')
    .set({ name: user.name, email: user.email ?? null, picture_url: user.picture_url ?? null })
    .where('id', '=', user.id)
    .executeTakeFirst()
  if (numUpdatedRows === 0n) return false
  // A unique index that is hit would end the transaction with an error that says little.
  const holder = email_key === null ? undefined : await findUser(db, { email: email_key })
  if (holder !== undefined && holder.id !== user.id) return false
  await db.updateTable('users').set({ email_key }).where('id', '=', user.id).execute()
  return true
}

/** False when the identity is somebody's already. */
export async function insertLink(
  db: Db,
  id: number,
  service: Service,
  subject: number | string,
  now: number,
): Promise<boolean> {
  return insertIdentity(db, id, { issuer: service, subject: subjectText(subject) }, now)
}

export async function removeLink(db: Db, id: number, service: Service): Promise<void> {
  await db.deleteFrom('identities').where('user_id', '=', id).where('issuer', '=', service).execute()
}

/** Encrypted tokens of a user, by service. */
export async function tokensOf(db: Db, id: number): Promise<Map<string, string>> {
  const rows = await db
    .selectFrom('leases')
    .select(['source', 'access_token'])
    .where('owner', '=', ownerOf(id))
    .where('resource', '=', TOKEN)
    .where('source', 'in', [...SERVICES])
    .execute()
  return new Map(
    rows.flatMap(({ source, access_token }) => (access_token === null ? [] : [[source, access_token]])),
  )
}

/** `sealed` is encrypted. */
export async function saveToken(
  db: Db,
  id: number,
  service: Service,
  sealed: string,
  now: number,
): Promise<void> {
  const values = {
    access_token: sealed,
    refresh_token: null,
    token_type: 'bearer',
    scope: null,
    expires_at: null,
    refresh_expires_at: null,
    state: 'active',
    error: null,
    updated_at: new Date(now).toISOString(),
  }
  await db
    .insertInto('leases')
    .values({ owner: ownerOf(id), source: service, resource: TOKEN, ...values })
    .onConflict((conflict) => conflict.columns(['owner', 'source', 'resource']).doUpdateSet(values))
    .execute()
}

export async function removeToken(db: Db, id: number, service: Service): Promise<void> {
  await db
    .deleteFrom('leases')
    .where('owner', '=', ownerOf(id))
    .where('source', '=', service)
    .where('resource', '=', TOKEN)
    .execute()
}

/** With identities and tokens, which go by their foreign keys, and leases and grants. False when there is none. */
export async function deleteUser(db: Db, id: number): Promise<boolean> {
  const gone = await db.deleteFrom('users').where('id', '=', id).returning('login').executeTakeFirst()
  if (gone === undefined) return false
  await db.deleteFrom('leases').where('owner', '=', ownerOf(id)).execute()
  await db.deleteFrom('grants').where('principal', '=', `user:${gone.login}`).execute()
  return true
}
