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

/** `timone import python-remotestorage`. */
export function addImportRemoteStorage(root: Command, io: Io, done: Done): void {
  const above = root.commands.find((command) => command.name() === 'import')
  if (above === undefined) throw new TypeError('the command import comes first')
  const command = above
    .command('python-remotestorage')
    .summary('take over the storage of python-remotestorage')
    .description(
      'Takes over the Git repositories, one for each module, that python-remotestorage made in the folder it ran in: each ' +
        'becomes a folder of the storage, each of its commits a commit, with content types from the messages. Apps that ' +
        'its .auth names are let in without being asked about, until that is revoked. Stop it first.',
    )
    .argument('<folder>', 'where it ran: with its repositories and .auth')
    .option('--user <login>', 'whose storage it becomes; added if need be (required)')
    .option('--salt <text>', 'SALT of its auth.py, if that was changed')
    .option('--yes', 'write; without it, only say what would be done')
    .option('--config <file>', "the server's TOML file")
    .option('--data <dir>', "the server's data folder (default: ./timone-data)")
    .option('--json', 'print as JSON')
    .action(async (folder: string, options) => {
      const { importRemoteStorage } = await import('./import-remotestorage.ts')
      done(await importRemoteStorage(folder, options, io))
    })
  examples(command, [
    [
      'timone import python-remotestorage /srv/rs --user bob --config /etc/timone.toml',
      'what would be done?',
    ],
    ['timone import python-remotestorage /srv/rs --user bob --config /etc/timone.toml --yes', 'do it'],
  ])
}
