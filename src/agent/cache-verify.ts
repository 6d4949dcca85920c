import { closeSync, fstatSync, openSync } from 'node:fs'
import { isTimoneError, systemCode } from '../errors.ts'
import type { Oid } from '../oid.ts'
import { entryPath, READ_FLAGS, removeEntry, walkEntries } from './cache-folder.ts'
import { HashThreads } from './hash-threads.ts'

export interface VerifyResult {
  /** Entries that are what their names say, and their bytes. */
  objects: number
  bytes: number
  /** Entries that were not, and were removed. */
  damaged: Oid[]
  /** Entries that could not be read, and were left. */
  unreadable: Oid[]
}

/** Files that are read at a time: one for each thread that hashes, and one that is being opened. */
const AT_ONCE = 3

/**
 * Hashes every entry of the cache and removes those that are not what they should be.
 * @throws `cancelled`, or the file system's own error where the cache cannot be read or a damaged entry not removed
 */
export async function verifyCache(root: string, signal?: AbortSignal): Promise<VerifyResult> {
  const result: VerifyResult = { objects: 0, bytes: 0, damaged: [], unreadable: [] }
  const threads = new HashThreads({ inline: true })
  const check = async (oid: Oid): Promise<void> => {
    const state = await stateOf(root, oid, threads, signal)
    if (typeof state === 'number') {
      result.objects++
      result.bytes += state
    } else if (state === 'unreadable') {
      result.unreadable.push(oid)
    } else if (state === 'damaged') {
      await removeEntry(root, oid)
      result.damaged.push(oid)
    }
  }
  const running = new Set<Promise<void>>()
  try {
    for await (const entries of walkEntries(root, signal)) {
      for (const { oid } of entries) {
        const checking = check(oid).finally(() => running.delete(checking))
        running.add(checking)
        if (running.size >= AT_ONCE) await Promise.race(running)
      }
    }
    await Promise.all(running)
    return result
  } finally {
    await Promise.allSettled(running)
    await threads.close()
  }
}

/** Its bytes where it is good. */
async function stateOf(
  root: string,
  oid: Oid,
  threads: HashThreads,
  signal: AbortSignal | undefined,
): Promise<number | 'damaged' | 'unreadable' | 'gone'> {
  let fd: number
  try {
    fd = openSync(entryPath(root, oid), READ_FLAGS)
  } catch (error) {
    const code = systemCode(error)
    if (code === 'ENOENT') return 'gone'
    // A link, or a socket.
    return code === 'ELOOP' || code === 'ENXIO' ? 'damaged' : 'unreadable'
  }
  try {
    const found = fstatSync(fd)
    if (!found.isFile()) return 'damaged'
    return (await threads.hash({ from: fd, size: found.size, signal })) === oid ? found.size : 'damaged'
  } catch (error) {
    if (isTimoneError(error)) throw error
    return 'unreadable'
  } finally {
    closeSync(fd)
  }
}
