import { type Io, print, printJson } from './io.ts'
import { type OperatorOptions, withDatabase } from './operator-database.ts'

/** `timone migrate`: brings the tables of the database up to date, as the start of a server does too. */
export function migrateTables(options: OperatorOptions, io: Io): Promise<number> {
  return withDatabase(options, io, async ({ migrated }) => {
    if (options.json === true) printJson(io, { migrated })
    else if (migrated.length === 0) print(io, 'the tables are up to date')
    else print(io, ...migrated.map((name) => `made ${name}`))
    return 0
  })
}
