import type { Hash } from 'node:crypto'
import type { FileHandle } from 'node:fs/promises'
import { Readable } from 'node:stream'
import { throwIfAborted } from '../access/http-client.ts'
import type { PlannedPart } from '../access/part-plan.ts'
import { TimoneError } from '../errors.ts'
import type { PartBody } from './object-access.ts'
import type { Progress } from './progress.ts'

/** Bytes read at a time where a part does not fit into a buffer. */
const READ_SIZE = 256 * 1024
const tooShort = (): TimoneError =>
  new TimoneError('size_mismatch', 'the file became shorter while being sent')

/** Reads a part into `buffer`, which has its size. @throws `size_mismatch` when the file ends before it. */
export async function fillBuffer(file: FileHandle, part: PlannedPart, buffer: Buffer): Promise<void> {
  let done = 0
  while (done < part.size) {
    const { bytesRead } = await file.read(buffer, done, part.size - done, part.offset + done)
    if (bytesRead === 0) throw tooShort()
    done += bytesRead
  }
}

/** Reads a part that is too large for a buffer once, only to hash it; the pages are warm when it is sent. */
export async function hashPart(
  file: FileHandle,
  part: PlannedPart,
  hashes: readonly Hash[],
  signal: AbortSignal,
): Promise<void> {
  const buffer = Buffer.allocUnsafe(Math.min(READ_SIZE, Math.max(1, part.size)))
  let done = 0
  while (done < part.size) {
    throwIfAborted(signal)
    const length = Math.min(buffer.length, part.size - done)
    const { bytesRead } = await file.read(buffer, 0, length, part.offset + done)
    if (bytesRead === 0) throw tooShort()
    for (const hash of hashes) hash.update(buffer.subarray(0, bytesRead))
    done += bytesRead
  }
}

/** The body of a part that is in memory. What an earlier try counted as sent is taken back by the next one. */
export function bufferedBody(bytes: Buffer, progress: Progress, digest: string | undefined): PartBody {
  let sent = 0
  return {
    digest,
    open: () => {
      progress.add(-sent)
      sent = 0
      return bytes
    },
    onSent: (count) => {
      sent += count
      progress.add(count)
    },
  }
}

/** The body of a part that is read again for each try. */
export function streamedBody(
  file: FileHandle,
  part: PlannedPart,
  progress: Progress,
  digest: string | undefined,
): PartBody {
  let current = { sent: 0 }
  async function* bytes(attempt: { sent: number }): AsyncGenerator<Buffer> {
    let read = 0
    while (read < part.size) {
      // A new buffer each time: the socket keeps what it has not sent yet.
      const buffer = Buffer.allocUnsafe(Math.min(READ_SIZE, part.size - read))
      const { bytesRead } = await file.read(buffer, 0, buffer.length, part.offset + read)
      if (bytesRead === 0) throw tooShort()
      read += bytesRead
      yield bytesRead === buffer.length ? buffer : buffer.subarray(0, bytesRead)
      // An attempt that was given up may still be here when the next one is under way.
      if (attempt !== current) return
      attempt.sent += bytesRead
      progress.add(bytesRead)
    }
  }
  return {
    digest,
    open: () => {
      progress.add(-current.sent)
      current = { sent: 0 }
      return Readable.from(bytes(current), { objectMode: false, highWaterMark: READ_SIZE })
    },
  }
}
