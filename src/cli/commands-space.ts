import { Argument, type Command } from 'commander'
import { type Done, examples } from './command-help.ts'
import type { Io } from './io.ts'

/** `timone space …`: for the operator, on the machine of the server. */
export function addSpace(root: Command, io: Io, done: Done): void {
  const operator = (command: Command): Command =>
    command
      .option('--data <dir>', "the server's data folder")
      .option('--config <file>', "the server's TOML file")
  const space = root
    .command('space')
    .summary("look after users' storage")
    .description("Looks after users' storage for remoteStorage apps, which are Git repositories.")
  const login = () => new Argument('<login>', 'login of the user')
  operator(
    space
      .command('log')
      .summary('show what changed in a storage')
      .description(
        'Prints the changes of a storage, the newest first: time, commit, what was done, by which app.',
      ),
  )
    .addArgument(login())
    .option('--limit <count>', 'changes at most', '50')
    .option('--json', 'print as JSON')
    .action(async (name, options) => done(await (await import('./space.ts')).logSpace(name, options, io)))
  operator(
    space
      .command('export')
      .summary('write a storage into a file')
      .description(
        'Writes a storage with its whole history into one file, a Git bundle that git clone reads. Large documents stay in the object store: the bundle names them by their hashes.',
      ),
  )
    .addArgument(login())
    .addArgument(new Argument('<file>', 'where the bundle goes; must not be there yet'))
    .action(async (name, file, options) =>
      done(await (await import('./space.ts')).exportSpace(name, file, options, io)),
    )
  examples(space, [
    ['timone space log bob --limit 10 --config /etc/timone.toml', ''],
    ['timone space export bob bob.bundle', 'then: git clone bob.bundle'],
  ])
}
