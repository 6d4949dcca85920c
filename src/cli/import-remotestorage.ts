import { randomUUID } from 'node:crypto'
import { readFile, stat } from 'node:fs/promises'
import { join, resolve } from 'node:path'
import type { Database } from '../database/connect.ts'
import { systemCode, TimoneError } from '../errors.ts'
import { recordEvent } from '../identity/events.ts'
import { OpaqueTokens } from '../identity/opaque-tokens.ts'
import { tokenRow } from '../identity/token-rows.ts'
import { type User, Users } from '../identity/users.ts'
import { type ImportedModules, importModules } from '../remotestorage/import-modules.ts'
import { Reception } from '../remotestorage/incoming.ts'
import { LargeDocuments } from '../remotestorage/large-documents.ts'
import { OLD_SALT, type OldGrant, type OldGrantData, parseOldGrants } from '../remotestorage/old-grants.ts'
import { findModules } from '../remotestorage/old-modules.ts'
import { Spaces } from '../remotestorage/spaces.ts'
import { noStorage } from './find-space.ts'
import { clean, type Io, print, printJson, say } from './io.ts'
import { openStore } from './open-store.ts'
import { type OperatorOptions, withDatabase } from './operator-database.ts'

export interface ImportRemoteStorageOptions extends OperatorOptions {
  /** Whose storage it becomes. */
  readonly user?: string
  /** What the earlier system hashed before everything else. */
  readonly salt?: string
  /** False: only say what would be done. */
  readonly yes?: boolean
}

/** Things that could not be taken over and are named one by one. */
const MAX_NAMED = 20

/**
 * `timone import python-remotestorage`: takes over the module repositories in a folder, with their history, and the
 * apps of its `.auth`, for one user, who is added if need be. Without `yes` nothing is written. Gives 1 when something
 * could not be taken over.
 * @throws {TimoneError} `config`
 */
export async function importRemoteStorage(
  from: string,
  options: ImportRemoteStorageOptions,
  io: Io,
): Promise<number> {
  const { user: login, salt = OLD_SALT, yes: write = false } = options
  if (login === undefined) throw new TimoneError('config', 'say whose storage it becomes, with --user NAME')
  const folder = resolve(io.cwd, from)
  if (!(await isFolder(folder))) throw new TimoneError('config', `${from} is not a folder`)
  const modules = await findModules(folder)
  const { grants, malformed } = parseOldGrants(await readGrants(join(folder, '.auth')))

  return withDatabase(options, io, async (database, settings) => {
    const { remoteStorage } = settings
    if (remoteStorage === undefined) throw noStorage()
    const { root, large: threshold } = remoteStorage
    const users = new Users(database.db)
    const known = await users.byLogin(login)
    const user = known ?? (write ? await users.add({ login, name: login }, '') : undefined)
    const { store, prefix } = await openStore(settings.storage)
    const skipped: string[] = []
    const spaces = new Spaces({ root })
    let taken: ImportedModules
    try {
      taken = await importModules(modules, {
        space: spaces.of(user?.id ?? 0),
        user: { id: user?.id ?? 0, login, email: user?.email ?? null },
        reception: new Reception(join(root, '.incoming'), threshold),
        large: new LargeDocuments(store, prefix),
        skipped: (what) => skipped.push(what),
        write,
      })
    } finally {
      spaces.close()
    }
    const apps = await takeGrants(database, user, { grants, salt, write })
    if (write && user !== undefined && taken.commits > 0) {
      const { modules: names, commits } = taken
      const event = { actor: '', action: 'space.import', subject: `user:${user.id}`, source: '' }
      await recordEvent(database.db, { ...event, data: { modules: names, commits } })
    }
    const notTaken = skipped.length + malformed
    if (options.json === true) {
      const { modules: names, present, commits, changes, large } = taken
      const result = { user: login, new_user: known === undefined, modules: names, present, commits, changes }
      printJson(io, { ...result, large, apps, skipped: notTaken, dry_run: !write })
    } else report(taken, apps, write, io)
    complain(skipped, malformed, io)
    if (taken.modules.includes('public'))
      say(io, 'documents of the module public can be read by anyone who knows their address')
    if (!write) say(io, 'nothing was written: say --yes to do it')
    return notTaken === 0 ? 0 : 1
  })
}

/** As consents that were given: an app that is one of them is let in without being asked about. */
async function takeGrants(
  { db }: Database,
  user: User | undefined,
  { grants, salt, write }: { grants: readonly OldGrant[]; salt: string; write: boolean },
): Promise<{ imported: number; present: number }> {
  const there = user === undefined ? [] : await new OpaqueTokens(db).list(user.id)
  const isThere = ({ md5, scope }: OldGrant): boolean =>
    there.some(
      ({ data, scopes }) =>
        (data as Partial<OldGrantData> | undefined)?.md5 === md5 && scopes.includes(scope),
    )
  const fresh = grants.filter((grant) => !isThere(grant))
  if (write && user !== undefined)
    for (const { md5, scope } of fresh) {
      const data: OldGrantData = { md5, salt }
      const client = `app ${md5} of python-remotestorage`
      const grant = { userId: user.id, kind: 'app', scopes: [scope], client, data } as const
      // Without a hash: no text is this token.
      await db
        .insertInto('tokens')
        .values(tokenRow(grant, randomUUID(), null, Date.now()))
        .execute()
    }
  return { imported: fresh.length, present: grants.length - fresh.length }
}

function report(
  { modules, present, commits, changes, large }: ImportedModules,
  apps: { imported: number; present: number },
  write: boolean,
  io: Io,
): void {
  const verb = write ? 'taken over' : 'would be taken over'
  print(
    io,
    `${modules.length} modules ${verb}, ${commits} commits with ${changes} changes, ${large} large documents`,
    `${apps.imported} apps ${verb}`,
  )
  if (present.length > 0 || apps.present > 0)
    print(io, `${present.length} modules and ${apps.present} apps are here already`)
}

function complain(skipped: readonly string[], malformed: number, io: Io): void {
  for (const what of skipped.slice(0, MAX_NAMED)) say(io, clean(what))
  if (skipped.length > MAX_NAMED) say(io, `and ${skipped.length - MAX_NAMED} more like these`)
  if (malformed > 0) say(io, `${malformed} lines of .auth do not read <md5> <module> <r|rw>`)
}

async function isFolder(path: string): Promise<boolean> {
  return stat(path).then(
    (stats) => stats.isDirectory(),
    () => false,
  )
}

async function readGrants(path: string): Promise<string> {
  try {
    return await readFile(path, 'latin1')
  } catch (error) {
    if (systemCode(error) === 'ENOENT') return ''
    throw new TimoneError('config', 'cannot read .auth', { cause: error })
  }
}
