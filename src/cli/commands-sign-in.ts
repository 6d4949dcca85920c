import { Argument, type Command } from 'commander'
import { type Done, examples } from './command-help.ts'
import type { Io } from './io.ts'

const URL_ARGUMENT = ['<url>', 'address of the server, or of a repository on it'] as const
const URL_HERE = [
  '[url]',
  'address of the server, or of a repository on it (default: that of the clone here)',
] as const

/** `timone login`, `logout` and `whoami`. */
export function addSignIn(root: Command, io: Io, done: Done): void {
  const login = root
    .command('login')
    .summary('sign in to a server')
    .description(
      "Gets a token and hands it to git's credential helpers, where git and git-lfs find it; it is written nowhere else. " +
        'Where the server has a sign-in in the browser, it prints an address and a code to approve there; else it asks ' +
        'for user name and token. With --ci the identity token is that of TIMONE_ID_TOKEN (GitLab: id_tokens), of the ' +
        'file that TIMONE_ID_TOKEN_FILE names, or what GitHub Actions, Buildkite or CircleCI give; it is asked for with ' +
        "the server's address as audience, or TIMONE_ID_TOKEN_AUDIENCE.",
    )
    .addArgument(new Argument(...URL_ARGUMENT))
    .option('--token-stdin', 'read a token from stdin instead')
    .option('--user <name>', 'whom the token is for (default: whom it names)')
    .option('--ci', "trade this CI job's identity token for a token of the server")
    .action(async (url: string, options) => {
      if (options.ci === true) {
        const { loginCi } = await import('./login-ci.ts')
        done(await loginCi(url, io))
        return
      }
      const { login } = await import('./sign-in.ts')
      done(await login(url, options, io))
    })
  examples(login, [
    ['timone login https://lfs.example.com', ''],
    ['timone login https://lfs.example.com --token-stdin < token', 'with a token of the operator'],
    ['timone login https://lfs.example.com --ci', 'in a job of a trusted repository'],
  ])

  const logout = root
    .command('logout')
    .summary('sign out of a server')
    .description(
      "Ends the stored token at the server, on all of its instances at once, and makes git's credential helpers forget " +
        'it. Exit code 1 when the token stays good, because the server was away or the operator signed it.',
    )
    .addArgument(new Argument(...URL_HERE))
    .action(async (url?: string) => {
      const { logout } = await import('./sign-in.ts')
      done(await logout(url, io))
    })
  examples(logout, [
    ['timone logout', 'of the server that this clone uses'],
    ['timone logout https://lfs.example.com', ''],
  ])

  const whoami = root
    .command('whoami')
    .summary('print who you are to a server')
    .description(
      'Prints the user, the scopes, the expiry and the server of the stored credentials, as the server sees them now. ' +
        'Exit code 1 when there are none, or the server does not take them.',
    )
    .addArgument(new Argument(...URL_HERE))
    .option('--json', 'print as JSON')
    .action(async (url: string | undefined, options: { json?: boolean }) => {
      const { whoAmI } = await import('./sign-in.ts')
      done(await whoAmI(url, options, io))
    })
  examples(whoami, [
    ['timone whoami', 'to the server that this clone uses'],
    ['timone whoami https://lfs.example.com', ''],
    ['timone whoami https://lfs.example.com --json | jq -r .expires_at', 'for scripts'],
  ])
}
