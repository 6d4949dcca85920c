import { createHash } from 'node:crypto'
import type { BigIntStats } from 'node:fs'
import {
  chmodSync,
  closeSync,
  constants,
  copyFileSync,
  createReadStream,
  lstatSync,
  openSync,
  promises,
  readSync,
  renameSync,
  unlinkSync,
} from 'node:fs'
import { unlink } from 'node:fs/promises'
import { join } from 'node:path'
import { pipeline } from 'node:stream/promises'
import { setImmediate as turn } from 'node:timers/promises'
import { systemCode, TimoneError } from '../errors.ts'
import type { Oid } from '../oid.ts'
import { type FreshFile, type IndexUpdate, readIndex, recordStats } from './index-file.ts'
import { POINTER_LIMIT, parsePointer } from './pointer.ts'
import type { LocalRepository } from './repository.ts'
import { isSafePath, parentFolder } from './safe-path.ts'
import type { PointerEntry } from './scan.ts'
import { openStaging, type Staging } from './staging.ts'

/** A file to be filled, from `pointersOfIndex`: an index entry with `filter=lfs` that is a pointer. */
export type FillEntry = Pick<PointerEntry, 'path' | 'oid' | 'size' | 'mode' | 'blob' | 'unusual'>

/**
 * Why a file was not filled.
 * - `changed`: the user did something to it; it stays as it is, as with git-lfs
 * - `missing_object`: its object is not in the local store
 * - `unusual`: timone leaves it to `git lfs checkout`, which knows how
 * - `failed`: it could not be written
 */
export type FillReason = 'changed' | 'missing_object' | 'unusual' | 'failed'

/** A file that was not filled. */
export interface Unfilled {
  readonly entry: FillEntry
  readonly reason: FillReason
  /** For people: what is unusual, what failed. */
  readonly detail: string
}

/** What a fill did. */
export interface FillResult {
  /** Files that now hold their object. */
  readonly filled: number
  readonly bytes: number
  /** Files that held it before. */
  readonly present: number
  readonly unfilled: readonly Unfilled[]
  readonly index: IndexUpdate
}

export interface FillOptions {
  /** Where the object is, absolute; it must be verified: nothing is hashed here. */
  readonly objectPath: (oid: Oid) => string
  /** Copies a verified object to a path where nothing is yet; default: a reflink, else a copy. */
  readonly copy?: (object: string, target: string) => Promise<void>
  /** Called for each file that was filled. */
  readonly onFile?: (entry: FillEntry) => void
  readonly signal?: AbortSignal
}

/**
 * Puts objects in place of the pointer files of the work tree, and records the new files in the index, so that
 * `git status` has nothing to read again.
 *
 * A file that the user changed is not touched. That is looked at right before the new file takes its place, and again when
 * it was moved aside: only bytes written into the very pointer in the microseconds after that are lost.
 * @throws {TimoneError} `config` without a work tree, `cancelled`, `disk_full`
 */
export async function fillWorkTree(
  repository: LocalRepository,
  entries: readonly FillEntry[],
  options: FillOptions,
): Promise<FillResult> {
  const fill = await openFill(repository, options)
  try {
    await fill.add(entries)
  } catch (error) {
    // What was filled is recorded even so.
    await fill.finish().catch(() => {})
    throw error
  }
  return fill.finish()
}

/** A fill that takes its files in several goes, as their objects arrive. {@link fillWorkTree} is one in one go. */
export interface Fill {
  /** Fills these files; resolves when they are done. May be called again before it has resolved. */
  add(entries: readonly FillEntry[]): Promise<void>
  /** Records everything in the index. To be called once, whatever happened. */
  finish(): Promise<FillResult>
}

/** Objects of up to this size, bytes, are copied in place: a task of its own would take longer than the copy. */
const SMALL = 2 ** 20
/** How many larger objects are copied at once. */
const LARGE_AT_ONCE = 3
/** How long small copies may keep the event loop to themselves, milliseconds. */
const SLICE = 4

/** @throws {TimoneError} `config` without a work tree */
export async function openFill(repository: LocalRepository, options: FillOptions): Promise<Fill> {
  const { workTree } = repository
  if (workTree === undefined)
    throw new TimoneError('config', 'there is no work tree here that could be filled')
  const staging = openStaging(repository)
  return new WorkTreeFill(repository, workTree, staging, options)
}

class WorkTreeFill implements Fill {
  readonly #repository: LocalRepository
  readonly #root: string
  readonly #staging: Staging
  readonly #options: FillOptions
  readonly #fresh: FreshFile[] = []
  readonly #found = new Map<string, { entry: FillEntry; stat: BigIntStats }>()
  readonly #unfilled: Unfilled[] = []
  readonly #refused: string | undefined
  readonly #large = new Set<Promise<void>>()
  /** Of pointers that were moved aside. */
  readonly #removals: Promise<void>[] = []
  readonly #umask = process.umask()
  #filled = 0
  #bytes = 0

