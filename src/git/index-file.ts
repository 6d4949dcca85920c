import { createHash } from 'node:crypto'
import type { BigIntStats } from 'node:fs'
import {
  closeSync,
  fchmodSync,
  fstatSync,
  openSync,
  readFileSync,
  realpathSync,
  renameSync,
  unlinkSync,
  writeSync,
} from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import { isTimoneError, systemCode, TimoneError } from '../errors.ts'
import { parseIndex } from './index-format.ts'
import type { LocalRepository } from './repository.ts'

/** A work tree file as it is now, to be recorded for an index entry that still names `blob`. */
export interface FreshFile {
  readonly path: string
  /** Blob id that the file cleans to, hexadecimal; an index entry with another one is left alone. */
  readonly blob: string
  /** From `lstat` after the last change of any kind to the file. */
  readonly stat: BigIntStats
}

/** What became of the files' stat data. */
export interface IndexUpdate {
  /** How many entries were recorded. */
  readonly recorded: number
  /**
   * Why the index could not be patched; undefined: it was. Until it is, git calls the files changed: their sizes are
   * not the pointers'. The next fill records them.
   */
  readonly refused: string | undefined
  /** Paths that were not recorded: their entry is another by now. git calls them changed, and they are. */
  readonly skipped: readonly string[]
}

/** How long to wait for another git to give the index back, milliseconds. */
const LOCK_PATIENCE = 2000

/**
 * Records stat data of work tree files in git's index, so that git need not read them again to see that they are
 * unchanged. In place: nothing else in the index changes, extensions included. Takes `index.lock`, as git does.
 * @throws {TimoneError} `config` when the index cannot be read or written
 */
export async function recordStats(
  repository: LocalRepository,
  files: readonly FreshFile[],
  options: { lockPatience?: number } = {},
): Promise<IndexUpdate> {
  const refuse = (refused: string): IndexUpdate => ({
    recorded: 0,
    refused,
    skipped: files.map(({ path }) => path),
  })
  if (files.length === 0) return { recorded: 0, refused: undefined, skipped: [] }
  let target: string
  try {
    // git, too, locks and replaces what a linked index points to.
    target = realpathSync(repository.indexFile)
  } catch (error) {
    if (systemCode(error) === 'ENOENT') return refuse('there is no index')
    throw unusable(repository, error)
  }
  const lock = `${target}.lock`
  const descriptor = await openLock(lock, options.lockPatience ?? LOCK_PATIENCE, repository)
  if (descriptor === undefined) return refuse(`another git is at work here (${lock} exists)`)
  // From here to the rename nothing waits: a signal handler cannot come between, and git is kept out for milliseconds.
  let held = true
  let patched: Patched
  try {
    patched = patch(target, descriptor, files, repository)
    if (patched.update.recorded > 0) {
      renameSync(lock, target)
      held = false
    }
  } catch (error) {
    throw unusable(repository, error)
  } finally {
    closeSync(descriptor)
    if (held) unlinkSync(lock)
  }
  if (patched.doubted > 0 && patched.update.recorded > 0) await settle(repository)
  return patched.update
}

/**
 * Lets git look into the files that it was told to doubt: its plumbing (`git diff-index --quiet HEAD` in build scripts)
 * would call them changed until then. Each is read once, as the next `git status` would have done.
 */
async function settle(repository: LocalRepository): Promise<void> {
  await repository
    .git(['update-index', '-q', '--refresh'], {
      cwd: repository.workTree ?? repository.cwd,
      accepted: [0, 1],
    })
    .catch((error: unknown) => {
      // Another git holds the index: it, or the next one, does the same.
      if (isTimoneError(error, 'cancelled')) throw error
    })
}

interface Patched {
  readonly update: IndexUpdate
  /** How many other entries git will have to look into. */
  readonly doubted: number
}

/**
 * The index as it is now. `refused`: why no stat data can be recorded in it, so that files had better not be filled.
 * `known`: which of these paths it has this very stat data for.
 */
export function readIndex(repository: LocalRepository): {
  refused: string | undefined
  known(files: ReadonlyMap<string, BigIntStats>): Set<string>
} {
  let bytes: Buffer
  try {
    bytes = readFileSync(repository.indexFile)
  } catch (error) {
    if (systemCode(error) !== 'ENOENT') throw unusable(repository, error)
    return { refused: 'there is no index', known: () => new Set() }
  }
  const index = parseIndex(bytes, repository.objectFormat === 'sha256' ? 32 : 20)
  if (typeof index === 'string') return { refused: index, known: () => new Set() }
  return {
    refused: undefined,
    known(files) {
      const known = new Set<string>()
      const wanted = new Map([...files].map(([path, stat]) => [bytesOf(path), { path, stat }]))
      const expected = Buffer.alloc(40)
      for (const { path, at } of index.entries()) {
        const file = wanted.get(path)
        if (file === undefined) continue
        bytes.copy(expected, 0, at, at + 40)
        putStat(expected, 0, file.stat)
        if (expected.equals(bytes.subarray(at, at + 40))) known.add(file.path)
      }
      return known
    },
  }
}

