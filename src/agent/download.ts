import { createHash, type Hash } from 'node:crypto'
import { constants } from 'node:fs'
import { type FileHandle, open, rm, statfs } from 'node:fs/promises'
import { dirname } from 'node:path'
import type { HttpResponse } from '../access/http-client.ts'
import { throwIfAborted } from '../access/http-client.ts'
import type { Retrier } from '../access/retry.ts'
import { isTimoneError, systemCode, TimoneError } from '../errors.ts'
import type { Logger } from '../log.ts'
import type { Oid } from '../oid.ts'
import type { ObjectAccess } from './object-access.ts'
import type { Progress } from './progress.ts'
import { folderError, type ResumeStore } from './resume-store.ts'

export interface DownloadContext {
  access: ObjectAccess
  resume: ResumeStore
  retrier: Retrier
  log: Logger
  /** Permission bits of the finished file, from `core.sharedRepository`; undefined: what the umask gives. */
  mode: number | undefined
}

/**
 * Appending, and never through a link or a pipe that somebody else has put there. `a+` with O_NOFOLLOW, which Windows
 * does not have.
 */
const { O_RDWR, O_APPEND, O_CREAT, O_NOFOLLOW = 0, O_NONBLOCK = 0 } = constants
const OPEN_FLAGS = O_RDWR | O_APPEND | O_CREAT | O_NOFOLLOW | O_NONBLOCK

/** Bytes read at a time when a partial file is hashed again. */
const READ_SIZE = 2 ** 20

/**
 * Fetches one object into a file beside the LFS objects and gives its path. The bytes are hashed while they arrive, on
 * disk (fsync) before the path is given, and continue where an earlier process or connection stopped.
 * @throws `not_found`, `hash_mismatch` (after one fresh try), `size_mismatch`, `disk_full`, `read_only`, …
 */
export async function downloadObject(
  oid: Oid,
  size: number,
  context: DownloadContext,
  progress: Progress,
  signal: AbortSignal,
): Promise<string> {
  const path = await context.resume.claimPartial(oid)
  try {
    return await fetchInto(path, oid, size, context, progress, signal)
  } catch (error) {
    if (isTimoneError(error, 'hash_mismatch', 'size_mismatch')) {
      context.log.warn({ oid }, `${error.message}: trying once more from the start`)
      await rm(path, { force: true })
      try {
        return await fetchInto(path, oid, size, context, progress, signal)
      } catch (again) {
        await cleanUp(path, again)
        throw again
      }
    }
    await cleanUp(path, error)
    throw error
  }
}

/** Keeps a partial file where the next run can go on with it, and only there. */
async function cleanUp(path: string, error: unknown): Promise<void> {
  const useless = isTimoneError(error, 'hash_mismatch', 'size_mismatch', 'disk_full', 'not_found', 'invalid')
  if (useless) await rm(path, { force: true }).catch(() => {})
}

async function fetchInto(
  path: string,
  oid: Oid,
  size: number,
  context: DownloadContext,
  progress: Progress,
  signal: AbortSignal,
): Promise<string> {
  const file = await open(path, OPEN_FLAGS, 0o666).catch((error: unknown) => {
    throw folderError(error, dirname(path))
  })
  try {
    const { nlink } = await file.stat()
    if (nlink > 1)
      throw new TimoneError('read_only', `${path} is not ours to write: remove it and repeat the command`)
    let { hash, length } = await hashPartial(file, size, signal)
    progress.add(length)
    await checkRoom(path, size - length)
    let etag: string | undefined
    let failures = 0
    while (length < size || (size === 0 && etag === undefined)) {
      const before = length
      try {
        await context.retrier.run(
          context.access.host,
          async () => {
            const response = await context.access.get(oid, size, { offset: length, etag, signal })
            if (response.status !== 206 && length > 0) {
              // The whole object instead of the rest: begin anew.
              await file.truncate(0)
              progress.add(-length)
              hash = createHash('sha256')
              length = 0
            }
            checkAnswer(response, length, size, context.access.host)
            etag = response.headers.etag ?? '*'
            await receive(response, file, hash, size - length, (bytes) => {
              length += bytes
              progress.add(bytes)
            })
            if (length < size)
              throw new TimoneError('connection', `${context.access.host} ended the answer early`)
          },
          {
            signal,
            onRetry: (error, delay) =>
              context.log.warn({ oid, at: length, delay, code: error.code }, error.message),
          },
        )
      } catch (error) {
        throwIfAborted(signal)
        if (isTimoneError(error, 'precondition_failed')) {
          throw new TimoneError('hash_mismatch', 'the object was replaced while it was being read', {
            cause: error,
          })
        }
        // Tries count from the last byte that arrived: a bad line that still moves is not given up.
        if (!isTimoneError(error) || !error.retryable || length === before || ++failures > MAX_FAILURES)
          throw error
      }
    }
    if (length > size) throw tooLong(length, size)
    const found = hash.digest('hex')
    if (found !== oid) {
      throw new TimoneError(
        'hash_mismatch',
        `the stored object is damaged: its SHA-256 is ${found}, not ${oid}: push it again from a good clone`,
      )
    }
    if (context.mode !== undefined) await file.chmod(context.mode)
    await file.sync()
    return path
  } catch (error) {
    throw isTimoneError(error) ? error : fileError(error, path, size)
  } finally {
    await file.close()
  }
}

/** Rounds of tries that each moved some bytes before they failed. */
const MAX_FAILURES = 100

