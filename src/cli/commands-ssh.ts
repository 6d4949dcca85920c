import { Argument, type Command } from 'commander'
import { type Done, examples } from './command-help.ts'
import type { Io } from './io.ts'

export function addGitLfsAuthenticate(root: Command, io: Io, done: Done): void {
  const command = root
    .command('git-lfs-authenticate')
    .summary('give a token to who came over ssh')
    .description(
      'For the forced command of an ssh server that git repositories are reached through: prints where their LFS ' +
        'objects are and a token for one repository and one direction, as JSON, as git-lfs asks for it ' +
        '(docs/api/authentication.md). ssh has found out who it is, so nobody signs in. Path and operation come from ' +
        'the arguments, or from SSH_ORIGINAL_COMMAND. The secret and the address are those of timone serve: this runs ' +
        'on its machine, or with the same TIMONE_TOKEN_SECRET and TIMONE_ENDPOINT_URL.',
    )
    .addArgument(new Argument('[path]', 'path of the repository, as in the ssh address'))
    .addArgument(new Argument('[operation]', 'upload or download'))
    // git-lfs before 2.0 sent an oid as well; nothing depends on it.
    .addArgument(new Argument('[oid]', 'ignored'))
    .option('--user <name>', 'who has come (default: TIMONE_USER)')
    .option(
      '--scope <scope>',
      'what the user may do, lfs:org/repo:rw; may be repeated (default: all of LFS)',
      collect,
    )
    .option('--grants', 'the user may do what timone user grant gave them')
    .option('--root <folder>', 'what the paths of repositories begin with, as /srv/git')
    .option('--expires <time>', 'how long the token is good: 90s, 15m (default: 15m)')
    .option('--data <dir>', "the server's data folder")
    .option('--config <file>', "the server's TOML file")
    .action(async (path: string | undefined, operation: string | undefined, _oid, options) => {
      const { gitLfsAuthenticate } = await import('./git-lfs-authenticate.ts')
      done(await gitLfsAuthenticate({ ...options, path, operation }, io))
    })
  examples(command, [
    [
      'command="timone git-lfs-authenticate --user bob --config /etc/timone.toml",restrict ssh-ed25519 AAAA…',
      'in authorized_keys, for a host that serves LFS alone',
    ],
    ["timone git-lfs-authenticate --user bob --scope 'lfs:foo/*:r' foo/bar.git download", 'try it out'],
  ])
}

function collect(value: string, before: string[] = []): string[] {
  return [...before, value]
}
