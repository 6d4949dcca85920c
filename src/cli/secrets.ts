import { SecretBox } from '../auth/secret-box.ts'
import { readSettings } from '../config/load-settings.ts'
import { connect } from '../database/connect.ts'
import { TimoneError } from '../errors.ts'
import { resealAll } from '../leases/sealing.ts'
import { type Io, print, printJson, say } from './io.ts'

/** What both kinds of command take to find the server's settings. */
export interface SecretsOptions {
  readonly config?: string
  readonly data?: string
  readonly json?: boolean
}

/**
 * `timone secrets rotate`: encrypts what is secret in the database with the first of `secrets.keys`.
 * @throws {TimoneError} `config` without keys, or when something was encrypted with a key that is not there
 */
export async function rotateSecrets(options: SecretsOptions, io: Io): Promise<number> {
  const { settings } = await readSettings({
    flags: { data: options.data },
    configFile: options.config,
    env: io.env,
    cwd: io.cwd,
  })
  if (settings.secretKeys === undefined) {
    throw new TimoneError(
      'config',
      `no encryption key: set TIMONE_SECRET_KEYS to the server's, or name its data folder with --data (${settings.data} holds none)`,
    )
  }
  const box = new SecretBox(settings.secretKeys)
  const database = await connect(settings.databaseUrl)
  try {
    const { changed, current, retired } = await resealAll(database.db, box)
    if (options.json === true) {
      printJson(io, { key: box.keyId, changed, current, retired })
      return 0
    }
    print(io, `key ${box.keyId}: ${changed} secrets encrypted anew, ${current} were already`)
    if (retired.length > 0) say(io, `nothing needs the key ${retired.join(', ')} any more: it can go`)
    return 0
  } finally {
    await database.close()
  }
}
