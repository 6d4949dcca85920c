import * as z from 'zod/mini'
import { SecretBox } from '../auth/secret-box.ts'
import { readSettings } from '../config/load-settings.ts'
import { connect } from '../database/connect.ts'
import { isTimoneError, TimoneError } from '../errors.ts'
import { importUser, moveNumbers, type OldUser } from '../identity/import-user.ts'
import { checkSealingKeys } from '../leases/sealing.ts'
import { type Io, print, printJson, say } from './io.ts'
import type { OperatorOptions } from './operator-database.ts'

export interface ImportIdentOptions extends OperatorOptions {
  /** False: only say what would be done. */
  readonly yes?: boolean
}

/** A user of glotpod.ident with one of their services, or with none. */
const OldRow = z.object({
  id: z.int().check(z.positive()),
  name: z.string(),
  email: z.nullable(z.string()),
  picture_url: z.nullable(z.string()),
  service: z.nullable(z.string()),
  subject: z.nullable(z.string()),
  /** A Fernet token. */
  token: z.nullable(z.instanceof(Uint8Array)),
})
type OldRow = z.infer<typeof OldRow>

const QUERY = `select u.id, u.name, u.email_address as email, u.picture_url,
  s.sv_name::text as service, s.sv_id::text as subject, s.access_token as token
  from users u left join services s on s.user_id = u.id order by u.id`
/** Its names of services, and ours. */
const SERVICES: ReadonlyMap<string, 'github' | 'facebook'> = new Map([
  ['gh', 'github'],
  ['github', 'github'],
  ['fb', 'facebook'],
  ['facebook', 'facebook'],
])

/**
 * `timone import ident`: takes over the users of a glotpod.ident database under their numbers, with their identities and
 * access tokens. Without `yes` nothing is written. Gives 1 when some could not be taken over.
 * @throws {TimoneError} `config`; also when a token was encrypted with a key that is not among `secrets.keys`
 */
export async function importIdent(from: string, options: ImportIdentOptions, io: Io): Promise<number> {
  const { yes: write = false } = options
  const source = { flags: { data: options.data }, configFile: options.config, env: io.env, cwd: io.cwd }
  const { settings } = await readSettings(source)
  if (settings.secretKeys === undefined)
    throw new TimoneError(
      'config',
      "no encryption key: set TIMONE_SECRET_KEYS, with ident's encryption_key in the list",
    )
  const box = new SecretBox(settings.secretKeys)
  const users = usersOf(await readRows(from), box)
  const result = { users: users.length, imported: 0, present: 0, taken: 0, dry_run: !write }
  const database = await connect(settings.databaseUrl)
  try {
    if (write) await checkSealingKeys(database.db, box)
    for (const user of users) {
      const outcome = await importUser(database.db, user, { write })
      result[outcome]++
      if (outcome === 'taken')
        say(io, `user ${user.id}: the number, address or an identity is somebody else's here`)
    }
    if (write) await moveNumbers(database.db)
  } finally {
    await database.close()
  }
  if (options.json === true) printJson(io, result)
  else {
    const verb = write ? 'taken over' : 'would be taken over'
    print(io, `${result.users} users: ${result.imported} ${verb}, ${result.present} are here already`)
    if (!write) say(io, 'nothing was written: say --yes to do it')
  }
  return result.taken === 0 ? 0 : 1
}

function usersOf(rows: readonly OldRow[], box: SecretBox): OldUser[] {
  const users = new Map<number, OldUser>()
  for (const row of rows) {
    const links = users.get(row.id)?.links ?? []
    const service = SERVICES.get((row.service ?? '').toLowerCase())
    const { subject } = row
    const link =
      service === undefined || subject === null ? [] : [{ service, subject, sealed: reseal(row, box) }]
    const email = row.email !== null && /^[^\s@]{1,64}@[^\s@]{1,189}$/.test(row.email) ? row.email : null
    const isPicture = /^https?:$/.test(URL.parse(row.picture_url ?? '')?.protocol ?? '')
    users.set(row.id, {
      id: row.id,
      // Old names were not checked, and end up in headers and logs.
      name: row.name.replace(/[\p{Cc}\p{Zl}\p{Zp}]+/gu, ' ').slice(0, 256) || `user ${row.id}`,
      email,
      pictureUrl: isPicture ? row.picture_url : null,
      links: [...links, ...link],
    })
  }
  return [...users.values()]
}

/** From the old key to the newest of ours. */
function reseal({ id, token }: OldRow, box: SecretBox): string | undefined {
  if (token === null) return undefined
  try {
    return box.seal(box.open(Buffer.from(token).toString('latin1')))
  } catch (error) {
    if (!isTimoneError(error)) throw error
    throw new TimoneError(
      'config',
      `a token of user ${id} was encrypted with another key than those at hand (${box.keyIds.join(', ')}): ` +
        "add ident's encryption_key to secrets.keys (TIMONE_SECRET_KEYS)",
    )
  }
}

/** Reads only. */
async function readRows(from: string): Promise<OldRow[]> {
  if (!/^postgres(ql)?:\/\//.test(from))
    throw new TimoneError('config', 'say where the database of ident is: postgres://USER@HOST:PORT/NAME')
  const { default: pg } = await import('pg')
  const client = new pg.Client({ connectionString: from, connectionTimeoutMillis: 5_000 })
  try {
    await client.connect()
    return (await client.query(QUERY)).rows.map((row) => OldRow.parse(row))
  } catch (error) {
    const reason = error instanceof z.core.$ZodError ? 'unexpected values' : (error as Error).message
    throw new TimoneError('config', `cannot read the users of ident: ${reason}`, { cause: error })
  } finally {
    await client.end()
  }
}
