import * as z from 'zod/mini'
import { SecretBox } from '../auth/secret-box.ts'
import { readSettings } from '../config/load-settings.ts'
import { connect } from '../database/connect.ts'
import { TimoneError } from '../errors.ts'
import { recordEvent } from '../identity/events.ts'
import { parseGitHubResource, printGitHubResource } from '../leases/github-resource.ts'
import { GITHUB } from '../leases/github-routes.ts'
import { LeaseStore } from '../leases/lease-store.ts'
import { checkSealingKeys } from '../leases/sealing.ts'
import { type Io, print, printJson, say } from './io.ts'
import { readOldDatabase } from './old-database.ts'
import type { OperatorOptions } from './operator-database.ts'

export interface ImportTokmanOptions extends OperatorOptions {
  /** False: only say what would be done. */
  readonly yes?: boolean
}

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
export async function importTokman(from: string, options: ImportTokmanOptions, io: Io): Promise<number> {
  const { yes: write = false } = options
  const source = { flags: { data: options.data }, configFile: options.config, env: io.env, cwd: io.cwd }
  const { settings } = await readSettings(source)
  if (settings.secretKeys === undefined)
    throw new TimoneError(
      'config',
      "no encryption key: set TIMONE_SECRET_KEYS to the server's, or --data to its folder",
    )
  const box = new SecretBox(settings.secretKeys)
  const what = 'the table tokens of tokman'
  const rows = await readOldDatabase(from, { query: QUERY, cwd: io.cwd, what })
  const live = liveTokens(rows, Date.now())
  const ended = rows.length - live.length
  const result = { rows: rows.length, imported: 0, present: 0, ended, dry_run: !write }

  const database = await connect(settings.databaseUrl)
  try {
    if (write) await checkSealingKeys(database.db, box)
    const store = new LeaseStore({ db: database.db, box })
    for (const { resource, token, expiresAt } of live) {
      const key = { owner: '', source: GITHUB, resource }
      if ((await store.find(key)) !== undefined) {
        result.present++
        continue
      }
      result.imported++
      if (!write) continue
      await store.save(key, { accessToken: token, tokenType: 'token', expiresAt })
      await recordEvent(database.db, {
        actor: '',
        action: 'lease.import',
        subject: `github:${resource}`,
        source: '',
      })
    }
  } finally {
    await database.close()
  }
  report(result, options, io)
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

function report(
  result: { rows: number; imported: number; present: number; ended: number; dry_run: boolean },
  options: ImportTokmanOptions,
  io: Io,
): void {
  if (options.json === true) {
    printJson(io, result)
    return
  }
  const verb = result.dry_run ? 'would be taken over' : 'taken over'
  print(
    io,
    `${result.rows} rows: ${result.imported} tokens ${verb}, ${result.present} are here already, ${result.ended} have ` +
      'ended or are none: they are minted when they are asked for',
  )
  if (result.imported > 0)
    say(
      io,
      'each opens all that its installation does until it ends, within the hour; only scopes like ' +
        'lease:github/NAMESPACE/REPOSITORY:token are given it',
    )
  if (result.dry_run) say(io, 'nothing was written: say --yes to do it')
}