  constructor(repository: LocalRepository, root: string, staging: Staging, options: FillOptions) {
    this.#repository = repository
    this.#root = root
    this.#staging = staging
    this.#options = options
    this.#refused = readIndex(repository).refused
  }

  async add(entries: readonly FillEntry[]): Promise<void> {
    let began = performance.now()
    const mine: Promise<void>[] = []
    let failure: unknown
    try {
      for (const entry of entries) {
        this.#checkSignal()
        if (!isSafePath(entry.path)) this.#leave(entry, 'failed', 'its path is not one that may be written')
        else if (entry.unusual !== undefined) this.#leave(entry, 'unusual', entry.unusual)
        else if (this.#refused !== undefined) this.#leave(entry, 'unusual', this.#refused)
        else if (entry.size <= SMALL && this.#options.copy === undefined) {
          this.#fillSmall(entry)
          if (performance.now() - began > SLICE) {
            await turn()
            began = performance.now()
          }
        } else {
          while (this.#large.size >= LARGE_AT_ONCE) await Promise.race(this.#large)
          const task: Promise<void> = this.#fillLarge(entry)
            .catch((error: unknown) => {
              failure ??= error
            })
            .finally(() => this.#large.delete(task))
          this.#large.add(task)
          mine.push(task)
        }
        if (failure !== undefined) break
      }
    } finally {
      await Promise.all(mine)
    }
    if (failure !== undefined) throw failure
  }

  async finish(): Promise<FillResult> {
    await Promise.all(this.#removals)
    this.#staging.close()
    const index = await recordStats(this.#repository, [...this.#fresh, ...(await this.#unrecorded())])
    return {
      filled: this.#filled,
      bytes: this.#bytes,
      present: this.#found.size,
      unfilled: this.#unfilled,
      index,
    }
  }

  /**
   * Of the files that were there already, those that the index does not know and that do hold their objects: a fill before
   * this one was killed, or another git held the index.
   */
  async #unrecorded(): Promise<FreshFile[]> {
    if (this.#found.size === 0 || this.#refused !== undefined) return []
    const stats = new Map([...this.#found].map(([path, { stat }]) => [path, stat]))
    const known = readIndex(this.#repository).known(stats)
    const files: FreshFile[] = []
    for (const [path, { entry, stat }] of this.#found) {
      if (known.has(path)) continue
      if ((await hashOf(join(this.#root, path))) === entry.oid) files.push({ path, blob: entry.blob, stat })
    }
    return files
  }

  #fillSmall(entry: FillEntry): void {
    const begun = this.#begin(entry)
    if (begun === undefined) return
    try {
      copyFileSync(begun.object, begun.temporary, constants.COPYFILE_EXCL | constants.COPYFILE_FICLONE)
      this.#settle(entry, begun)
    } catch (error) {
      this.#fail(entry, begun, error)
    }
  }

  async #fillLarge(entry: FillEntry): Promise<void> {
    const begun = this.#begin(entry)
    if (begun === undefined) return
    const copy = this.#options.copy ?? copyObject
    try {
      await copy(begun.object, begun.temporary)
      this.#checkSignal()
      this.#settle(entry, begun)
    } catch (error) {
      this.#fail(entry, begun, error)
    }
  }

  /** Looks whether the file may be filled, and makes ready. */
  #begin(entry: FillEntry): Begun | undefined {
    const target = join(this.#root, entry.path)
    try {
      const parent = parentFolder(this.#root, entry.path, true)
      if (parent === undefined) {
        return this.#leave(entry, 'changed', 'a folder above it is none, or a link')
      }
      const before = lstatSync(target, { bigint: true, throwIfNoEntry: false })
      if (before !== undefined) {
        const state = stateOf(target, before, entry)
        if (state === 'present') {
          this.#found.set(entry.path, { entry, stat: before })
          return undefined
        }
        if (state === 'changed') return this.#leave(entry, 'changed', 'the file was changed')
      }
      const object = this.#options.objectPath(entry.oid)
      const held = lstatSync(object, { throwIfNoEntry: false })
      if (held === undefined || !held.isFile() || held.size !== entry.size) {
        return this.#leave(entry, 'missing_object', 'its object is not here')
      }
      const mode =
        before === undefined
          ? (entry.mode & 0o111) === 0
            ? 0o666 & ~this.#umask
            : 0o777 & ~this.#umask
          : Number(before.mode) & 0o777
      const temporary = this.#staging.pathFor(parent)
      return { target, before, object, temporary, mode, objectMode: held.mode & 0o777 }
    } catch (error) {
      throwFatal(error)
      return this.#leave(entry, 'failed', systemCode(error) ?? String(error))
    }
  }

  /** Puts the finished copy in the place of the file, when that is still what it was. */
  #settle(entry: FillEntry, begun: Begun): void {
    const { target, before, temporary, mode, objectMode } = begun
    if (this.#options.copy !== undefined || mode !== objectMode) chmodSync(temporary, mode)
    this.#staging.date(temporary)
    const now = lstatSync(target, { bigint: true, throwIfNoEntry: false })
    const same =
      now === undefined ? before === undefined : isSame(now, before) && now.ctimeNs === before?.ctimeNs
    if (
      !same ||
      parentFolder(this.#root, entry.path, false) === undefined ||
      !this.#exchange(target, temporary, before)
    ) {
      unlinkSync(temporary)
      this.#leave(entry, 'changed', 'the file was changed while it was being filled')
      return
    }
    // After the rename: that, too, moves the change time.
    this.#fresh.push({ path: entry.path, blob: entry.blob, stat: lstatSync(target, { bigint: true }) })
    this.#filled++
    this.#bytes += entry.size
    this.#options.onFile?.(entry)
  }

  /**
   * Moves the pointer aside, then the new file into its place; false: what was moved aside was no longer the file that was
   * looked at, and is back. Not one rename over the other: there ext4 waits for the new file's blocks, which takes longer
   * than the copy. A process killed in between leaves no file, which the next fill makes as it makes any that is missing.
   */
  #exchange(target: string, temporary: string, before: BigIntStats | undefined): boolean {
    if (before === undefined) {
      renameSync(temporary, target)
      return true
    }
    const aside = `${temporary}.old`
    try {
      renameSync(target, aside)
    } catch (error) {
      // Another fill has just moved it aside.
      if (systemCode(error) !== 'ENOENT') throw error
      return false
    }
    try {
      if (!isSame(lstatSync(aside, { bigint: true }), before)) {
        renameSync(aside, target)
        return false
      }
      renameSync(temporary, target)
    } catch (error) {
      renameSync(aside, target)
      throw error
    }
    // Not at once: ext4 takes milliseconds for it, and the next file need not wait.
    this.#removals.push(unlink(aside).catch(() => {}))
    return true
  }

  #fail(entry: FillEntry, begun: Begun, error: unknown): void {
    try {
      unlinkSync(begun.temporary)
    } catch {
      // It was never made.
    }
    throwFatal(error)
    if (systemCode(error) === 'EXDEV') this.#leave(entry, 'unusual', 'its folder is another mount')
    else this.#leave(entry, 'failed', systemCode(error) ?? String(error))
  }

  #leave(entry: FillEntry, reason: FillReason, detail: string): undefined {
    this.#unfilled.push({ entry, reason, detail })
    return undefined
  }

  #checkSignal(): void {
    if (this.#options.signal?.aborted === true) throw new TimoneError('cancelled', 'interrupted')
  }
}

interface Begun {
  readonly target: string
  readonly before: BigIntStats | undefined
  readonly object: string
  readonly temporary: string
  readonly mode: number
  readonly objectMode: number
}

const isSame = (now: BigIntStats, before: BigIntStats | undefined): boolean =>
  now.ino === before?.ino && now.size === before.size && now.mtimeNs === before.mtimeNs

const pointerBytes = Buffer.allocUnsafeSlow(POINTER_LIMIT)

/** What is in the work tree for `entry`: its pointer, its object (by its size: as git, no file is read to be sure), or else. */
function stateOf(target: string, stat: BigIntStats, entry: FillEntry): 'pointer' | 'present' | 'changed' {
  if (!stat.isFile()) return 'changed'
  if (stat.size < POINTER_LIMIT) {
    const file = openSync(target, constants.O_RDONLY | (constants.O_NOFOLLOW ?? 0))
    try {
      const length = readSync(file, pointerBytes, 0, POINTER_LIMIT, 0)
      const pointer = parsePointer(pointerBytes.subarray(0, length))
      if (pointer?.oid === entry.oid && pointer.size === entry.size && !pointer.extended) return 'pointer'
    } finally {
      closeSync(file)
    }
  }
  return stat.size === BigInt(entry.size) ? 'present' : 'changed'
}

/** SHA-256 of a file; undefined when it cannot be read. */
async function hashOf(path: string): Promise<string | undefined> {
  const hash = createHash('sha256')
  try {
    await pipeline(createReadStream(path, { highWaterMark: 2 ** 18 }), hash)
  } catch {
    return undefined
  }
  return hash.digest('hex')
}

async function copyObject(object: string, target: string): Promise<void> {
  await promises.copyFile(object, target, constants.COPYFILE_EXCL | constants.COPYFILE_FICLONE)
}

/** Throws what no other file would fare better with. */
function throwFatal(error: unknown): void {
  if (error instanceof TimoneError) throw error
  const code = systemCode(error)
  if (code === 'ENOSPC' || code === 'EDQUOT') {
    throw new TimoneError('disk_full', 'no space is left for the files of the work tree', { cause: error })
  }
  if (code === 'EROFS') {
    throw new TimoneError('read_only', 'the work tree is on a read-only file system', { cause: error })
  }
}
