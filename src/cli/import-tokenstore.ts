import * as z from 'zod/mini'
import { SecretBox } from '../auth/secret-box.ts'
import { readSettings } from '../config/load-settings.ts'
import { connect, type Database } from '../database/connect.ts'
import { isTimoneError, TimoneError } from '../errors.ts'
import { recordEvent } from '../identity/events.ts'
import { Users } from '../identity/users.ts'
import { checkSealingKeys } from '../leases/sealing.ts'
import { type Io, print, printJson, say } from './io.ts'
import { readOldDatabase } from './old-database.ts'

export interface ImportTokenstoreOptions {
  readonly config?: string
  readonly data?: string
  /** Issuer of the sign-in that tokenstore had: its `user_id` is the subject there. */
  readonly issuer?: string
  /** False: only say what would be done. */
  readonly yes?: boolean
  readonly json?: boolean
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
  const { settings } = await readSettings({
    flags: { data: options.data },
    configFile: options.config,
    env: io.env,
    cwd: io.cwd,
  })
  if (settings.secretKeys === undefined)
    throw new TimoneError(
      'config',
      "no encryption key: set TIMONE_SECRET_KEYS, with tokenstore's CRYPTOKEY in the list",
    )
  const box = new SecretBox(settings.secretKeys)
  const rows = await readOldRows(from, io.cwd)
  // The newest of several: tokenstore did not keep them apart.
  const newest = [...new Map(rows.map((row) => [JSON.stringify([row.user_id, row.provider]), row])).values()]
  const opened = newest.map((row) => ({ ...row, refreshToken: openToken(box, row) }))
  const known = new Set(settings.providers.map(({ id }) => id))
  const result = { rows: rows.length, imported: 0, present: 0, unknown_provider: 0, dry_run: !yes }

  const database = await connect(settings.databaseUrl)
  try {
    if (yes) await checkSealingKeys(database.db, box)
    const users = new Users(database.db)
    for (const { provider, user_id: subject, refreshToken } of opened) {
      const source = provider.toLowerCase()
      if (!known.has(source)) {
        result.unknown_provider++
        continue
      }
      const user = await users.byIdentity(issuer, subject)
      if (user !== undefined && (await isPresent(database, user.id, source))) {
        result.present++
        continue
      }
      result.imported++
      if (!yes) continue
      const owner = user ?? (await users.signIn({ issuer, subject }, ''))
      await insert(database, { owner: `user:${owner.id}`, source, sealed: box.seal(refreshToken) })
      const event = { actor: '', action: 'lease.import', subject: `user:${owner.id}`, source: '' }
      await recordEvent(database.db, { ...event, data: { provider: source } })
    }
  } finally {
    await database.close()
  }
  report(result, options, io)
  return 0
}

function report(
  result: { rows: number; imported: number; present: number; unknown_provider: number; dry_run: boolean },
  options: ImportTokenstoreOptions,
  io: Io,
): void {
  if (options.json === true) {
    printJson(io, result)
    return
  }
  const verb = result.dry_run ? 'would be taken over' : 'taken over'
  print(
    io,
    `${result.rows} rows: ${result.imported} accounts ${verb}, ${result.present} are connected here already`,
  )
  if (result.unknown_provider > 0)
    say(
      io,
      `${result.unknown_provider} are of providers that the settings do not have: add [provider.NAME] first`,
    )
  if (result.dry_run) say(io, 'nothing was written: say --yes to do it')
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
