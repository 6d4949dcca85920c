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

function readCount(text: string): number {
  if (!/^\d{1,5}$/.test(text) || Number(text) > 10_000)
    throw new InvalidArgumentError('it must be a number from 0 to 10000.')
  return Number(text)
}
