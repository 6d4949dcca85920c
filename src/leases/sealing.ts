import type { Kysely } from 'kysely'
import type { SecretBox } from '../auth/secret-box.ts'
import type { Schema } from '../database/schema.ts'
import { TimoneError } from '../errors.ts'

/**
 * Notes the key that seals from now on. Everything in the database was sealed with a key that was noted, so a start
 * without one of those could not read all of it.
 * @throws {TimoneError} `config`, naming the keys that are missing
 */
export async function checkSealingKeys(db: Kysely<Schema>, box: SecretBox, now = Date.now()): Promise<void> {
  const noted = await db.selectFrom('sealing_keys').select('id').orderBy('created_at').execute()
  const missing = noted.map(({ id }) => id).filter((id) => !box.keyIds.includes(id))
  if (missing.length > 0) {
    throw new TimoneError(
      'config',
      `secrets in the database are encrypted with the key ${missing.join(', ')}, which secrets.keys (TIMONE_SECRET_KEYS) ` +
        `does not have (it has ${box.keyIds.join(', ')}): add it after the first one, then run timone secrets rotate`,
    )
  }
  await db
    .insertInto('sealing_keys')
    .values({ id: box.keyId, created_at: new Date(now).toISOString() })
    .onConflict((conflict) => conflict.column('id').doNothing())
    .execute()
}

/** What {@link resealAll} did. */
export interface Resealed {
  /** Secrets that were encrypted anew. */
  changed: number
  /** Secrets that were encrypted with the first key already. */
  current: number
  /** Ids of keys that nothing is encrypted with any more. */
  retired: string[]
}

/**
 * Encrypts with the first key whatever another key encrypted, row by row, while servers go on: a row that one of them
 * changes meanwhile is read again. They must have the same list of keys by then.
 * @throws {TimoneError} `config` when something cannot be decrypted; what was done until then stays done
 */
export async function resealAll(db: Kysely<Schema>, box: SecretBox): Promise<Resealed> {
  await checkSealingKeys(db, box)
  const result: Resealed = { changed: 0, current: 0, retired: [] }
  const renew = (sealed: string): string => {
    if (box.isCurrent(sealed)) {
      result.current++
      return sealed
    }
    result.changed++
    return box.seal(box.open(sealed))
  }
  for (const column of ['access_token', 'refresh_token'] as const) {
    const keys = await db
      .selectFrom('leases')
      .select(['owner', 'source', 'resource'])
      .where(column, 'is not', null)
      .execute()
    for (const key of keys) {
      await settle(async () => {
        const row = await db
          .selectFrom('leases')
          .select(column)
          .where('owner', '=', key.owner)
          .where('source', '=', key.source)
          .where('resource', '=', key.resource)
          .executeTakeFirst()
        const sealed = row?.[column]
        if (sealed === null || sealed === undefined) return true
        const { numUpdatedRows } = await db
          .updateTable('leases')
          .set({ [column]: renew(sealed) })
          .where('owner', '=', key.owner)
          .where('source', '=', key.source)
          .where('resource', '=', key.resource)
          .where(column, '=', sealed)
          .executeTakeFirst()
        return numUpdatedRows > 0n
      })
    }
  }
  for (const { kid, private_key } of await db.selectFrom('signing_keys').selectAll().execute()) {
    await db
      .updateTable('signing_keys')
      .set({ private_key: renew(private_key) })
      .where('kid', '=', kid)
      .execute()
  }
  const noted = await db.selectFrom('sealing_keys').select('id').execute()
  result.retired = noted.map(({ id }) => id).filter((id) => id !== box.keyId)
  await db.deleteFrom('sealing_keys').where('id', '!=', box.keyId).execute()
  return result
}

/** Until it is done, or somebody changes it faster than we can look. */
async function settle(attempt: () => Promise<boolean>): Promise<void> {
  for (let count = 0; count < 10; count++) if (await attempt()) return
  throw new TimoneError('conflict', 'a lease changes all the time: run it again')
}
