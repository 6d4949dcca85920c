import { parseScope, printScope } from '../auth/scope.ts'
import { describeDuration, parseDuration } from '../config/duration.ts'
import { isTimoneError, TimoneError } from '../errors.ts'
import { OpaqueTokens } from '../identity/opaque-tokens.ts'
import { Users } from '../identity/users.ts'
import { type Io, print, printJson, say } from './io.ts'
import { withDatabase } from './operator-database.ts'
import type { CreateOptions } from './token.ts'

/**
 * `timone token create --client`: prints a token that one app, named by its origin, uses a user's storage with. A user
 * who is not known yet is added.
 * @throws {TimoneError} `config` for a malformed option
 */
export async function createAppToken(options: CreateOptions & { client: string }, io: Io): Promise<number> {
  const { user: login, expires } = options
  if (login === undefined) throw new TimoneError('config', 'say whose storage it opens, with --user NAME')
  const client = readOrigin(options.client)
  const scopes = (options.scope ?? []).map(readStorageScope)
  if (scopes.length === 0) throw new TimoneError('config', 'say what it opens, with --scope MODULE:rw')
  const expiresIn = expires === undefined ? undefined : parseDuration(expires)
  return withDatabase(options, io, async ({ db }) => {
    const users = new Users(db)
    const user = (await users.byLogin(login)) ?? (await users.add({ login, name: login }, ''))
    const { token, expiresAt } = await new OpaqueTokens(db).issue({
      ...{ userId: user.id, kind: 'app', scopes, client },
      expiresIn,
    })
    if (expiresIn === undefined) say(io, 'warning: without --expires this token is good until it is revoked')
    else say(io, `good for ${describeDuration(expiresIn)}`)
    if (options.json) printJson(io, { token, user: user.login, client, scopes, expires_at: expiresAt })
    else print(io, token)
    return 0
  }).catch((error: unknown) => {
    if (isTimoneError(error, 'invalid')) throw new TimoneError('config', error.message, { cause: error })
    throw error
  })
}

function readOrigin(text: string): string {
  const url = URL.parse(text)
  if (url === null || !/^https?:$/.test(url.protocol) || url.origin !== text.replace(/\/$/, '')) {
    throw new TimoneError('config', '--client must be the origin of an app, such as https://app.example')
  }
  return url.origin
}

/** `photos:rw` as apps spell it, or `storage:photos:rw`. */
function readStorageScope(text: string): string {
  const scope = parseScope(text.split(':').length === 2 ? `storage:${text}` : text)
  if (scope.noun !== 'storage' || scope.resource.includes('/')) {
    throw new TimoneError('config', '--scope must read <module>:<r|rw>, as in photos:rw')
  }
  return printScope(scope)
}