/** Hashes what an earlier process left. A file longer than the object cannot be its beginning. */
async function hashPartial(
  file: FileHandle,
  size: number,
  signal: AbortSignal,
): Promise<{ hash: Hash; length: number }> {
  const { size: present } = await file.stat()
  const hash = createHash('sha256')
  if (present > size) {
    await file.truncate(0)
    return { hash, length: 0 }
  }
  const buffer = Buffer.allocUnsafe(Math.min(READ_SIZE, Math.max(1, present)))
  let length = 0
  while (length < present) {
    throwIfAborted(signal)
    const { bytesRead } = await file.read(buffer, 0, Math.min(buffer.length, present - length), length)
    if (bytesRead === 0) break
    hash.update(buffer.subarray(0, bytesRead))
    length += bytesRead
  }
  return { hash, length }
}

/** Fails before the first byte where the object cannot fit, so that the disk keeps what room it has. */
async function checkRoom(path: string, needed: number): Promise<void> {
  const { bavail, bsize } = await statfs(dirname(path))
  const free = bavail * bsize
  if (needed > free) {
    throw new TimoneError(
      'disk_full',
      `${needed} bytes are needed in ${dirname(path)} and ${free} are free: free some space and repeat the command`,
    )
  }
}

function checkAnswer(response: HttpResponse, offset: number, size: number, host: string): void {
  const { status, headers } = response
  const fail = (error: TimoneError): never => {
    response.body.destroy()
    throw error
  }
  if (status === 206) {
    const match = /^bytes (\d+)-\d+\/(\d+|\*)$/.exec(headers['content-range'] ?? '')
    if (match === null || Number(match[1]) !== offset) {
      fail(new TimoneError('unavailable', `${host} answered another range than asked for`, { host }))
    } else if (match[2] !== '*' && Number(match[2]) !== size) {
      fail(wrongSize(Number(match[2]), size))
    }
  } else if (headers['content-length'] !== undefined && Number(headers['content-length']) !== size) {
    fail(wrongSize(Number(headers['content-length']), size))
  }
}

const wrongSize = (found: number, size: number): TimoneError =>
  new TimoneError(
    'size_mismatch',
    `the stored object has ${found} bytes, not ${size}: push it again from a good clone`,
  )

const tooLong = (found: number, size: number): TimoneError =>
  new TimoneError('size_mismatch', `${found} bytes arrived for an object of ${size}`)

/** Bytes that are collected before they are written: a system call for each packet costs more than the packet. */
const WRITE_SIZE = 512 * 1024
/** Milliseconds after which they are written even if they are few. */
const WRITE_INTERVAL = 100

/** Writes and hashes the body as it arrives, `room` bytes at most; the socket waits while the disk is slow. */
async function receive(
  response: HttpResponse,
  file: FileHandle,
  hash: Hash,
  room: number,
  onBytes: (bytes: number) => void,
): Promise<void> {
  let collected: Buffer[] = []
  let length = 0
  let writing = Promise.resolve()
  const flush = (): Promise<void> => {
    writing = writing.then(async () => {
      const [chunks, bytes] = [collected, length]
      collected = []
      length = 0
      if (bytes === 0) return
      await writeFully(file, chunks, bytes)
      for (const chunk of chunks) hash.update(chunk)
      onBytes(bytes)
    })
    return writing
  }
  // On a slow line, and before a stall, what has arrived is written and counted all the same.
  const timer = setInterval(() => flush().catch(() => {}), WRITE_INTERVAL)
  let left = room
  let first = true
  try {
    for await (const chunk of response.body as AsyncIterable<Buffer>) {
      left -= chunk.length
      // An answer without an end must not fill the disk.
      if (left < 0) throw new TimoneError('size_mismatch', `more than the ${room} bytes asked for arrived`)
      collected.push(chunk)
      length += chunk.length
      // git-lfs's other workers wait for the first one's first byte.
      if (length >= WRITE_SIZE || first) await flush()
      first = false
    }
    await flush()
  } catch (error) {
    if (isTimoneError(error, 'size_mismatch') || isDiskCode(systemCode(error))) throw error
    // What has arrived is kept: the next try goes on behind it.
    await flush()
    if (isTimoneError(error)) throw error
    throw new TimoneError(
      'connection',
      `the connection broke in the middle of the object (${systemCode(error) ?? 'ended'})`,
      { cause: error },
    )
  } finally {
    clearInterval(timer)
  }
}

/** The file is open for appending, so a short write is continued where it stopped. */
async function writeFully(file: FileHandle, chunks: Buffer[], bytes: number): Promise<void> {
  const { bytesWritten } = await file.writev(chunks)
  if (bytesWritten === bytes) return
  const rest = Buffer.concat(chunks).subarray(bytesWritten)
  let at = 0
  while (at < rest.length) at += (await file.write(rest, at, rest.length - at)).bytesWritten
}

const DISK_CODES: ReadonlySet<string> = new Set([
  'ENOSPC',
  'EDQUOT',
  'EROFS',
  'EIO',
  'EFBIG',
  'EACCES',
  'EPERM',
])
const isDiskCode = (code: string | undefined): boolean => code !== undefined && DISK_CODES.has(code)

function fileError(error: unknown, path: string, size: number): unknown {
  const code = systemCode(error)
  if (!isDiskCode(code)) return error
  if (code === 'ENOSPC' || code === 'EDQUOT' || code === 'EFBIG') {
    return new TimoneError(
      'disk_full',
      `no room in ${dirname(path)} for an object of ${size} bytes (${code}): free some space and repeat the command`,
      { cause: error },
    )
  }
  return folderError(error, dirname(path))
}
