import { userInfo } from 'node:os'
import { SecretBox } from '../auth/secret-box.ts'
import { TimoneError } from '../errors.ts'
import { SigningKeys } from '../identity/signing-keys.ts'
import { type Io, print, printJson, say } from './io.ts'
import { type OperatorOptions, withDatabase } from './operator-database.ts'

/**
 * `timone token rotate-keys`: a new key signs what the server issues from now on. What older keys signed stays good until
 * it expires, or ends now with `forgetOld`.
 * @throws {TimoneError} `config` where the token secret signs, or without the key that encrypts
 */
export function rotateKeys(options: OperatorOptions & { forgetOld?: boolean }, io: Io): Promise<number> {
  return withDatabase(options, io, async ({ db }, { signing, secretKeys, data }) => {
    if (signing === 'HS256') {
      throw new TimoneError(
        'config',
        'tokens are signed with the token secret (auth.signing = HS256), which is changed where it was set (TIMONE_TOKEN_SECRET) and ends all tokens; keys that rotate come with auth.signing = EdDSA',
      )
    }
    if (secretKeys === undefined) {
      throw new TimoneError(
        'config',
        `no encryption key: set TIMONE_SECRET_KEYS to the server's, or name its data folder with --data (${data} holds none)`,
      )
    }
    const keys = new SigningKeys(db, new SecretBox(secretKeys))
    const actor = userInfo().username
    const { kid } = await keys.rotate(signing, { actor })
    const forgotten = options.forgetOld === true ? await keys.forgetOthers(kid, { actor }) : []
    if (options.json === true) {
      printJson(io, { kid, alg: signing, forgotten })
      return 0
    }
    print(io, `the key ${kid} signs from now on (${signing}), within a minute on every server`)
    if (options.forgetOld !== true) {
      say(
        io,
        'tokens of older keys stay good until they expire; --forget-old ends them, where a key has leaked',
      )
      return 0
    }
    for (const old of forgotten) print(io, `the key ${old} is forgotten: its tokens end within a minute`)
    return 0
  })
}
