import { TimoneError } from '../errors.ts'
import { recordEvent } from '../identity/events.ts'
import { commitAt, commitNamed } from '../remotestorage/history.ts'
import { LargeDocuments } from '../remotestorage/large-documents.ts'
import { checkNames, type StoragePath } from '../remotestorage/names.ts'
import { prune } from '../remotestorage/prune.ts'
import { restore } from '../remotestorage/restore.ts'
import { printBytes, printCount } from './amounts.ts'
import { type FoundSpace, withSpace } from './find-space.ts'
import { clean, type Io, print, printJson, say } from './io.ts'
import { parseMoment } from './moment.ts'
import { openStore } from './open-store.ts'
import type { OperatorOptions } from './operator-database.ts'

/**
 * `timone space restore`: brings back a document, a folder or the whole storage as it was, as one more change. Gives 0,
 * also when it is as it was.
 * @throws {TimoneError} `config`; `not_found` when there was nothing then, or it is no longer kept; `conflict`
 */
export function restoreSpace(
  login: string,
  shown: string | undefined,
  options: OperatorOptions & { at?: string },
  io: Io,
): Promise<number> {
  const { at } = options
  if (at === undefined) throw new TimoneError('config', 'say what to go back to, with --at TIME or COMMIT')
  const path = readPath(shown ?? '/')
  const isCommit = /^[0-9a-f]{7,40}$/.test(at)
  const time = isCommit ? 0 : parseMoment(at, Date.now())
  return withSpace(login, options, io, async (found) => {
    const { user, space, database } = found
    const from = await (isCommit ? commitNamed(space.gitDir, at) : commitAt(space.gitDir, time))
    if (from === undefined)
      throw new TimoneError(
        'not_found',
        isCommit ? `no commit, or several, of this storage begin with ${at}` : `nothing was stored by ${at}`,
      )
    const large = await openLarge(found)
    const commit = await restore({ space, user, large, path, from, now: Date.now })
    if (commit !== undefined) {
      const event = { actor: '', action: 'space.restore', subject: `user:${user.id}`, source: '' }
      await recordEvent(database.db, { ...event, data: { from, commit } })
    }
    if (options.json === true) printJson(io, { user: user.login, from, commit: commit ?? null })
    else if (commit === undefined) say(io, 'it is as it was then: nothing to do')
    else
      print(io, clean(`${commit.slice(0, 10)}  ${shown ?? '/'} of ${user.login} as of ${from.slice(0, 10)}`))
    return 0
  })
}

/**
 * `timone space prune`: forgets what a storage was before some time, and removes what nothing refers to any longer.
 * Without `yes` nothing is removed.
 * @throws {TimoneError} `config`, `not_found`, `throttled`
 */
export function pruneSpace(
  login: string,
  options: OperatorOptions & { before?: string; yes?: boolean },
  io: Io,
): Promise<number> {
  const { before, yes: write = false } = options
  if (before === undefined)
    throw new TimoneError('config', 'say what to forget, with --before TIME, as in --before 90d')
  const now = Date.now()
  const time = parseMoment(before, now)
  if (time > now) throw new TimoneError('config', '--before must lie in the past')
  return withSpace(login, options, io, async (found) => {
    const { user, space, database } = found
    const large = await openLarge(found)
    const done = await prune({ space, user, large, before: time, write, now: Date.now })
    if (write) {
      const event = { actor: '', action: 'space.prune', subject: `user:${user.id}`, source: '' }
      const data = { before: new Date(time).toISOString(), commits: done.removed, large: done.large }
      await recordEvent(database.db, { ...event, data })
    }
    if (options.json === true) {
      const { kept, removed, large: count, largeBytes, complete } = done
      const result = { user: user.login, commits_kept: kept, commits_removed: removed, large_removed: count }
      printJson(io, { ...result, large_bytes: largeBytes, complete, dry_run: !write })
    } else {
      const verb = write ? 'removed' : 'would remove'
      const commits = `${printCount(done.removed, 'commit')} of ${done.kept + done.removed}`
      print(
        io,
        `${verb} ${commits}, and ${printCount(done.large, 'large document')} (${printBytes(done.largeBytes)})`,
      )
    }
    if (!done.complete)
      say(io, 'some of it was packed just now, and goes when you run this again in ten minutes')
    if (!write) say(io, 'nothing was removed: say --yes to do it; there is no way back')
    return 0
  })
}

async function openLarge({ settings }: FoundSpace): Promise<LargeDocuments> {
  const { store, prefix } = await openStore(settings.storage)
  return new LargeDocuments(store, prefix)
}

/** Plain names with slashes between them, as people write them; a slash at the end for a folder. */
function readPath(text: string): StoragePath {
  const parts = text.replace(/^\//, '').split('/')
  const folder = parts.at(-1) === ''
  if (folder) parts.pop()
  try {
    return { segments: checkNames(parts), folder }
  } catch (cause) {
    throw new TimoneError('config', `${text} is no path: say /notes/today.txt, /notes/ or /`, { cause })
  }
}
