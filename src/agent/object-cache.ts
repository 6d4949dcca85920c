import {
  chmod,
  closeSync,
  constants,
  copyFile as copyFileCallback,
  fchmodSync,
  fdatasync as fdatasyncCallback,
  fstatSync,
  futimes as futimesCallback,
  lstatSync,
  rmSync,
  type Stats,
  statfsSync,
} from 'node:fs'
import { dirname } from 'node:path'
import { promisify } from 'node:util'
import { throwIfAborted } from '../access/http-client.ts'
import { isTimoneError, systemCode } from '../errors.ts'
import type { Logger } from '../log.ts'
import type { Oid } from '../oid.ts'
import { entryNames, entryPath, openFolder, READ_FLAGS, removeEntry } from './cache-folder.ts'
import { pruneCache, withPruneLock } from './cache-prune.ts'
import { sweepTemporaries, temporaryName } from './cache-temporary.ts'
import { CacheUsage } from './cache-usage.ts'
import { type FileCalls, fileCalls } from './file-calls.ts'
import { HashThreads } from './hash-threads.ts'

// Callbacks made into promises: the FileHandle of node:fs/promises costs twice as much.
const copyFile = promisify(copyFileCallback)
const fdatasync = promisify(fdatasyncCallback)
const futimes = promisify(futimesCallback)

const { O_WRONLY, O_CREAT, O_EXCL, O_NOFOLLOW = 0, COPYFILE_EXCL, COPYFILE_FICLONE_FORCE } = constants
const CREATE_FLAGS = O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW

export interface ObjectCacheOptions {
  /** Absolute; made when the first object is put there. */
  folder: string
  /** Bytes that may lie there; 0: as many as come. */
  bound: number
  log: Logger
}

export interface PutOptions {
  /** Where only a copy will do, the largest that is made, bytes. */
  copyUpTo?: number
  signal?: AbortSignal
}

/** An entry used within this time is not marked as used again, milliseconds. */
const USED_AGAIN = 60_000
/** Part of the bound that remains after pruning, so that not every new object starts another round. */
const REMAINS = 0.9
/** What one process adds before it tells the others, as a part of the bound. */
const STEP = 1 / 64
/** How often a file that changes while it is hashed is hashed again. */
const ROUNDS = 3

/**
 * Objects shared by repositories, processes and machines: `objects/aa/bb/<oid>` under one folder, on a local disk or a
 * network drive. Nothing in it is believed: each object is hashed whenever it is taken, and what is not right is dropped
 * and logged. No failure of the cache ever fails a transfer.
 *
 * An object is handed over, and taken in, by the first of these that works:
 * 1. A clone of our own file that shares blocks (reflink). The clone itself is hashed.
 * 2. A hard link. The two names then are one file, so it is made only where nobody can change that file unnoticed: on
 *    POSIX, when it belongs to us and nobody else could have opened it for writing, with all write permission taken
 *    away for as long as it lives. Neither git-lfs nor timone writes into an object in place; git-lfs links objects
 *    between repositories itself (`lfs.storage` aside, for alternates). Who as the owner restores the permission and
 *    writes all the same is noticed: while it is hashed by its time of modification, and from then on by the next use,
 *    which hashes it again, by git-lfs, which hashes every download, and by `git lfs fsck`.
 * 3. A copy, written from the very buffers that are hashed.
 */
export class ObjectCache {
  readonly #folder: string
  readonly #bound: number
  readonly #log: Logger
  readonly #calls: FileCalls
  readonly #threads: HashThreads
  readonly #usage: CacheUsage
  /** What is being used right now by this process; not to be pruned. */
  readonly #inUse = new Map<Oid, number>()
  /** Folders that objects were taken into or out of and where blocks cannot be shared. */
  readonly #noClones = new Set<string>()
  readonly #closing = new AbortController()
  #swept: Promise<void> | undefined
  /** Bytes that the tally does not know of yet. */
  #added = 0
  #pruning: Promise<void> | undefined
  /** The bound was passed while it was being seen to. */
  #again = false
  #filling = true
  #warned = false

  constructor({ folder, bound, log }: ObjectCacheOptions) {
    this.#folder = folder
    this.#bound = bound
    this.#log = log
    this.#calls = fileCalls(folder)
    this.#threads = new HashThreads({ inline: this.#calls.direct })
    this.#usage = new CacheUsage(folder)
  }

