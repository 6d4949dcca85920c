import { type Command, InvalidArgumentError } from 'commander'
import { type Done, examples } from './command-help.ts'
import type { Io } from './io.ts'

/** `timone events` and `timone migrate`: for the operator, on the machine of the server. */
export function addAuditTrail(root: Command, io: Io, done: Done): void {
  const operator = (command: Command): Command =>
    command
      .option('--data <dir>', "the server's data folder")
      .option('--config <file>', "the server's TOML file")

  const events = operator(
    root
      .command('events')
      .summary('show who did what, when, and from where')
      .description(
        'Prints the audit trail, the newest event last: time, who, what, to what, from which address, and more as JSON.',
      ),
  )
    .option('--last <count>', 'how many of those that have happened, 0 to 10000', readCount, 100)
    .option('--follow', 'go on with new ones as they happen')
    .option('--json', 'print each as one line of JSON')
    .action(async (options) => done(await (await import('./events.ts')).showEvents(options, io)))
  examples(events, [
    ['timone events --config /etc/timone.toml', ''],
    ['timone events --last 0 --follow --json | logger -t timone', 'into the journal of this machine'],
  ])

  const migrate = operator(
    root
      .command('migrate')
      .summary('bring the tables of the database up to date')
      .description(
        'Brings the tables of the database up to date. Servers do so when they start; this does it ' +
          'before, and says what was missing. Several at a time are safe: one works, the others wait.',
      ),
  )
    .option('--json', 'print as JSON')
    .action(async (options) => done(await (await import('./migrate.ts')).migrateTables(options, io)))
  examples(migrate, [['timone migrate --config /etc/timone.toml', 'before the servers are updated']])
}

/** `timone import ident`. */
export function addImportIdent(root: Command, io: Io, done: Done): void {
  const above = root.commands.find((command) => command.name() === 'import')
  if (above === undefined) throw new TypeError('the command import comes first')
  const command = above
    .command('ident')
    .summary('take over the users of glotpod.ident')
    .description(
      'Takes over the users in a database of glotpod.ident, under their numbers, with identities and access tokens. Its ' +
        'encryption_key must be among secrets.keys. It is another database than that of this server.',
    )
    .argument('<database>', 'postgres://USER@HOST:PORT/NAME; the password is best in PGPASSWORD')
    .option('--yes', 'write; without it, only say what would be done')
    .option('--config <file>', "the server's TOML file")
    .option('--data <dir>', "the server's data folder (default: ./timone-data)")
    .option('--json', 'print as JSON')
    .action(async (database: string, options) => {
      const { importIdent } = await import('./import-ident.ts')
      done(await importIdent(database, options, io))
    })
  examples(command, [
    [
      'timone import ident postgres://ident@db/glotpod.ident --config /etc/timone.toml',
      'what would be done?',
    ],
    ['timone import ident postgres://ident@db/glotpod.ident --config /etc/timone.toml --yes', 'do it'],
  ])
}

function readCount(text: string): number {
  if (!/^\d{1,5}$/.test(text) || Number(text) > 10_000)
    throw new InvalidArgumentError('it must be a number from 0 to 10000.')
  return Number(text)
}
