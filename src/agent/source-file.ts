import { close, fstatSync, open, read } from 'node:fs'
import { systemCode, TimoneError } from '../errors.ts'

/**
 * A file that is sent. On the callbacks of node:fs: a small object is opened, read once and closed, and promises and
 * handles would cost more than its reading.
 */
export class SourceFile {
  readonly #fd: number
  /** Bytes, when it was opened. */
  readonly size: number
  /** Modification time when it was opened, milliseconds since the epoch. */
  readonly mtimeMs: number
  #reading = 0
  #closed = false

  private constructor(fd: number, { size, mtimeMs }: { size: number; mtimeMs: number }) {
    this.#fd = fd
    this.size = size
    this.mtimeMs = mtimeMs
  }

  /** @throws {TimoneError} `not_found` or `denied` */
  static open(path: string): Promise<SourceFile> {
    return new Promise((resolve, reject) => {
      open(path, 'r', (error, fd) => {
        if (error !== null) {
          reject(cannotRead(path, error))
          return
        }
        try {
          // Does not wait for the disk: the kernel has it in memory for every open file.
          resolve(new SourceFile(fd, fstatSync(fd)))
        } catch (failure) {
          close(fd)
          reject(cannotRead(path, failure))
        }
      })
    })
  }

  /**
   * Fills `buffer` with what stands at `position`.
   * @throws {TimoneError} `size_mismatch` when the file ends before that, `denied` when the disk fails
   */
  async fill(buffer: Buffer, position: number): Promise<void> {
    for (let done = 0; done < buffer.length; ) {
      const count = await this.#read(buffer, done, position + done)
      if (count === 0) throw new TimoneError('size_mismatch', 'the file became shorter while being sent')
      done += count
    }
  }

  /** Closes the file, once nobody reads any more: its number may be another file's a moment later. */
  close(): void {
    if (this.#closed) return
    this.#closed = true
    if (this.#reading === 0) close(this.#fd)
  }

  #read(buffer: Buffer, offset: number, position: number): Promise<number> {
    return new Promise((resolve, reject) => {
      if (this.#closed) throw new TypeError('the file is closed')
      this.#reading++
      read(this.#fd, buffer, offset, buffer.length - offset, position, (error, count) => {
        this.#reading--
        if (this.#closed && this.#reading === 0) close(this.#fd)
        if (error === null) resolve(count)
        else reject(cannotRead('the file', error))
      })
    })
  }
}

function cannotRead(what: string, error: unknown): TimoneError {
  const code = systemCode(error) ?? 'unknown error'
  const kind = code === 'ENOENT' ? 'not_found' : 'denied'
  return new TimoneError(kind, `cannot read ${what} (${code})`, { cause: error })
}
