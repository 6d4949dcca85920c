import { TimoneError } from '../errors.ts'
import type { User } from '../identity/users.ts'
import { findEntry } from './change.ts'
import { parseCommit, printCommit } from './commit.ts'
import { editTree } from './edit.ts'
import { type Entry, type Folder, factsOf, isFolder, oidOf } from './folder.ts'
import { isIn } from './history.ts'
import { type LargeDocuments, parsePointer } from './large-documents.ts'
import { makeObject } from './loose-objects.ts'
import { printStoragePath, type StoragePath, toGitName } from './names.ts'
import type { Space } from './space.ts'

export interface Restoration {
  space: Space
  user: Pick<User, 'id' | 'login' | 'email'>
  large: LargeDocuments
  /** A document, a folder, or with the root the whole storage. */
  path: StoragePath
  /** Commit whose state comes back. */
  from: string
  now: () => number
}

/** Look-ups in the object store at once. */
const LOOKUPS = 16

/**
 * Brings back what was at a path at an earlier commit, as a new commit: nothing that happened since is forgotten.
 * @returns the new commit; undefined when it is as it was
 * @throws {TimoneError} `not_found` when there was nothing, or it is no longer kept; `conflict` when a document and a
 *   folder would have one name; `throttled`
 */
export function restore({ space, user, large, path, from, now }: Restoration): Promise<string | undefined> {
  const shown = printStoragePath(path)
  return space.advance(
    async ({ head, load, write }) => {
      // Looked at anew each time: whatever is in the history of `main` when it is moved cannot be pruned beside us.
      const isThere = head.commit !== undefined && (await space.reader.size(from)) !== undefined
      if (!isThere || !(await isIn(space.gitDir, from, head.commit as string)))
        throw new TimoneError('not_found', 'that commit is not, or no longer, in the history of the storage')
      const then = parseCommit((await space.reader.need(from)).content)
      const names = path.segments.map(toGitName)
      let state: { tree: string; bytes: number }
      if (names.length === 0) {
        await checkLarge((await load(then.tree)).entries, { space, user, large, load })
        state = then
      } else {
        const entry = await findEntry(then.tree, path.segments, path.folder, load)
        if (entry === undefined) throw new TimoneError('not_found', `there was no ${shown} then`)
        await checkLarge([entry], { space, user, large, load })
        const edited = await editTree(head, [{ names, folder: path.folder, entry }], load)
        await write(edited.objects)
        state = edited
      }
      if (state.tree === head.tree) return undefined
      const commit = makeObject(
        'commit',
        printCommit({
          ...state,
          parent: head.commit,
          subject: `RESTORE ${shown}`,
          author: { login: user.login, email: user.email, client: 'timone space restore' },
          at: now(),
          trailers: [`Restored-From: ${from}`],
        }),
      )
      await write([commit])
      return commit.oid
    },
    { quick: true },
  )
}

/** @throws {TimoneError} `not_found` when a large document is no longer in the object store */
async function checkLarge(
  entries: readonly Entry[],
  {
    space,
    user,
    large,
    load,
  }: Pick<Restoration, 'space' | 'user' | 'large'> & {
    load: (tree: string) => Promise<Folder>
  },
): Promise<void> {
  const pointers: string[] = []
  const visit = async (entry: Entry): Promise<void> => {
    if (!isFolder(entry)) {
      if (factsOf(entry).large) pointers.push(oidOf(entry))
    } else for (const below of (await load(oidOf(entry))).entries) await visit(below)
  }
  for (const entry of entries) await visit(entry)
  let missing = 0
  for (let at = 0; at < pointers.length; at += LOOKUPS) {
    const some = pointers.slice(at, at + LOOKUPS).map(async (oid) => {
      const { content } = await space.reader.need(oid)
      if (!(await large.has(user.id, parsePointer(content)))) missing++
    })
    await Promise.all(some)
  }
  if (missing > 0)
    throw new TimoneError('not_found', `${missing} large documents of it are no longer in the object store`)
}
