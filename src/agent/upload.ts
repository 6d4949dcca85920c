import { createHash } from 'node:crypto'
import { throwIfAborted } from '../access/http-client.ts'
import { MIN_PART_SIZE, type PlannedPart, planParts } from '../access/part-plan.ts'
import { isTimoneError, TimoneError } from '../errors.ts'
import type { Logger } from '../log.ts'
import type { Oid } from '../oid.ts'
import type { ObjectAccess, Upload } from './object-access.ts'
import { bufferedBody, hashPart, streamedBody } from './part-body.ts'
import type { PartBuffers } from './part-buffers.ts'
import type { PartLanes } from './part-lanes.ts'
import type { Progress } from './progress.ts'
import type { ResumeStore } from './resume-store.ts'
import { SourceFile } from './source-file.ts'

export interface UploadContext {
  access: ObjectAccess
  /** Undefined where the file lies outside an LFS storage: then nothing is remembered. */
  resume: ResumeStore | undefined
  /** Names where the object goes, for the resume state: no secret, no credential. */
  target: string
  partSize: number
  /** Shared by all uploads of the process, as are the lanes. */
  buffers: PartBuffers
  lanes: PartLanes
  /**
   * Asked when the upload fails or is stopped: true when it is to leave no trace, neither parts in the store nor
   * state, since nobody asked for it in the end. Otherwise what was sent stays for the next run to go on with.
   */
  leaveNothing?: (() => boolean) | undefined
  /** The server has a damaged object under this oid and wants it replaced. */
  replace: boolean
  log: Logger
}

/**
 * Sends one object from `path`. Small ones go in one request that is bound to the oid; larger ones in parts, in
 * parallel, continuing an upload that an earlier process left. Whatever the way, other bytes than the oid's never
 * become visible. Gives true when the store itself has said that it is there whole; else the server is to look.
 * @throws `not_found` (no such file), `size_mismatch`, `hash_mismatch`, and what the store or network did.
 */
export async function uploadObject(
  oid: Oid,
  size: number,
  path: string,
  context: UploadContext,
  progress: Progress,
  signal: AbortSignal,
): Promise<boolean> {
  const file = await SourceFile.open(path)
  try {
    const { size: found, mtimeMs } = file
    if (found !== size) {
      throw new TimoneError('size_mismatch', `${path} has ${found} bytes, not ${size}: run git lfs fsck`)
    }
    // What fits into the smallest part is never sent in parts.
    const resume = size > MIN_PART_SIZE ? context.resume : undefined
    const attempt = async (): Promise<boolean> => {
      const upload = await openUpload(oid, size, mtimeMs, { ...context, resume }, signal)
      const stored = await send(file, oid, size, upload, { ...context, resume }, progress, signal)
      await resume?.dropUpload(oid)
      return stored
    }
    return await attempt().catch(async (error: unknown) => {
      if (!isTimoneError(error, 'no_such_upload')) throw error
      // Somebody has dropped the upload under our hands (a lifecycle rule, an operator): begin anew, once.
      context.log.warn({ oid }, error.message)
      progress.add(-size)
      return attempt()
    })
  } finally {
    file.close()
  }
}

/** Goes on with a remembered upload where the store still has it, else starts one and remembers it. */
async function openUpload(
  oid: Oid,
  size: number,
  mtimeMs: number,
  context: UploadContext,
  signal: AbortSignal,
): Promise<Upload> {
  const { access, resume, target, partSize, replace, log } = context
  const state = await resume?.claimUpload(oid, { target, size, mtimeMs })
  if (state !== undefined) {
    try {
      const upload = await access.openUpload(oid, size, {
        resumeId: state.uploadId,
        partSize: state.partSize,
        replace,
        signal,
      })
      log.info({ oid, missing: upload.missing.length }, 'continuing an upload')
      return upload
    } catch (error) {
      if (!isTimoneError(error, 'no_such_upload', 'invalid', 'not_found')) throw error
      log.info({ oid }, 'the remembered upload is gone, starting anew')
      await resume?.dropUpload(oid)
    }
  }
  // An upload that the store has begun can only be dropped by who knows its id: wait for it.
  const patient = context.leaveNothing === undefined ? signal : delayed(signal)
  const upload = await access.openUpload(oid, size, { partSize, replace, signal: patient })
  if (upload.id !== undefined) {
    await resume
      ?.writeUpload(oid, {
        version: 1,
        target,
        size,
        mtimeMs,
        partSize: upload.partSize,
        uploadId: upload.id,
        startedAt: Date.now(),
      })
      // Without the state the upload works all the same, it only cannot be continued.
      .catch((error: unknown) => log.warn({ oid }, `cannot remember the upload: ${(error as Error).message}`))
  }
  return upload
}

