import { Argument, type Command } from 'commander'
import { type Done, examples } from './command-help.ts'
import type { Io } from './io.ts'

export function addUsage(root: Command, io: Io, done: Done): void {
  const command = root
    .command('usage')
    .summary('print how much the repositories hold')
    .description(
      'Prints the bytes and objects that are counted for each repository of a server, for its operator; lfs.quota is ' +
        'measured by them. Objects are counted when their upload is verified, while a quota is set. --recount counts what ' +
        'the store holds: once after a quota was set for the first time, and after objects were removed by hand.',
    )
    .addArgument(new Argument('[repository]', 'org/repo (default: all)'))
    .option('--recount', 'look into the store and count anew')
    .option('--data <dir>', "the server's data folder")
    .option('--config <file>', "the server's TOML file")
    .option('--json', 'print as JSON')
    .action(async (repository: string | undefined, options) => {
      const { usage } = await import('./usage.ts')
      done(await usage({ ...options, repository }, io))
    })
  examples(command, [
    ['timone usage --config /etc/timone.toml', 'how full are they?'],
    ['timone usage foo/bar --recount --config /etc/timone.toml', 'count one repository anew'],
  ])
}
