import { lutimes, open, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { systemCode } from '../errors.ts'
import type { Oid } from '../oid.ts'
import { type CacheEntry, lstatPath, READ_FLAGS, removeEntry, walkEntries } from './cache-folder.ts'
import { hostName, isAlive } from './resume-store.ts'

/** What to remove; with several, whatever any of them asks for. */
export interface PruneOptions {
  /** The least recently used go until no more than this is left; bytes. Undefined: no bound. */
  size?: number | undefined
  /** Only when more than this is there, `size` counts; bytes. Default: `size`. */
  above?: number
  /** What was used last before this time goes; milliseconds since the epoch. */
  before?: number | undefined
  /** What must stay whatever its age. */
  keep?: (oid: Oid) => boolean
  signal?: AbortSignal | undefined
}

export interface PruneResult {
  removed: number
  /** Bytes. */
  freed: number
  /** Entries and bytes that are still there. */
  objects: number
  bytes: number
  /** The first failure to remove something; the others were removed all the same. */
  failed: unknown
}

/**
 * Removes entries from the cache, the least recently used first. Whoever is reading one keeps it until he has done: an
 * open file and a hard link outlive the name.
 * @throws the file system's own error where the cache cannot be read
 */
export async function pruneCache(root: string, options: PruneOptions): Promise<PruneResult> {
  const entries: CacheEntry[] = []
  let bytes = 0
  for await (const found of walkEntries(root, options.signal)) {
    for (const entry of found) {
      entries.push(entry)
      bytes += entry.size
    }
  }
  const result: PruneResult = { removed: 0, freed: 0, objects: entries.length, bytes, failed: undefined }
  const { size = Number.POSITIVE_INFINITY, before = Number.NEGATIVE_INFINITY, keep, signal } = options
  const bound = bytes > (options.above ?? size) ? size : Number.POSITIVE_INFINITY
  if (result.bytes <= bound && before === Number.NEGATIVE_INFINITY) return result
  entries.sort((one, other) => one.used - other.used)
  for (const entry of entries) {
    if (signal?.aborted === true || (result.bytes <= bound && entry.used >= before)) break
    if (keep?.(entry.oid) === true) continue
    const gone = await removeEntry(root, entry.oid).catch((error: unknown) => {
      result.failed ??= error
      return false
    })
    if (!gone) continue
    result.removed++
    result.freed += entry.size
    result.objects--
    result.bytes -= entry.size
  }
  return result
}

/** Name of the lock at the cache's top. */
const LOCK = 'prune.lock'
/** A lock whose holder has not touched it for so long is a dead one's, milliseconds. */
const STALE = 15 * 60 * 1000
/** How often the holder touches it, milliseconds. */
const HEARTBEAT = 60 * 1000

/**
 * Does `work` unless another process, on whatever machine, is doing the like. Two that take over a dead one's lock at
 * the same moment may both work: that costs time and nothing else, since both would remove the same entries.
 * @returns undefined where another process is at it
 * @throws the file system's own error where no lock can be made
 */
export async function withPruneLock<T>(root: string, work: () => Promise<T>): Promise<T | undefined> {
  const path = join(root, LOCK)
  const take = async (): Promise<boolean> => {
    try {
      const file = await open(path, 'wx', 0o644)
      try {
        await file.writeFile(`${hostName()} ${process.pid}\n`)
      } finally {
        await file.close()
      }
      return true
    } catch (error) {
      if (systemCode(error) === 'EEXIST') return false
      throw error
    }
  }
  if (!(await take())) {
    if (!(await isStale(path))) return undefined
    await rm(path, { force: true, recursive: true })
    if (!(await take())) return undefined
  }
  const beat = setInterval(() => {
    const now = new Date()
    lutimes(path, now, now).catch(() => {})
  }, HEARTBEAT).unref()
  try {
    return await work()
  } finally {
    clearInterval(beat)
    await rm(path, { force: true }).catch(() => {})
  }
}

async function isStale(path: string): Promise<boolean> {
  try {
    const found = await lstatPath(path)
    if (!found.isFile() || found.size > 1024) return true
    if (Math.abs(Date.now() - found.mtimeMs) > STALE) return true
    const file = await open(path, READ_FLAGS)
    try {
      const [host, pid] = (await file.readFile('latin1')).trim().split(' ')
      return host === hostName() && !isAlive(Number(pid))
    } finally {
      await file.close()
    }
  } catch (error) {
    return systemCode(error) === 'ENOENT'
  }
}