/** A signal that fires a while after `signal`. */
function delayed(signal: AbortSignal): AbortSignal {
  const late = new AbortController()
  const fire = (): void => {
    setTimeout(() => late.abort(signal.reason), PATIENCE).unref()
  }
  if (signal.aborted) late.abort(signal.reason)
  else signal.addEventListener('abort', fire, { once: true })
  return late.signal
}

/** How long an upload that is being opened may still take after it was stopped, milliseconds. */
const PATIENCE = 5000

async function send(
  file: SourceFile,
  oid: Oid,
  size: number,
  upload: Upload,
  context: UploadContext,
  progress: Progress,
  signal: AbortSignal,
): Promise<boolean> {
  try {
    const found = await sendParts(file, size, upload, context, progress, signal)
    if (found !== undefined && found !== oid)
      throw new TimoneError(
        'hash_mismatch',
        `the file’s SHA-256 is ${found}: it is damaged or changed while being sent; run git lfs fsck`,
      )
    return await upload.complete(signal)
  } catch (error) {
    if (context.leaveNothing?.() === true || !worthContinuing(error)) {
      await upload.abort()
      await context.resume?.dropUpload(oid)
    }
    throw error
  }
}

/**
 * Sends what the store lacks, each part in a lane of its own. Gives the SHA-256 of the whole; undefined where nobody
 * need look: the single request is bound to the oid, or the server hashes the whole.
 */
async function sendParts(
  file: SourceFile,
  size: number,
  upload: Upload,
  { buffers, lanes }: UploadContext,
  progress: Progress,
  signal: AbortSignal,
): Promise<string | undefined> {
  const parts = planParts(size, upload.partSize || size || 1)
  const [only] = parts
  if (only !== undefined && parts.length === 1 && upload.id === undefined) {
    if (upload.missing.length > 0) await sendWhole(file, only, upload, buffers, progress, signal)
    return undefined
  }
  const missing = new Set(upload.missing.map(({ number }) => number))
  const whole = upload.digest === 'none' ? undefined : createHash('sha256')
  const failed = new AbortController()
  const either = AbortSignal.any([signal, failed.signal])
  const inFlight = new Set<Promise<void>>()
  let failure: unknown
  try {
    for (const part of parts) {
      if (!missing.has(part.number)) {
        if (whole !== undefined) await hashPart(file, part, [whole], either)
        progress.add(part.size)
        continue
      }
      await lanes.enter(either)
      let sent = 0
      let buffer: Buffer | undefined
      const leave = (): void => {
        lanes.leave(sent)
        if (buffer !== undefined) buffers.give(buffer)
      }
      try {
        const digest = upload.digest === 'none' ? undefined : createHash(upload.digest)
        const hashes = [whole, digest].filter((hash) => hash !== undefined)
        if (part.size <= buffers.largest) {
          buffer = await buffers.take(part.size, either)
          await file.fill(buffer, part.offset)
          for (const hash of hashes) hash.update(buffer)
        } else if (hashes.length > 0) {
          await hashPart(file, part, hashes, either)
        }
        const hex = digest?.digest('hex')
        const body =
          buffer === undefined ? streamedBody(file, part, progress, hex) : bufferedBody(buffer, progress, hex)
        throwIfAborted(either)
        const sending = upload
          .putPart(part, body, either)
          .then(
            () => {
              sent = part.size
            },
            (error: unknown) => {
              failure ??= error
              failed.abort(error)
            },
          )
          .finally(() => {
            inFlight.delete(sending)
            leave()
          })
        inFlight.add(sending)
      } catch (error) {
        leave()
        throw error
      }
    }
    await Promise.all(inFlight)
    if (failure !== undefined) throw failure
    return whole?.digest('hex')
  } catch (error) {
    const reason = failure ?? error
    failed.abort(reason)
    await Promise.allSettled(inFlight)
    throw reason
  }
}

/** An object in one request, which the oid is bound to: no hash, no lane. */
async function sendWhole(
  file: SourceFile,
  part: PlannedPart,
  upload: Upload,
  buffers: PartBuffers,
  progress: Progress,
  signal: AbortSignal,
): Promise<void> {
  if (part.size > buffers.largest) {
    await upload.putPart(part, streamedBody(file, part, progress, undefined), signal)
    return
  }
  const buffer = await buffers.take(part.size, signal)
  try {
    await file.fill(buffer, part.offset)
    await upload.putPart(part, bufferedBody(buffer, progress, undefined), signal)
  } finally {
    buffers.give(buffer)
  }
}

/** After these the same upload can be finished by a later run; after others its parts are rubbish. */
function worthContinuing(error: unknown): boolean {
  if (!isTimoneError(error)) return false
  return (
    error.retryable ||
    [
      'cancelled',
      'credentials_expired',
      'unauthorized',
      'tls',
      'proxy',
      'denied',
      'forbidden',
      'clock_skew',
    ].includes(error.code)
  )
}