async function openLock(
  lock: string,
  patience: number,
  repository: LocalRepository,
): Promise<number | undefined> {
  const end = performance.now() + patience
  for (let pause = 10; ; pause = Math.min(pause * 2, 200)) {
    try {
      return openSync(lock, 'wx', 0o666)
    } catch (error) {
      if (systemCode(error) !== 'EEXIST') throw unusable(repository, error)
    }
    if (performance.now() + pause > end) return undefined
    await sleep(pause, undefined, repository.signal === undefined ? {} : { signal: repository.signal }).catch(
      (cause: unknown) => {
        throw new TimoneError('cancelled', 'interrupted', { cause })
      },
    )
  }
}

/** Writes the patched index into the lock. */
function patch(
  target: string,
  lock: number,
  files: readonly FreshFile[],
  repository: LocalRepository,
): Patched {
  const refuse = (refused: string): Patched => ({
    update: { recorded: 0, refused, skipped: files.map(({ path }) => path) },
    doubted: 0,
  })
  const source = openSync(target, 'r')
  let bytes: Buffer
  let written: BigIntStats
  try {
    written = fstatSync(source, { bigint: true })
    bytes = readFileSync(source)
  } finally {
    closeSync(source)
  }
  const hashSize = repository.objectFormat === 'sha256' ? 32 : 20
  const index = parseIndex(bytes, hashSize)
  if (typeof index === 'string') return refuse(index)
  const trailer = bytes.length - hashSize
  // index.skipHash: all zero, and stays so.
  const hashed = bytes.subarray(trailer).some((byte) => byte !== 0)
  const algorithm = repository.objectFormat
  if (hashed && !digest(algorithm, bytes.subarray(0, trailer)).equals(bytes.subarray(trailer))) {
    return refuse('the index is damaged: its checksum is wrong')
  }
  const before = Number(seconds(written.mtimeNs))
  const wanted = new Map(files.map((file) => [bytesOf(file.path), file]))
  let recorded = 0
  let doubted = 0
  for (const { path, at, stage, intent } of index.entries()) {
    const file = wanted.get(path)
    if (file !== undefined && stage === 0 && !intent) {
      const blob = bytes.toString('hex', at + 40, at + 40 + hashSize)
      if (blob === file.blob) {
        putStat(bytes, at, file.stat)
        wanted.delete(path)
        recorded++
        continue
      }
    }
    // Racy git: an entry that was changed in the very second in which the index was written may have been changed again
    // after that, unseen, at the same size. git tells by the index file's time, which this rewrite moves: so do as git
    // does when it rewrites an index, and set the size to 0, which says "look into the file".
    if (bytes.readUInt32BE(at + 8) >= before && bytes.readUInt32BE(at + 36) !== 0) {
      bytes.writeUInt32BE(0, at + 36)
      doubted++
    }
  }
  const skipped = [...wanted.values()].map(({ path }) => path)
  const update: IndexUpdate = { recorded, refused: undefined, skipped }
  if (recorded === 0) return { update, doubted }
  if (hashed) digest(algorithm, bytes.subarray(0, trailer)).copy(bytes, trailer)
  for (let at = 0; at < bytes.length; ) at += writeSync(lock, bytes, at)
  // In a shared repository git made the index writable for others; it stays so.
  const mode = Number(written.mode) & 0o777
  if ((Number(fstatSync(lock).mode) & 0o777) !== mode) fchmodSync(lock, mode)
  return { update, doubted }
}

/** Ten 32-bit numbers, cut to size as git cuts them (statinfo.c, `fill_stat_data`); the mode is the entry's own. */
function putStat(bytes: Buffer, entry: number, stat: BigIntStats): void {
  // Git for Windows has its own stat: the creation time for ctime, and no device, file or owner numbers.
  const windows = process.platform === 'win32'
  const changed = windows ? stat.birthtimeNs : stat.ctimeNs
  const put = (at: number, value: bigint) =>
    bytes.writeUInt32BE(Number(BigInt.asUintN(32, value)), entry + at)
  put(0, seconds(changed))
  put(4, changed % SECOND)
  put(8, seconds(stat.mtimeNs))
  put(12, stat.mtimeNs % SECOND)
  put(16, windows ? 0n : stat.dev)
  put(20, windows ? 0n : stat.ino)
  put(28, windows ? 0n : stat.uid)
  put(32, windows ? 0n : stat.gid)
  // A size of 0 would mean "look into the file"; git writes this for whole multiples of 4 GiB.
  const size = BigInt.asUintN(32, stat.size)
  put(36, size === 0n && stat.size > 0n ? 0x80000000n : size)
}

/** A path as {@link parseIndex} gives it. */
const bytesOf = (path: string): string => Buffer.from(path).toString('latin1')

const SECOND = 1_000_000_000n
const seconds = (nanoseconds: bigint): bigint => nanoseconds / SECOND

const digest = (algorithm: 'sha1' | 'sha256', bytes: Buffer): Buffer =>
  createHash(algorithm).update(bytes).digest()

function unusable(repository: LocalRepository, error: unknown): TimoneError {
  if (error instanceof TimoneError) return error
  const code = systemCode(error) ?? 'error'
  return new TimoneError('config', `${repository.indexFile} could not be updated (${code})`, { cause: error })
}
