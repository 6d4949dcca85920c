import { closeSync, constants, existsSync, lstat as lstatCallback, lstatSync } from 'node:fs'
import { mkdir, readdir, rm, rmdir, unlink } from 'node:fs/promises'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { systemCode, TimoneError } from '../errors.ts'
import { isOid, type Oid } from '../oid.ts'
import { type FileCalls, fileCalls } from './file-calls.ts'

const { O_RDONLY, O_DIRECTORY = 0, O_NOFOLLOW = 0, O_NONBLOCK = 0 } = constants

export const lstatPath = promisify(lstatCallback)

/** For reading what somebody else may have put there: through no link, and without waiting for a pipe. */
export const READ_FLAGS: number = O_RDONLY | O_NOFOLLOW | O_NONBLOCK

/** An open folder. `path` leads into it, whatever becomes of its name meanwhile. */
export interface AnchoredFolder {
  readonly path: string
  close(): void
}

/** Where `/proc/self/fd/N/name` means "in the folder that N is", as openat(2) does, which Node has not. */
const PROC = process.platform === 'linux' && existsSync('/proc/self/fd') ? '/proc/self/fd' : undefined

/** Folders from the cache's top down to where the object lies, and its name there. */
export function entryNames(oid: Oid): [folders: string[], name: string] {
  return [['objects', oid.slice(0, 2), oid.slice(2, 4)], oid]
}

/** Path of an object's entry, for reading only: for writing see {@link openFolder}. */
export function entryPath(root: string, oid: Oid): string {
  const [folders, name] = entryNames(oid)
  return join(root, ...folders, name)
}

/**
 * Opens a folder below `root`, following no link on the way, so that whoever else may write in the cache cannot make us
 * write or remove anything outside of it. On Linux that cannot be raced; elsewhere each folder is looked at first.
 * `root` itself is the user's word and may be a link.
 * @param create make what is missing; `root` for this user alone, since what is in it may be private
 * @throws the file system's own error; `ENOENT` where something is missing and `create` is false; TimoneError
 * `invalid` where something that is no folder is in the way
 */
export async function openFolder(
  root: string,
  names: readonly string[],
  create: boolean,
  calls: FileCalls = fileCalls(root),
): Promise<AnchoredFolder> {
  if (PROC === undefined) return openUnanchored(root, names, create, calls)
  let fd = await openRoot(root, create, calls)
  for (const name of names) {
    const path = `${PROC}/${fd}/${name}`
    try {
      const next = await openBelow(path, create, calls)
      closeSync(fd)
      fd = next
    } catch (error) {
      closeSync(fd)
      throw inTheWay(error, join(root, ...names))
    }
  }
  const opened = fd
  return { path: `${PROC}/${opened}`, close: () => closeSync(opened) }
}

async function openRoot(root: string, create: boolean, calls: FileCalls): Promise<number> {
  const flags = O_RDONLY | O_DIRECTORY
  try {
    return await calls.open(root, flags)
  } catch (error) {
    if (!create || systemCode(error) !== 'ENOENT') throw error
    await makeRoot(root)
    return calls.open(root, flags)
  }
}

async function makeRoot(root: string): Promise<void> {
  await mkdir(root, { recursive: true, mode: 0o700 })
}

async function openBelow(path: string, create: boolean, calls: FileCalls): Promise<number> {
  const flags = O_RDONLY | O_DIRECTORY | O_NOFOLLOW
  try {
    return await calls.open(path, flags)
  } catch (error) {
    if (!create || systemCode(error) !== 'ENOENT') throw error
    await makeFolder(path, calls)
    return calls.open(path, flags)
  }
}

async function openUnanchored(
  root: string,
  names: readonly string[],
  create: boolean,
  calls: FileCalls,
): Promise<AnchoredFolder> {
  if (create) await makeRoot(root)
  let path = root
  for (const name of names) {
    path = join(path, name)
    if (create) await makeFolder(path, calls)
    if (!(await lstatPath(path)).isDirectory())
      throw inTheWay(Object.assign(new Error(path), { code: 'ENOTDIR' }), path)
  }
  return { path, close: () => {} }
}

