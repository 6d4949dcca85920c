import type { Kysely } from 'kysely'
import type { SecretBox } from '../auth/secret-box.ts'
import type { Schema } from '../database/schema.ts'
import { recordEvent } from './events.ts'
import {
  type IdentDocument,
  type IdentQuery,
  type NewIdent,
  type PatchOperation,
  SERVICES,
} from './ident-document.ts'
import { IdentError } from './ident-error.ts'
import { patchDocument, type View } from './ident-patch.ts'
import * as store from './ident-store.ts'

/** Who asks for an operation, for the audit trail. */
export interface Asker {
  /** Login; empty: not known. */
  actor: string
  /** Address, or `amqp`. */
  source: string
}

export interface IdentOptions {
  db: Kysely<Schema>
  box: SecretBox
  /** Called after each change was committed. */
  changed?: () => void
  /** Milliseconds since the epoch. */
  now?: () => number
}

/** Thrown to undo a transaction that finds its user in the way of another. */
class Taken extends Error {}

/** Users and their linked sign-ins, for other programs. All methods throw what the database throws. */
export class Ident {
  readonly #db: Kysely<Schema>
  readonly #box: SecretBox
  readonly #changed: () => void
  readonly #now: () => number

  constructor({ db, box, changed = () => {}, now = Date.now }: IdentOptions) {
    this.#db = db
    this.#box = box
    this.#changed = changed
    this.#now = now
  }

  /** The user that all of `query` fits. @throws {IdentError} `not_found` */
  async get(query: IdentQuery, { withTokens = false } = {}): Promise<IdentDocument> {
    const row = await store.findUser(this.#db, query)
    if (row === undefined) throw notFound()
    const [document] = await store.documentsOf(this.#db, [row])
    if (document === undefined) throw notFound()
    if (withTokens) {
      const tokens = await store.tokensOf(this.#db, row.id)
      for (const service of SERVICES) {
        const sealed = tokens.get(service)
        const link = document[service]
        if (sealed !== undefined && link !== undefined) link.access_token = this.#box.open(sealed)
      }
    }
    return document
  }

  /** One page of users, by their number; `next` is what the following one comes after. */
  async list(
    filter: store.UserFilter,
    page: { after: number; limit: number },
  ): Promise<{ users: IdentDocument[]; next?: number }> {
    const rows = await store.listUsers(this.#db, filter, { after: page.after, limit: page.limit + 1 })
    const users = await store.documentsOf(this.#db, rows.slice(0, page.limit))
    const last = users.at(-1)
    return rows.length > page.limit && last !== undefined ? { users, next: last.id } : { users }
  }

  /**
   * Adds a user. With `again` the same user asked for once more is the one that is there already: a request that was
   * carried out and whose answer was lost comes twice.
   * @throws {IdentError} `conflict` when somebody else has the address or one of the identities
   */
  async create(wanted: NewIdent, by: Asker, { again = false } = {}): Promise<{ user_id: number }> {
    try {
      const id = await this.#db.transaction().execute(async (db) => {
        const id = await store.insertUser(db, wanted, this.#now())
        if (id === undefined) throw new Taken()
        for (const service of SERVICES) {
          const link = wanted[service]
          if (link === undefined) continue
          if (!(await store.insertLink(db, id, service, link.id, this.#now()))) throw new Taken()
          if (link.access_token === undefined) continue
          await store.saveToken(db, id, service, this.#box.seal(link.access_token), this.#now())
        }
        await recordEvent(db, { ...by, action: 'user.create', subject: `user:${id}` }, this.#now())
        return id
      })
      this.#changed()
      return { user_id: id }
    } catch (error) {
      if (!(error instanceof Taken)) throw error
    }
    const known = again ? await this.#same(wanted) : undefined
    if (known === undefined) throw new IdentError('conflict', 'another user has this address or identity')
    return { user_id: known }
  }

  /**
   * Changes a user by JSON Patch (RFC 6902). Gives the operations.
   * @throws {IdentError} `not_found`; `patch_failed`, `invalid_patch_result`; `conflict` when somebody else has the new
   *   address or identity
   */
  async patch(
    id: number,
    operations: readonly PatchOperation[],
    by: Asker,
    view?: View,
  ): Promise<PatchOperation[]> {
    const change = async (db: Kysely<Schema>): Promise<void> => {
      const row = await store.lockUser(db, id)
      if (row === undefined) throw notFound()
      const [before] = await store.documentsOf(db, [row])
      if (before === undefined) throw notFound()
      const stored = new Set((await store.tokensOf(db, id)).keys())
      const { document, operations: heard, keptTokens } = patchDocument(before, operations, stored, view)
      if (!(await store.updateUser(db, document))) throw taken()
      for (const service of SERVICES) {
        const [was, is] = [before[service], document[service]]
        if (was !== undefined && was.id !== is?.id) await store.removeLink(db, id, service)
        if (stored.has(service) && !keptTokens.has(service)) await store.removeToken(db, id, service)
        if (is === undefined) continue
        if (was?.id !== is.id && !(await store.insertLink(db, id, service, is.id, this.#now()))) throw taken()
        if (is.access_token === undefined) continue
        await store.saveToken(db, id, service, this.#box.seal(is.access_token), this.#now())
      }
      const event = { ...by, action: 'user.patch', subject: `user:${id}`, data: { ops: heard } }
      await recordEvent(db, event, this.#now())
    }
    try {
      await this.#db.transaction().execute(change)
    } catch (error) {
      if (isUniqueViolation(error)) throw taken()
      throw error
    }
    this.#changed()
    return [...operations]
  }

  /** Removes a user with everything that was theirs. @throws {IdentError} `not_found` */
  async delete(id: number, by: Asker): Promise<{ user_id: number }> {
    await this.#db.transaction().execute(async (db) => {
      if (!(await store.deleteUser(db, id))) throw notFound()
      await recordEvent(db, { ...by, action: 'user.delete', subject: `user:${id}` }, this.#now())
    })
    this.#changed()
    return { user_id: id }
  }

  /** The user who is exactly what is wanted. */
  async #same(wanted: NewIdent): Promise<number | undefined> {
    const row = await store.findUser(this.#db, { email: wanted.email })
    if (row === undefined) return undefined
    const [known] = await store.documentsOf(this.#db, [row])
    const matches =
      known?.name === wanted.name &&
      known.picture_url === wanted.picture_url &&
      SERVICES.every((service) => String(known[service]?.id) === String(wanted[service]?.id))
    return matches ? row.id : undefined
  }
}

/** Somebody else took the address at the same time (PostgreSQL manual, appendix A). */
function isUniqueViolation(error: unknown): boolean {
  const cause = error instanceof Error ? (error.cause as { code?: unknown } | undefined) : undefined
  return cause?.code === '23505'
}

function notFound(): IdentError {
  return new IdentError('not_found', 'no such user')
}

function taken(): IdentError {
  return new IdentError('conflict', 'another user has this address or identity')
}
