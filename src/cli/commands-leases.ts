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