async function makeFolder(path: string, calls: FileCalls): Promise<void> {
  await calls.mkdir(path).catch((error: unknown) => {
    // Another process was quicker.
    if (systemCode(error) !== 'EEXIST') throw error
  })
}

function inTheWay(error: unknown, path: string): unknown {
  const code = systemCode(error)
  if (code !== 'ELOOP' && code !== 'ENOTDIR') return error
  return new TimoneError('invalid', `something that is no folder is in the way of ${path}: remove it`, {
    cause: error,
  })
}

/** What lies under an oid's name in the cache. */
export interface CacheEntry {
  readonly oid: Oid
  /** Bytes; 0 for what is no file. */
  readonly size: number
  /** When it was last used, milliseconds since the epoch. */
  readonly used: number
}

/**
 * Every entry of the cache, folder by folder, in no order. What vanishes meanwhile is left out; so is whatever does not
 * lie where an object would. Links are not followed; a folder that becomes one while we look is harmless, since nothing
 * is changed here and {@link removeEntry} looks for itself.
 */
export async function* walkEntries(root: string, signal?: AbortSignal): AsyncGenerator<CacheEntry[]> {
  const objects = join(root, 'objects')
  for (const first of await foldersIn(objects)) {
    for (const second of await foldersIn(join(objects, first))) {
      if (signal?.aborted === true) return
      const folder = join(objects, first, second)
      const entries: CacheEntry[] = []
      for (const name of await readdir(folder).catch(() => [])) {
        if (!isOid(name) || !name.startsWith(first + second)) continue
        // A network drive has told with the names already.
        const found = lstatSync(join(folder, name), { throwIfNoEntry: false })
        if (found === undefined) continue
        // A clock that is ahead elsewhere must not keep an entry for ever.
        const used = Math.min(found.mtimeMs, Date.now())
        entries.push({ oid: name, size: found.isFile() ? found.size : 0, used })
      }
      if (entries.length > 0) yield entries
    }
  }
}

/** Names of the folders with two hexadecimal digits; none where `folder` is no folder. */
async function foldersIn(folder: string): Promise<string[]> {
  const entries = await readdir(folder, { withFileTypes: true }).catch((error: unknown) => {
    const code = systemCode(error)
    if (code === 'ENOENT' || code === 'ENOTDIR') return []
    throw error
  })
  return entries
    .filter((entry) => entry.isDirectory() && /^[0-9a-f]{2}$/.test(entry.name))
    .map(({ name }) => name)
}

/**
 * Removes whatever lies under an oid's name, and its folder when nothing else is in there.
 * @param inode leave it when it is no longer this one: another process has put a good one there
 * @returns whether something was removed. @throws the file system's own error, such as `EACCES`
 */
export async function removeEntry(root: string, oid: Oid, inode?: number): Promise<boolean> {
  const [folders, name] = entryNames(oid)
  const parent = await openFolder(root, folders.slice(0, -1), false).catch(absent)
  if (parent === undefined) return false
  try {
    const folder = await openFolder(root, folders, false).catch(absent)
    if (folder === undefined) return false
    try {
      const path = `${folder.path}/${name}`
      const found = lstatSync(path, { throwIfNoEntry: false })
      if (found === undefined || (inode !== undefined && found.ino !== inode)) return false
      if (found.isDirectory()) await rm(path, { recursive: true, force: true })
      else await unlink(path)
    } finally {
      folder.close()
    }
    // Fails where there are others, as it should.
    await rmdir(`${parent.path}/${folders.at(-1)}`).catch(() => {})
    return true
  } catch (error) {
    return absent(error) ?? false
  } finally {
    parent.close()
  }
}

function absent(error: unknown): undefined {
  if (systemCode(error) === 'ENOENT') return undefined
  throw error
}
