import { Argument, type Command } from 'commander'
import { TimoneError } from '../errors.ts'
import { type Done, examples } from './command-help.ts'
import type { Io } from './io.ts'

/** `timone login URL --ci`, where no other way to sign in is there. */
export function addLoginCi(root: Command, io: Io, done: Done): void {
  if (root.commands.some((command) => command.name() === 'login')) return
  const command = root
    .command('login')
    .summary('sign in to a server as a CI job')
    .description(
      "Trades this CI job's identity token (OIDC) for a token of the server and gives it to git credential, so that " +
        'git-lfs finds it too. The token is that of TIMONE_ID_TOKEN (GitLab: id_tokens), of the file that ' +
        'TIMONE_ID_TOKEN_FILE names, or what GitHub Actions, Buildkite or CircleCI give. It is asked for with the ' +
        "server's address as audience, or TIMONE_ID_TOKEN_AUDIENCE.",
    )
    .addArgument(new Argument('<url>', 'address of the server, or of a repository on it'))
    .option('--ci', 'as this CI job')
    .action(async (url: string, options: { ci?: boolean }) => {
      if (options.ci !== true) throw new TimoneError('config', 'say --ci to sign in as a CI job')
      const { loginCi } = await import('./login-ci.ts')
      done(await loginCi(url, io))
    })
  examples(command, [['timone login https://lfs.example.com --ci', 'in a job of a trusted repository']])
}
