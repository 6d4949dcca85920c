import type { Command } from 'commander'
import { type Done, examples } from './command-help.ts'
import type { Io } from './io.ts'

/** `timone secrets rotate`. */
export function addSecrets(root: Command, io: Io, done: Done): void {
  const secrets = root
    .command('secrets')
    .summary('look after the encryption of secrets')
    .description('Looks after the keys that encrypt what is secret in the database (secrets.keys).')
  const rotate = secrets
    .command('rotate')
    .summary('encrypt every secret with the newest key')
    .description(
      'Encrypts every secret in the database with the first of secrets.keys, while servers go on. To change the key: put ' +
        'the new one in front of the list and restart the servers, run this, then take the old one off the list.',
    )
    .option('--config <file>', "the server's TOML file")
    .option('--data <dir>', "the server's data folder (default: ./timone-data)")
    .option('--json', 'print as JSON')
    .action(async (options) => {
      const { rotateSecrets } = await import('./secrets.ts')
      done(await rotateSecrets(options, io))
    })
  examples(rotate, [
    ['timone secrets rotate --config /etc/timone.toml', 'after a new key came to the front of secrets.keys'],
  ])
}

function importCommand(root: Command): Command {
  return (
    root.commands.find((command) => command.name() === 'import') ??
    root
      .command('import')
      .summary('take over what an earlier system holds')
      .description('Takes over what an earlier system holds. Nothing is written until you say --yes.')
  )
}

/** `timone import tokman`. */
export function addImportTokman(root: Command, io: Io, done: Done): void {
  const command = importCommand(root)
    .command('tokman')
    .summary('take over installation tokens of tokman')
    .description(
      'Takes over the installation tokens of GitHub Apps in a database of tokman that have not ended. They live for an hour ' +
        'at most: nothing is lost without this, but for as many new ones as there are repositories. The app itself and ' +
        'its key are settings (github.app_id, github.private_key).',
    )
    .argument('<database>', 'a SQLite file, or postgres://USER:PASSWORD@HOST:PORT/NAME')
    .option('--yes', 'write; without it, only say what would be done')
    .option('--config <file>', "the server's TOML file")
    .option('--data <dir>', "the server's data folder (default: ./timone-data)")
    .option('--json', 'print as JSON')
    .action(async (database: string, options) => {
      const { importTokman } = await import('./import-tokman.ts')
      done(await importTokman(database, options, io))
    })
  examples(command, [
    ['timone import tokman postgres://tokman@db/tokman --config /etc/timone.toml', 'what would be done?'],
    ['timone import tokman tokman.db --config /etc/timone.toml --yes', 'do it'],
  ])
}

/** `timone import tokenstore`. */
export function addImportTokenstore(root: Command, io: Io, done: Done): void {
  const command = importCommand(root)
    .command('tokenstore')
    .summary('take over refresh tokens of tokenstore')
    .description(
      'Takes over the refresh tokens in a database of tokenstore. Stop tokenstore first, for a provider that rotates takes ' +
        'two users of one token for theft. Its CRYPTOKEY must be among secrets.keys, its providers in the settings.',
    )
    .argument('<database>', 'a SQLite file, or postgres://USER:PASSWORD@HOST:PORT/NAME')
    .option('--issuer <url>', 'where its users signed in: the issuer of its OIDC provider')
    .option('--yes', 'write; without it, only say what would be done')
    .option('--config <file>', "the server's TOML file")
    .option('--data <dir>', "the server's data folder (default: ./timone-data)")
    .option('--json', 'print as JSON')
    .action(async (database: string, options) => {
      const { importTokenstore } = await import('./import-tokenstore.ts')
      done(await importTokenstore(database, options, io))
    })
  examples(command, [
    [
      'timone import tokenstore old.db --issuer https://idp.example --config /etc/timone.toml',
      'what would be done?',
    ],
    ['timone import tokenstore old.db --issuer https://idp.example --config /etc/timone.toml --yes', 'do it'],
  ])
}
