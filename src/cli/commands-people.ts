import { Argument, type Command } from 'commander'
import { type Done, examples } from './command-help.ts'
import type { Io } from './io.ts'

/** `timone user …`, and `timone token list|revoke`: for the operator, on the machine of the server. */
export function addPeople(root: Command, io: Io, done: Done): void {
  const operator = (command: Command): Command =>
    command
      .option('--data <dir>', "the server's data folder")
      .option('--config <file>', "the server's TOML file")
  const user = root
    .command('user')
    .summary('say who may do what')
    .description('Looks after users and their grants.')
  const login = () => new Argument('<login>', 'login of the user')
  const who = () => new Argument('<who>', 'login of a user, or group:NAME')
  const scopes = () => new Argument('<scope...>', 'as lfs:org/repo:rw, lfs:org/*:r')

  operator(
    user
      .command('list')
      .summary('list users and grants')
      .description('Prints everybody and what they may do.'),
  )
    .option('--json', 'print as JSON')
    .action(async (options) => done(await (await import('./people.ts')).listUsers(options, io)))
  operator(
    user
      .command('add')
      .summary('add a user who will sign in later')
      .description(
        'Adds a user. Whoever signs in first with that address, verified by the provider, is this user.',
      ),
  )
    .addArgument(login())
    .option('--email <address>', 'their address at the identity provider')
    .option('--name <name>', 'for people')
    .action(async (name, options) => done(await (await import('./people.ts')).addUser(name, options, io)))
  for (const verb of ['disable', 'enable'] as const) {
    operator(
      user
        .command(verb)
        .summary(verb === 'disable' ? 'shut a user out' : 'let a user in again')
        .description('Takes effect at once, on all servers, for tokens issued before too.'),
    )
      .addArgument(login())
      .action(async (name, options) =>
        done(await (await import('./people.ts')).disableUser(name, verb === 'disable', options, io)),
      )
  }
  for (const verb of ['grant', 'revoke'] as const) {
    operator(
      user
        .command(verb)
        .summary(verb === 'grant' ? 'give rights' : 'take rights away')
        .description('Takes effect at once, on all servers, for tokens issued before too.'),
    )
      .addArgument(who())
      .addArgument(scopes())
      .action(async (name, list, options) =>
        done(await (await import('./people.ts')).changeGrant(verb, name, list, options, io)),
      )
  }
  examples(user, [
    ["timone user grant ada 'lfs:games/*:rw' --config /etc/timone.toml", ''],
    ['timone user grant group:artists lfs:games/art:r --data /var/lib/timone', ''],
    ['timone user disable bob', 'at once, whatever tokens they have'],
  ])

  const token = root.commands.find((command) => command.name() === 'token')
  if (token === undefined) throw new TypeError('the token commands come first')
  operator(
    token
      .command('list')
      .summary('list the tokens that the server has issued')
      .description(
        'Prints tokens of sign-ins and CI jobs that are good now. Tokens of timone token create are not kept.',
      ),
  )
    .option('--user <login>', 'those of this user')
    .option('--json', 'print as JSON')
    .action(async (options) => done(await (await import('./people.ts')).listTokens(options, io)))
  operator(
    token
      .command('revoke')
      .summary('end tokens at once')
      .description('Ends tokens that the server has issued, at once and on all servers.'),
  )
    .addArgument(new Argument('<id...>', 'as timone token list prints them'))
    .action(async (ids, options) => done(await (await import('./people.ts')).revokeTokens(ids, options, io)))
  const rotate = operator(
    token
      .command('rotate-keys')
      .summary('sign with a new key from now on')
      .description(
        'Makes a new key that signs what the server issues, where auth.signing is EdDSA or RS256. It happens by itself ' +
          'every 90 days. What older keys signed stays good until it expires.',
      ),
  )
    .option('--forget-old', 'drop the older keys: what they signed ends at once, as after a leak')
    .option('--json', 'print as JSON')
    .action(async (options) => done(await (await import('./rotate-keys.ts')).rotateKeys(options, io)))
  examples(rotate, [
    ['timone token rotate-keys --config /etc/timone.toml', ''],
    ['timone token rotate-keys --forget-old --config /etc/timone.toml', 'everybody signs in anew'],
  ])
}
