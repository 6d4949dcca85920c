import type { FileHandle } from 'node:fs/promises'
import { Readable } from 'node:stream'
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

  override _destroy(error: Error | null, done: (error?: Error | null) => void): void {
    this.#handle.close().then(
      () => done(error),
      (closing: unknown) => done(error ?? fileError(closing, this.#doing)),
    )
  }
}
