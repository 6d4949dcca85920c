import { readSettings } from '../config/load-settings.ts'
import { connect, type Database } from '../database/connect.ts'
import type { Io } from './io.ts'

/** Options of the commands that the operator runs on the machine of the server. */
export interface OperatorOptions {
  readonly config?: string | undefined
  readonly data?: string | undefined
  readonly json?: boolean | undefined
}

/** The server's settings; what only a running server needs is not read. */
type OperatorSettings = Awaited<ReturnType<typeof readSettings>>['settings']

/** Opens the server's database, with its tables up to date, for as long as `work` takes. */
export async function withDatabase<T>(
  options: OperatorOptions,
  io: Io,
  work: (database: Database, settings: OperatorSettings) => Promise<T>,
): Promise<T> {
  const from = { flags: { data: options.data }, configFile: options.config, env: io.env, cwd: io.cwd }
  const { settings } = await readSettings(from)
  const database = await connect(settings.databaseUrl)
  try {
    return await work(database, settings)
  } finally {
    await database.close()
  }
}
