import type { FileHandle } from 'node:fs/promises'
import { Readable, type Writable } from 'node:stream'
import { finished } from 'node:stream/promises'
import { TimoneError } from '../errors.ts'
import { fileError } from './file-errors.ts'

const CHUNK = 256 * 1024

/**
 * Reads bytes `start` to `end` (excluded) of an open file and closes it, however the reading ends.
 * A file that gets shorter meanwhile is an error, never a short body.
 */
export class FileBody extends Readable {
  readonly #handle: FileHandle
  readonly #doing: string
  readonly #end: number
  #at: number

  constructor(handle: FileHandle, start: number, end: number, doing: string) {
    super({ highWaterMark: CHUNK })
    this.#handle = handle
    this.#at = start
    this.#end = end
    this.#doing = doing
  }

  override _read(): void {
    if (this.#at >= this.#end) {
      this.push(null)
      return
    }
    const length = Math.min(CHUNK, this.#end - this.#at)
    this.#handle.read(Buffer.allocUnsafe(length), 0, length, this.#at).then(
      ({ bytesRead, buffer }) => {
        if (bytesRead === 0) {
          this.destroy(new TimoneError('size_mismatch', `cannot ${this.#doing}: it became shorter meanwhile`))
          return
        }
        this.#at += bytesRead
        this.push(buffer.subarray(0, bytesRead))
      },
      (error: unknown) => this.destroy(fileError(error, this.#doing)),
    )
  }

  /**
   * Writes all of it to `sink` and ends it, with one buffer that is used again as soon as the kernel has its bytes:
   * a stream of new buffers leaves more garbage than 8 fast downloads may have memory.
   * @throws `size_mismatch`, or the sink's own error
   */
  async sendTo(sink: Writable): Promise<void> {
    const buffer = Buffer.allocUnsafe(Math.min(CHUNK, Math.max(1, this.#end - this.#at)))
    try {
      while (this.#at < this.#end) {
        const { bytesRead } = await this.#handle.read(
          buffer,
          0,
          Math.min(buffer.length, this.#end - this.#at),
          this.#at,
        )
        if (bytesRead === 0) {
          throw new TimoneError('size_mismatch', `cannot ${this.#doing}: it became shorter meanwhile`)
        }
        this.#at += bytesRead
        await written(sink, buffer.subarray(0, bytesRead))
      }
      sink.end()
      await finished(sink)
    } catch (error) {
      sink.destroy()
      throw error
    } finally {
      this.destroy()
    }
  }

  override _destroy(error: Error | null, done: (error?: Error | null) => void): void {
    this.#handle.close().then(
      () => done(error),
      (closing: unknown) => done(error ?? fileError(closing, this.#doing)),
    )
  }
}

/** Settles when `sink` has handed `chunk` on, or will not do so any more. */
function written(sink: Writable, chunk: Buffer): Promise<void> {
  return new Promise((resolve, reject) => {
    const gone = (): void => reject(new TimoneError('connection', 'the reader has gone'))
    if (sink.destroyed) return gone()
    sink.once('close', gone)
    sink.write(chunk, (error) => {
      sink.off('close', gone)
      if (error === null || error === undefined) resolve()
      else reject(error)
    })
  })
}
