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
  const restore = operator(
    space
      .command('restore')
      .summary('bring back what was stored earlier')
      .description(
        'Brings back one document, one folder, or the whole storage as it was at a commit or a time, as one more change: ' +
          'nothing that happened since is forgotten, and apps see it as any other change.',
      ),
  )
    .addArgument(login())
    .addArgument(new Argument('[path]', '/notes/today.txt, /notes/ (a folder), or all of it when left out'))
    .option(
      '--at <time>',
      'a commit of timone space log, 2026-01-31, 2026-01-31T12:00:00Z, or how long ago: 2h, 30d (required)',
    )
    .option('--json', 'print as JSON')
    .action(async (name, path, options) =>
      done(await (await import('./space-history.ts')).restoreSpace(name, path, options, io)),
    )
  examples(restore, [
    ['timone space restore bob /notes/today.txt --at 2h', 'one document as of two hours ago'],
    ['timone space restore bob /notes/ --at 3f2a9c1d04', 'a folder as of a commit of timone space log'],
    ['timone space restore bob --at 2026-01-31T12:00:00Z', 'everything'],
  ])
  const prune = operator(
    space
      .command('prune')
      .summary('forget what was stored long ago')
      .description(
        'Forgets what a storage was before some time: its history then begins with its state at that time, under new ' +
          'commit ids. Documents that only older commits have are removed for good, large ones from the object store ' +
          'too; so is what uploads that were broken off have left there. Servers may go on meanwhile. Copies that were ' +
          'cloned before have to be cloned anew.',
      ),
  )
    .addArgument(login())
    .option('--before <time>', '2026-01-31, 2026-01-31T12:00:00Z, or how long ago, as in 90d (required)')
    .option('--yes', 'remove it; without it, only say what would be done')
    .option('--json', 'print as JSON')
    .action(async (name, options) =>
      done(await (await import('./space-history.ts')).pruneSpace(name, options, io)),
    )
  examples(prune, [
    ['timone space prune bob --before 90d', 'what would go?'],
    ['timone space prune bob --before 90d --yes', 'forget it'],
  ])
  examples(space, [
    ['timone space restore bob /notes/ --at 2h', 'as it was two hours ago'],
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
