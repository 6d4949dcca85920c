import * as z from 'zod/mini'
import type { SecretBox } from '../auth/secret-box.ts'
import { isTimoneError, TimoneError } from '../errors.ts'
import { importUser, moveNumbers, type OldUser } from '../identity/import-user.ts'
import { type ImportOptions, importInto, reportImport } from './import-into.ts'
import { type Io, print, say } from './io.ts'
import { readOldDatabase } from './old-database.ts'

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
export async function importIdent(from: string, options: ImportOptions, io: Io): Promise<number> {
  const { yes: write = false } = options
  const result = await importInto(options, io, {
    keys: "set TIMONE_SECRET_KEYS, with ident's encryption_key in the list",
    read: async (box) => usersOf(await readRows(from, io.cwd), box),
    work: async (users, { database }) => {
      const counts = { users: users.length, imported: 0, present: 0, taken: 0, dry_run: !write }
      for (const user of users) {
        const outcome = await importUser(database.db, user, { write })
        counts[outcome]++
        if (outcome === 'taken')
          say(io, `user ${user.id}: the number, address or an identity is somebody else's here`)
      }
      if (write) await moveNumbers(database.db)
      return counts
    },
  })
  reportImport(result, options, io, () => {
    const verb = write ? 'taken over' : 'would be taken over'
    print(io, `${result.users} users: ${result.imported} ${verb}, ${result.present} are here already`)
  })
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

async function readRows(from: string, cwd: string): Promise<OldRow[]> {
  if (!/^postgres(ql)?:\/\//.test(from))
    throw new TimoneError('config', 'say where the database of ident is: postgres://USER@HOST:PORT/NAME')
  const what = 'the users of ident'
  const rows = await readOldDatabase(from, { query: QUERY, cwd, what })
  return rows.map((row) => {
    const read = OldRow.safeParse(row)
    if (!read.success) throw new TimoneError('config', `cannot read ${what}: unexpected values`)
    return read.data
  })
}
