import { chmod, rm } from 'node:fs/promises'
import type { Retrier } from '../access/retry.ts'
import { isTimoneError, TimoneError } from '../errors.ts'
import type { Logger } from '../log.ts'
import type { Oid } from '../oid.ts'
import { ExtentJournal } from './extent-journal.ts'
import { dropExtentMap, readExtentMap } from './extent-map.ts'
import { HashFollower } from './hash-follower.ts'
import type { ObjectAccess } from './object-access.ts'
import { PartialFile } from './partial-file.ts'
import type { Progress } from './progress.ts'
import { type Extent, RangePlan } from './range-plan.ts'
import { RangedDownload } from './ranged-download.ts'
import type { ResumeStore } from './resume-store.ts'
import type { Governor } from './stream-governor.ts'
import { damagedObject, downloadWhole, WHOLE_OBJECT } from './whole-download.ts'

export interface DownloadContext {
  access: ObjectAccess
  resume: ResumeStore
  retrier: Retrier
  log: Logger
  /** Permission bits of the finished file, from `core.sharedRepository`; undefined: what the umask gives. */
  mode: number | undefined
  /** Names where the object comes from, for the map of a partial download: no secret, no credential. */
  source: string
  /** Streams that one object may have at most. */
  parallelParts: number
  /** Shared by all downloads of the process. */
  governors: { for(host: string): Governor }
  /** Asked when the download is aborted: true leaves nothing on disk, not even to go on with. */
  leaveNothing?: (() => boolean) | undefined
}

/**
 * Objects of so many bytes at most go the short way: one request, no map of what is there, no fsync. The map would cost
 * more than fetching them again does. And an fsync for each of two thousand files costs more than all their bytes, for
 * nothing that is promised: git-lfs hashes the file once more before it takes it, does not sync it either, and fetches
 * an object again that a power loss took.
 */
export const SMALL_OBJECT: number = 8 * 2 ** 20

/**
 * Fetches one object into a file beside the LFS objects and gives its path. It is hashed while it arrives and continues
 * where an earlier process or connection stopped. Above {@link SMALL_OBJECT} it comes on several streams where that is
 * faster, a map beside the file survives a kill, and it is on disk before its path is given.
 * @throws `not_found`, `hash_mismatch` (after one fresh try), `size_mismatch`, `disk_full`, `read_only`, …
 */
export async function downloadObject(
  oid: Oid,
  size: number,
  context: DownloadContext,
  progress: Progress,
  signal: AbortSignal,
): Promise<string> {
  const { path, found } = await context.resume.claimPartial(oid)
  const attempt = (found: boolean): Promise<void> =>
    fetchInto(path, found, oid, size, context, progress, signal)
  try {
    await attempt(found).catch(async (error: unknown) => {
      if (!isTimoneError(error, 'hash_mismatch', 'size_mismatch')) throw error
      context.log.warn({ oid }, `${error.message}: trying once more from the start`)
      await remove(path)
      await attempt(false)
    })
    return path
  } catch (error) {
    if (!worthKeeping(error, size) || (signal.aborted && context.leaveNothing?.() === true))
      await remove(path)
    // No room was looked for before it came, as is for a larger one.
    if (size <= SMALL_OBJECT && isTimoneError(error, 'disk_full'))
      throw new TimoneError('disk_full', `${size} bytes are needed: ${error.message}`, { cause: error })
    throw error
  }
}

async function remove(path: string): Promise<void> {
  await rm(path, { force: true }).catch(() => {})
  await dropExtentMap(path)
}

/** True when the next run can go on with the partial file. */
function worthKeeping(error: unknown, size: number): boolean {
  if (size <= SMALL_OBJECT) return false
  return !isTimoneError(error, 'hash_mismatch', 'size_mismatch', 'disk_full', 'not_found', 'invalid')
}

/** One attempt; what it has got stays in the file at `path`, with its map. */
async function fetchInto(
  path: string,
  found: boolean,
  oid: Oid,
  size: number,
  context: DownloadContext,
  progress: Progress,
  signal: AbortSignal,
): Promise<void> {
  const { source, log, access } = context
  if (size <= WHOLE_OBJECT && !found) {
    await downloadWhole(path, oid, size, context, progress, signal)
    if (context.mode !== undefined) await chmod(path, context.mode)
    return
  }
  const small = size <= SMALL_OBJECT
  const { file, extents, etag } = await openFile(path, found || !small, oid, size, source)
  try {
    const plan = new RangePlan(size, extents)
    const hash = new HashFollower(file, plan, signal)
    const version = () => ({ oid, size, source, etag: download.etag })
    const journal = small ? undefined : new ExtentJournal(file, plan, version, log)
    const governor = small ? undefined : context.governors.for(access.host)
    const download: RangedDownload = new RangedDownload({
      ...{ oid, context, file, plan, hash, journal, governor, etag, progress, signal },
    })
    try {
      progress.add(plan.written)
      if (extents.length > 0) hash.catchUp()
      if (!small) await file.checkRoom(size - plan.written)
      await download.run()
      const digest = await hash.digest()
      if (digest !== oid) throw damagedObject(digest, oid)
      await journal?.end()
    } catch (error) {
      await hash.stop()
      if (worthKeeping(error, size) && !(signal.aborted && context.leaveNothing?.() === true))
        await journal?.stop()
      else await journal?.end()
      progress.add(-plan.written)
      throw error
    }
    if (context.mode !== undefined) await file.chmod(context.mode)
    if (!small) await file.sync()
  } finally {
    await file.close()
  }
  if (!small || found) await dropExtentMap(path)
}

/** The file to fetch into, and what is in it already. */
async function openFile(
  path: string,
  found: boolean,
  oid: Oid,
  size: number,
  source: string,
): Promise<{ file: PartialFile; extents: Extent[]; etag: string | undefined }> {
  const fresh = found ? undefined : await PartialFile.create(path)
  if (fresh !== undefined) return { file: fresh, extents: [], etag: undefined }
  const { file, length } = await PartialFile.open(path)
  const map = await readExtentMap(path, { oid, size, source })
  if (map !== undefined && length <= size && (map.extents.at(-1)?.end ?? 0) <= length) return { file, ...map }
  // Without a map, but with all its bytes: it was finished, and its process ended before it was taken. The hash will tell.
  if (map === undefined && length === size && size > 0) {
    return { file, extents: [{ start: 0, end: size }], etag: undefined }
  }
  await dropExtentMap(path)
  await file.empty()
  return { file, extents: [], etag: undefined }
}