  /**
   * Puts an object at `target`, where nothing may be yet, on disk and verified.
   * @param mode permission bits that the file is to have; undefined: no matter which
   * @returns false when the cache cannot help; nothing is at `target` then. @throws `cancelled`
   */
  async take(oid: Oid, size: number, target: string, signal: AbortSignal, mode?: number): Promise<boolean> {
    throwIfAborted(signal)
    return this.#using(oid, async () => {
      let fd: number
      try {
        fd = await this.#calls.open(entryPath(this.#folder, oid), READ_FLAGS)
      } catch (error) {
        const code = systemCode(error)
        // ELOOP: a link lies there. ENXIO: a socket.
        if (code === 'ELOOP' || code === 'ENXIO') await this.#drop(oid, 'it is no file')
        else if (code !== 'ENOENT') this.#log.debug({ oid }, `the cache cannot be read (${code})`)
        return false
      }
      try {
        const found = fstatSync(fd)
        if (!found.isFile() || found.size !== size) {
          const why = found.isFile() ? `it has ${found.size} bytes, not ${size}` : 'it is no file'
          await this.#drop(oid, why, found.ino)
          return false
        }
        if (found.uid === process.geteuid?.()) await touch(fd, found)
        const digest = await this.#handOver(oid, fd, size, target, signal, mode)
        if (digest === oid) return true
        rmSync(target, { force: true })
        if (digest !== undefined) await this.#drop(oid, `its SHA-256 is ${digest}`, found.ino)
        return false
      } catch (error) {
        rmSync(target, { force: true })
        throwIfAborted(signal)
        // The download that follows says better what is wrong with the target.
        this.#log.debug({ oid }, `cannot use the cache: ${(error as Error).message}`)
        return false
      } finally {
        closeSync(fd)
      }
    })
  }

  /**
   * Fills the cache with an object from a file that was verified. Leaves the file as it is, but without write
   * permission where it shares it.
   * @returns whether the object is in the cache now. Never throws: what fails is logged, once.
   */
  async put(oid: Oid, size: number, source: string, options: PutOptions = {}): Promise<boolean> {
    if (!this.#filling || (this.#bound > 0 && size > this.#bound)) return false
    return this.#using(oid, async () => {
      try {
        this.#swept ??= sweepTemporaries(this.#folder)
        const fd = await this.#calls.open(source, READ_FLAGS)
        try {
          const file = fstatSync(fd)
          if (!file.isFile() || file.size !== size) return false
          const fill = (): Promise<boolean | undefined> => this.#takeIn(oid, fd, file, source, options)
          const added = await fill().catch((error: unknown) => {
            // Pruning in another process has removed the folder in between.
            if (systemCode(error) === 'ENOENT') return fill()
            throw error
          })
          if (added === true) await this.#count(size)
          return added !== undefined
        } finally {
          closeSync(fd)
        }
      } catch (error) {
        if (options.signal?.aborted !== true) this.#giveUp(error)
        return false
      }
    })
  }

  /**
   * Ends what runs behind.
   * @param limit how long pruning may still take, milliseconds; another process finishes what is left
   */
  async close(limit = 1500): Promise<void> {
    const timer = setTimeout(() => this.#closing.abort(), limit).unref()
    try {
      await this.#pruning
      if (this.#filling && this.#added > 0) await this.#tell().catch((error: unknown) => this.#giveUp(error))
      await this.#pruning
      await this.#swept
      await this.#threads.close()
    } finally {
      clearTimeout(timer)
    }
  }

  /**
   * SHA-256 of what is at `target` now; undefined when it would not hold still.
   * @throws the file system's own error where nothing could be put there
   */
  async #handOver(
    oid: Oid,
    fd: number,
    size: number,
    target: string,
    signal: AbortSignal,
    mode: number | undefined,
  ): Promise<string | undefined> {
    const entry = entryPath(this.#folder, oid)
    // A clone gets the owner of what it was made from, where we may give it one.
    if (isOurs(fstatSync(fd)) && (await this.#clone(fd, entry, target, dirname(target)))) {
      if (mode !== undefined) await promisify(chmod)(target, mode)
      const clone = await this.#calls.open(target, READ_FLAGS)
      try {
        // Not flushed: to make a clone the file system writes the blocks that it shares, and keeps its log in order.
        return await this.#threads.hash({ from: clone, size, signal })
      } finally {
        closeSync(clone)
      }
    }
    if (mode === undefined && (await this.#linkOut(oid, fd, target))) {
      const digest = await this.#hashStill(fd, size, signal)
      if (digest !== undefined) return digest
      rmSync(target, { force: true })
    }
    const to = await this.#calls.open(target, CREATE_FLAGS, 0o666)
    try {
      const digest = await this.#threads.hash({ from: fd, size, to, signal })
      if (mode !== undefined) fchmodSync(to, mode)
      if (digest === oid) await fdatasync(to)
      return digest
    } finally {
      closeSync(to)
    }
  }

  /** Gives the open entry a second name, where it is safe to. */
  async #linkOut(oid: Oid, fd: number, target: string): Promise<boolean> {
    const found = fstatSync(fd)
    if (!isOurs(found) || (found.mode & 0o222) !== 0) return false
    try {
      await this.#calls.link(entryPath(this.#folder, oid), target)
    } catch {
      return false
    }
    const linked = lstatSync(target)
    // Another process has replaced the entry meanwhile: what is linked is not what is open.
    if (linked.ino === found.ino && linked.dev === found.dev) return true
    rmSync(target, { force: true })
    return false
  }

  /** SHA-256 of a file that others may have open, once it was the same before and after. */
  async #hashStill(fd: number, size: number, signal: AbortSignal): Promise<string | undefined> {
    for (let round = 0; round < ROUNDS; round++) {
      const before = fstatSync(fd)
      const digest = await this.#threads.hash({ from: fd, size, signal })
      const after = fstatSync(fd)
      // Another process's mark of use changes the time too: only once in a while, so the next round is a quiet one.
      if (after.mtimeMs === before.mtimeMs && after.size === before.size) return digest
    }
    return undefined
  }

  /** Tries to share blocks. False where that cannot be done; `key` names the two folders, so that it is tried once. */
  async #clone(fd: number, source: string, target: string, key: string): Promise<boolean> {
    if (this.#noClones.has(key)) return false
    try {
      // The name may lead elsewhere by now; the descriptor cannot.
      const from = process.platform === 'linux' ? `/proc/self/fd/${fd}` : source
      await copyFile(from, target, COPYFILE_FICLONE_FORCE | COPYFILE_EXCL)
      return true
    } catch (error) {
      if (systemCode(error) !== 'EEXIST') rmSync(target, { force: true })
      if (NEVER_CLONES.has(systemCode(error) ?? '') && this.#noClones.size < 1000) this.#noClones.add(key)
      return false
    }
  }

  /** True: new in the cache. False: it was there. Undefined: left out. @throws the file system's own error */
  async #takeIn(
    oid: Oid,
    fd: number,
    file: Stats,
    source: string,
    options: PutOptions,
  ): Promise<boolean | undefined> {
    const [names, name] = entryNames(oid)
    const folder = await openFolder(this.#folder, names, true, this.#calls)
    try {
      const entry = `${folder.path}/${name}`
      const present = lstatSync(entry, { throwIfNoEntry: false })
      if (present?.isFile() === true && present.size === file.size) return false
      if (present !== undefined) rmSync(entry, { recursive: true, force: true })
      const cloned = await this.#cloneIn(oid, fd, file, source, entry)
      if (cloned !== undefined) return cloned
      const linked = await this.#linkIn(fd, file, source, entry)
      if (linked !== undefined) return linked
      return await this.#copyIn(oid, fd, file.size, entry, options)
    } finally {
      folder.close()
    }
  }

  async #cloneIn(
    oid: Oid,
    fd: number,
    file: Stats,
    source: string,
    entry: string,
  ): Promise<true | undefined> {
    const key = `in ${file.dev}`
    if (!isOurs(file) || this.#noClones.has(key)) return undefined
    return this.#throughTemporary(oid, entry, async (temporary) => {
      if (!(await this.#clone(fd, source, temporary, key))) return undefined
      await promisify(chmod)(temporary, 0o444 & ~process.umask())
      return true
    })
  }

  /** Undefined where it is not safe or cannot be done; false when another process was quicker. */
  async #linkIn(fd: number, file: Stats, source: string, entry: string): Promise<boolean | undefined> {
    // Somebody else may have it open for writing.
    if (!isOurs(file) || (file.mode & 0o022) !== 0) return undefined
    try {
      await this.#calls.link(source, entry)
    } catch (error) {
      return systemCode(error) === 'EEXIST' ? false : undefined
    }
    // Behind the link, since where that fails the file stays as it was. Until then who takes the entry makes a copy.
    fchmodSync(fd, file.mode & 0o444)
    return true
  }

  async #copyIn(
    oid: Oid,
    fd: number,
    size: number,
    entry: string,
    { copyUpTo = Number.POSITIVE_INFINITY, signal }: PutOptions,
  ): Promise<true | undefined> {
    if (size > copyUpTo) return undefined
    const { bavail, bsize } = statfsSync(this.#folder)
    if (size > bavail * bsize) {
      this.#log.debug({ oid, size }, 'no room in the cache')
      return undefined
    }
    return this.#throughTemporary(oid, entry, async (temporary) => {
      const to = await this.#calls.open(temporary, CREATE_FLAGS, 0o444)
      try {
        const digest = await this.#threads.hash({ from: fd, size, to, signal })
        if (digest !== oid) return undefined
        await fdatasync(to)
        return true
      } finally {
        closeSync(to)
      }
    })
  }

  /** Gives what `make` has written its place; leaves no trace where it has not, or fails. */
  async #throughTemporary(
    oid: Oid,
    entry: string,
    make: (temporary: string) => Promise<true | undefined>,
  ): Promise<true | undefined> {
    const folder = await openFolder(this.#folder, ['tmp'], true, this.#calls)
    const temporary = `${folder.path}/${temporaryName(oid)}`
    let done: true | undefined
    try {
      done = await make(temporary)
      if (done === true) await this.#calls.rename(temporary, entry)
      return done
    } catch (error) {
      done = undefined
      throw error
    } finally {
      if (done === undefined) rmSync(temporary, { force: true })
      folder.close()
    }
  }

  async #drop(oid: Oid, why: string, inode?: number): Promise<void> {
    this.#log.warn({ oid }, `the cached copy of ${oid} is dropped and fetched again: ${why}`)
    await removeEntry(this.#folder, oid, inode).catch((error: unknown) => {
      this.#log.debug({ oid }, `it cannot be removed (${systemCode(error)})`)
    })
  }

  async #using<T>(oid: Oid, work: () => Promise<T>): Promise<T> {
    this.#inUse.set(oid, (this.#inUse.get(oid) ?? 0) + 1)
    try {
      return await work()
    } finally {
      const left = (this.#inUse.get(oid) ?? 1) - 1
      if (left === 0) this.#inUse.delete(oid)
      else this.#inUse.set(oid, left)
    }
  }

  /** Counts what was added, and looks after the bound when it was much. */
  async #count(bytes: number): Promise<void> {
    if (this.#bound === 0) return
    this.#added += bytes
    if (this.#added >= this.#bound * STEP) await this.#tell()
  }

  async #tell(): Promise<void> {
    const added = this.#added
    this.#added = 0
    const total = await this.#usage.add(added)
    if (total !== undefined && total <= this.#bound) return
    if (this.#pruning !== undefined) {
      this.#again = true
      return
    }
    this.#pruning = this.#prune()
      .catch((error: unknown) => this.#giveUp(error))
      .finally(() => {
        this.#pruning = undefined
      })
  }

  async #prune(): Promise<void> {
    do {
      this.#again = false
      await this.#pruneOnce()
      // What was put there meanwhile may be much.
    } while (this.#again && !this.#closing.signal.aborted)
  }

  async #pruneOnce(): Promise<void> {
    await withPruneLock(this.#folder, async () => {
      const { signal } = this.#closing
      const mark = await this.#usage.mark()
      const { removed, freed, failed, bytes } = await pruneCache(this.#folder, {
        size: Math.floor(this.#bound * REMAINS),
        above: this.#bound,
        keep: (oid) => this.#inUse.has(oid),
        signal,
      })
      if (!signal.aborted) await this.#usage.reset(bytes, mark)
      if (removed > 0) this.#log.info({ removed, freed, left: bytes }, 'pruned the cache')
      if (failed !== undefined) throw failed
    })
  }

  /** One warning, however many objects are concerned. */
  #giveUp(error: unknown): void {
    const passing = isTimoneError(error) || systemCode(error) === 'ENOENT'
    if (this.#filling && !this.#warned) {
      const why = isTimoneError(error) ? error.message : (systemCode(error) ?? (error as Error).message)
      this.#log.warn({}, `cannot fill the cache in ${this.#folder}: ${why}`)
      this.#warned = true
    }
    if (!passing) this.#filling = false
  }
}

/** Answers of file systems, or of two, that never share blocks. */
const NEVER_CLONES: ReadonlySet<string> = new Set([
  'ENOTSUP',
  'EOPNOTSUPP',
  'ENOTTY',
  'EXDEV',
  'EINVAL',
  'ENOSYS',
])

/** True when nobody but us can change the file. Windows tells no owner. */
function isOurs(file: Stats): boolean {
  return process.geteuid !== undefined && file.uid === process.geteuid()
}

/** Marks an entry as used now. Not by the time of access, which file systems keep loosely if at all. */
async function touch(fd: number, found: Stats): Promise<void> {
  const now = Date.now()
  if (Math.abs(now - found.mtimeMs) < USED_AGAIN) return
  await futimes(fd, now / 1000, now / 1000).catch(() => {
    // A disk for reading only.
  })
}
