import { Argument, type Command } from 'commander'
import { type Done, examples } from './command-help.ts'
import type { Io } from './io.ts'

export function addDoctor(root: Command, io: Io, done: Done): void {
  const command = root
    .command('doctor')
    .summary('find what is wrong, and say what mends it')
    .description(
      'Checks git, git-lfs, what timone install wrote, the settings, the server, the clock, your token, the storage ' +
        'credentials it gets, the storage behind them, the cache and the room on the disk: one line each. Every line ' +
        'that is not in order names the command that mends it. Asks nobody for a password and changes nothing. In a ' +
        'clone the server is the one that the clone uses. Exit code 1 when something fails.',
    )
    .addArgument(new Argument('[url]', 'check this server instead: https://host/org/repo'))
    .option('--json', 'print the results as JSON')
    .action(async (url: string | undefined, options: { json?: boolean }) => {
      const { doctor } = await import('./doctor.ts')
      done(await doctor({ url, json: options.json ?? false }, io))
    })
  examples(command, [
    ['timone doctor', 'in a clone: everything that its transfers need'],
    ['timone doctor https://lfs.example.com/foo/bar', 'before there is a clone'],
    ['timone doctor --json | jq -e .ok', 'in the set-up of a build machine'],
  ])
}
