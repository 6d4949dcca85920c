import * as z from 'zod/mini'
import type { SecretBox } from '../auth/secret-box.ts'
import type { Database } from '../database/connect.ts'
import { isTimoneError, TimoneError } from '../errors.ts'
import { recordEvent } from '../identity/events.ts'
import { Users } from '../identity/users.ts'
import { type ImportOptions, importInto, reportImport } from './import-into.ts'
import { type Io, print, say } from './io.ts'
import { readOldDatabase } from './old-database.ts'

export interface ImportTokenstoreOptions extends ImportOptions {
  /** Issuer of the sign-in that tokenstore had: its `user_id` is the subject there. */
  readonly issuer?: string
}

/** A row of tokenstore's table `refresh_token`; `token` is a Fernet token. */
const OldRow = z.object({
  id: z.number(),
  provider: z.string(),
  token: z.string(),
  user_id: z.string(),
})
type OldRow = z.infer<typeof OldRow>

/**
 * `timone import tokenstore`: takes over the refresh tokens of a tokenstore database, each for the user whose sign-in at
 * `issuer` has the old user id as subject; users that are not known yet are made. Accounts that are connected here
 * already stay as they are. Without `yes` nothing is written.
 * @throws {TimoneError} `config`; also when a token was encrypted with a key that is not among `secrets.keys`
 */
export async function importTokenstore(
  from: string,
  options: ImportTokenstoreOptions,
  io: Io,
): Promise<number> {
  const { issuer, yes = false } = options
  if (issuer === undefined)
    throw new TimoneError('config', 'say where the users of tokenstore signed in, with --issuer URL')
  const result = await importInto(options, io, {
    keys: "set TIMONE_SECRET_KEYS, with tokenstore's CRYPTOKEY in the list",
    read: async (box) => {
      const rows = await readOldRows(from, io.cwd)
      // The newest of several: tokenstore did not keep them apart.
      const newest = new Map(rows.map((row) => [JSON.stringify([row.user_id, row.provider]), row]))
      const opened = [...newest.values()].map((row) => ({ ...row, refreshToken: openToken(box, row) }))
      return { count: rows.length, opened }
    },
    work: async ({ count, opened }, { database, box, providers }) => {
      const counts = { rows: count, imported: 0, present: 0, unknown_provider: 0, dry_run: !yes }
      const users = new Users(database.db)
      for (const { provider, user_id: subject, refreshToken } of opened) {
        const source = provider.toLowerCase()
        if (!providers.has(source)) {
          counts.unknown_provider++
          continue
        }
        const user = await users.byIdentity(issuer, subject)
        if (user !== undefined && (await isPresent(database, user.id, source))) {
          counts.present++
          continue
        }
        counts.imported++
        if (!yes) continue
        const owner = user ?? (await users.signIn({ issuer, subject }, ''))
        await insert(database, { owner: `user:${owner.id}`, source, sealed: box.seal(refreshToken) })
        const event = { actor: '', action: 'lease.import', subject: `user:${owner.id}`, source: '' }
        await recordEvent(database.db, { ...event, data: { provider: source } })
      }
      return counts
    },
  })
  const { rows, imported, present, unknown_provider: unknown } = result
  reportImport(result, options, io, () => {
    const verb = yes ? 'taken over' : 'would be taken over'
    print(io, `${rows} rows: ${imported} accounts ${verb}, ${present} are connected here already`)
    if (unknown > 0)
      say(io, `${unknown} are of providers that the settings do not have: add [provider.NAME] first`)
  })
  return 0
}

async function isPresent(database: Database, userId: number, source: string): Promise<boolean> {
  const row = await database.db
    .selectFrom('leases')
    .select('state')
    .where('owner', '=', `user:${userId}`)
    .where('source', '=', source)
    .executeTakeFirst()
  return row !== undefined
}

/** Without an access token: the first use renews it. */
async function insert(
  database: Database,
  lease: { owner: string; source: string; sealed: string },
): Promise<void> {
  const nothing = {
    access_token: null,
    token_type: null,
    scope: null,
    expires_at: null,
    refresh_expires_at: null,
  }
  await database.db
    .insertInto('leases')
    .values({
      ...nothing,
      owner: lease.owner,
      source: lease.source,
      resource: '',
      refresh_token: lease.sealed,
      state: 'active',
      error: null,
      updated_at: new Date().toISOString(),
    })
    .onConflict((conflict) => conflict.doNothing())
    .execute()
}

function openToken(box: SecretBox, row: OldRow): string {
  try {
    return box.open(row.token)
  } catch (error) {
    if (!isTimoneError(error)) throw error
    throw new TimoneError(
      'config',
      `row ${row.id} of refresh_token was encrypted with another key than those at hand (${box.keyIds.join(', ')}): ` +
        "add tokenstore's CRYPTOKEY to secrets.keys (TIMONE_SECRET_KEYS)",
    )
  }
}

const QUERY = 'select id, provider, token, user_id from refresh_token order by id'

/** @throws {TimoneError} `config` */
async function readOldRows(from: string, cwd: string): Promise<OldRow[]> {
  const what = 'the table refresh_token of tokenstore'
  const rows = await readOldDatabase(from, { query: QUERY, cwd, what })
  return rows.map((row) => {
    const { token, id, ...rest } = row as { token: unknown; id: unknown }
    const text = token instanceof Uint8Array ? Buffer.from(token).toString('latin1') : token
    const read = OldRow.safeParse({ ...rest, id: Number(id), token: text })
    if (!read.success)
      throw new TimoneError('config', `${what} has a row with unexpected values: ${Number(id)}`)
    return read.data
  })
}
