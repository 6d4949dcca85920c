import { access } from 'node:fs/promises'
import type { RemoteStorageSettings } from '../config/server-settings.ts'
import type { Database } from '../database/connect.ts'
import { TimoneError } from '../errors.ts'
import { type User, Users } from '../identity/users.ts'
import { runGit } from '../remotestorage/git-process.ts'
import { MAIN } from '../remotestorage/main-lock.ts'
import type { Space } from '../remotestorage/space.ts'
import { Spaces } from '../remotestorage/spaces.ts'
import type { Io } from './io.ts'
import { type OperatorOptions, withDatabase } from './operator-database.ts'

/** The storage of a user, opened by a command beside the servers that use it. */
export interface FoundSpace {
  readonly user: User
  readonly space: Space
  readonly remoteStorage: RemoteStorageSettings
  readonly database: Database
  readonly settings: Parameters<Parameters<typeof withDatabase>[2]>[1]
}

/** Opens a user's storage for as long as `work` takes. @throws {TimoneError} `config` without storage, `not_found` */
export function withSpace<T>(
  login: string,
  options: OperatorOptions,
  io: Io,
  work: (found: FoundSpace) => Promise<T>,
): Promise<T> {
  return withDatabase(options, io, async (database, settings) => {
    const { remoteStorage } = settings
    if (remoteStorage === undefined) throw noStorage()
    const user = await new Users(database.db).byLogin(login)
    if (user === undefined) throw new TimoneError('not_found', `no such user: ${login}`)
    const spaces = new Spaces({ root: remoteStorage.root })
    try {
      const space = spaces.of(user.id)
      const { gitDir } = space
      const ref = (await isThere(gitDir)) ? await runGit(gitDir, ['for-each-ref', MAIN]) : Buffer.alloc(0)
      if (ref.length === 0) throw new TimoneError('not_found', `nothing was ever stored for ${user.login}`)
      return await work({ user, space, remoteStorage, database, settings })
    } finally {
      spaces.close()
    }
  })
}

/** Absolute path of a user's repository. @throws {TimoneError} as {@link withSpace} */
export function findRepository(login: string, options: OperatorOptions, io: Io): Promise<string> {
  return withSpace(login, options, io, async ({ space }) => space.gitDir)
}

export function noStorage(): TimoneError {
  return new TimoneError('config', 'this server keeps no storage for users: set TIMONE_REMOTESTORAGE_ROOT')
}

export async function isThere(path: string): Promise<boolean> {
  return access(path).then(
    () => true,
    () => false,
  )
}
