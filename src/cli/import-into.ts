import { SecretBox } from '../auth/secret-box.ts'
import { readSettings } from '../config/load-settings.ts'
import { connect, type Database } from '../database/connect.ts'
import { TimoneError } from '../errors.ts'
import { checkSealingKeys } from '../leases/sealing.ts'
import { type Io, printJson, say } from './io.ts'
import type { OperatorOptions } from './operator-database.ts'

export interface ImportOptions extends OperatorOptions {
  /** False: only say what would be done. */
  readonly yes?: boolean
}

/** Where the rows of an earlier system go. */
export interface ImportTarget {
  readonly database: Database
  /** Seals what is written. */
  readonly box: SecretBox
  /** Ids of the providers that the settings have. */
  readonly providers: ReadonlySet<string>
}

/**
 * Reads all of an earlier system, and only then opens the server's database, for as long as `work` takes.
 * @param keys what to do without an encryption key
 * @throws {TimoneError} `config`
 */
export async function importInto<R, T>(
  options: ImportOptions,
  io: Io,
  steps: {
    keys: string
    read: (box: SecretBox) => Promise<R>
    work: (rows: R, target: ImportTarget) => Promise<T>
  },
): Promise<T> {
  const source = { flags: { data: options.data }, configFile: options.config, env: io.env, cwd: io.cwd }
  const { settings } = await readSettings(source)
  if (settings.secretKeys === undefined) throw new TimoneError('config', `no encryption key: ${steps.keys}`)
  const box = new SecretBox(settings.secretKeys)
  const rows = await steps.read(box)
  const database = await connect(settings.databaseUrl)
  try {
    if (options.yes === true) await checkSealingKeys(database.db, box)
    return await steps.work(rows, {
      database,
      box,
      providers: new Set(settings.providers.map(({ id }) => id)),
    })
  } finally {
    await database.close()
  }
}

/** Says what an import did: `result` to programs, `tell` to people. */
export function reportImport(
  result: { readonly dry_run: boolean },
  options: ImportOptions,
  io: Io,
  tell: () => void,
): void {
  if (options.json === true) {
    printJson(io, result)
    return
  }
  tell()
  if (result.dry_run) say(io, 'nothing was written: say --yes to do it')
}
