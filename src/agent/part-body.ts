import type { Hash } from 'node:crypto'
import { Readable } from 'node:stream'
import { throwIfAborted } from '../access/http-client.ts'
import type { PlannedPart } from '../access/part-plan.ts'
import type { PartBody } from './object-access.ts'
import type { Progress } from './progress.ts'
import type { SourceFile } from './source-file.ts'

/** Bytes read at a time where a part does not fit into a buffer. */
const READ_SIZE = 256 * 1024

/** Reads a part that is too large for a buffer once, only to hash it; the pages are warm when it is sent. */
export async function hashPart(
  file: SourceFile,
  part: PlannedPart,
  hashes: readonly Hash[],
  signal: AbortSignal,
): Promise<void> {
  const buffer = Buffer.allocUnsafe(Math.min(READ_SIZE, Math.max(1, part.size)))
  let done = 0
  while (done < part.size) {
    throwIfAborted(signal)
    const bytes = buffer.subarray(0, part.size - done)
    await file.fill(bytes, part.offset + done)
    for (const hash of hashes) hash.update(bytes)
    done += bytes.length
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
  file: SourceFile,
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
      await file.fill(buffer, part.offset + read)
      read += buffer.length
      yield buffer
      // An attempt that was given up may still be here when the next one is under way.
      if (attempt !== current) return
      attempt.sent += buffer.length
      progress.add(buffer.length)
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
