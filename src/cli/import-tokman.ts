import * as z from 'zod/mini'
import { recordEvent } from '../identity/events.ts'
import { parseGitHubResource, printGitHubResource } from '../leases/github-resource.ts'
import { GITHUB } from '../leases/github-routes.ts'
import { LeaseStore } from '../leases/lease-store.ts'
import { type ImportOptions, importInto, reportImport } from './import-into.ts'
import { type Io, print, say } from './io.ts'
import { readOldDatabase } from './old-database.ts'

/** A row of tokman's table `tokens`: `NAMESPACE/REPOSITORY`, a token in plain text, and its end in UTC without a zone. */
const OldRow = z.object({
  repo: z.string(),
  token: z.nullable(z.string().check(z.minLength(1))),
  expires_at: z.nullable(z.string()),
})

/** As text: both databases write it in the same way, and no client turns it into a time of its own zone. */
const QUERY = 'select repo, token, cast(expires_at as text) as expires_at from tokens order by expires_at'

/** A token that is good still, under the name that it has here. */
interface LiveToken {
  resource: string
  token: string
  /** Milliseconds since the epoch. */
  expiresAt: number
}

/**
 * `timone import tokman`: takes over the installation tokens in a tokman database that have not ended, so that nobody is
 * asked for new ones during the move. tokman had them minted for whole installations with all permissions; here they go
 * to whoever may have all that the app has (`lease:github/NS/REPO:token`), never to a narrower scope.
 * Without `yes` nothing is written.
 * @throws {TimoneError} `config`
 */
export async function importTokman(from: string, options: ImportOptions, io: Io): Promise<number> {
  const { yes: write = false } = options
  const result = await importInto(options, io, {
    keys: "set TIMONE_SECRET_KEYS to the server's, or --data to its folder",
    read: () => readOldDatabase(from, { query: QUERY, cwd: io.cwd, what: 'the table tokens of tokman' }),
    work: async (rows, { database, box }) => {
      const live = liveTokens(rows, Date.now())
      const ended = rows.length - live.length
      const counts = { rows: rows.length, imported: 0, present: 0, ended, dry_run: !write }
      const store = new LeaseStore({ db: database.db, box })
      for (const { resource, token, expiresAt } of live) {
        const key = { owner: '', source: GITHUB, resource }
        if ((await store.find(key)) !== undefined) {
          counts.present++
          continue
        }
        counts.imported++
        if (!write) continue
        await store.save(key, { accessToken: token, tokenType: 'token', expiresAt })
        const event = { actor: '', action: 'lease.import', subject: `github:${resource}`, source: '' }
        await recordEvent(database.db, event)
      }
      return counts
    },
  })
  const { rows, imported, present, ended } = result
  reportImport(result, options, io, () => {
    const verb = write ? 'taken over' : 'would be taken over'
    print(
      io,
      `${rows} rows: ${imported} tokens ${verb}, ${present} are here already, ${ended} have ended or are none: they are ` +
        'minted when they are asked for',
    )
    if (imported > 0)
      say(
        io,
        'each opens all that its installation does until it ends, within the hour; only scopes like ' +
          'lease:github/NAMESPACE/REPOSITORY:token are given it',
      )
  })
  return 0
}

/** One for each repository: names that differ in case only are one at GitHub, and the later row ends later. */
function liveTokens(rows: readonly unknown[], now: number): LiveToken[] {
  const found = new Map<string, LiveToken>()
  for (const row of rows) {
    const read = OldRow.safeParse(row)
    if (!read.success || read.data.token === null || read.data.expires_at === null) continue
    const { repo, token, expires_at: end } = read.data
    const expiresAt = Date.parse(`${end.replace(' ', 'T')}Z`)
    const resource = resourceOf(repo)
    if (resource !== undefined && expiresAt > now) found.set(resource, { resource, token, expiresAt })
  }
  return [...found.values()]
}

/** Undefined for what tokman noted without GitHub having such a repository. */
function resourceOf(repo: string): string | undefined {
  const [namespace = '', repository = '', ...rest] = repo.split('/')
  try {
    return rest.length > 0
      ? undefined
      : printGitHubResource(parseGitHubResource(namespace, repository, undefined))
  } catch {
    return undefined
  }
}
