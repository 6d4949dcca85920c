import { constants } from 'node:fs'
import { type FileHandle, open, rm, statfs } from 'node:fs/promises'
import { dirname } from 'node:path'
import { isTimoneError, systemCode, TimoneError } from '../errors.ts'
import { folderError } from './resume-store.ts'

const { O_RDWR, O_CREAT, O_EXCL, O_NOFOLLOW = 0, O_NONBLOCK = 0 } = constants
/** Exclusive: neither a link nor anything else that somebody has put there is ever opened. */
const CREATE = O_RDWR | O_CREAT | O_EXCL
/** Never through a link, and without waiting for a pipe. Windows has neither flag. */
const REOPEN = O_RDWR | O_NOFOLLOW | O_NONBLOCK

/**
 * A download's file while it is being filled, at any offset. Errors: `disk_full` and `read_only`, in words that name the
 * folder.
 */
export class PartialFile {
  readonly path: string
  readonly #handle: FileHandle

  private constructor(path: string, handle: FileHandle) {
    this.path = path
    this.#handle = handle
  }

  /** A new file, with the rights that the umask gives; undefined when something is there already. */
  static async create(path: string): Promise<PartialFile | undefined> {
    try {
      return new PartialFile(path, await open(path, CREATE, 0o666))
    } catch (error) {
      if (systemCode(error) === 'EEXIST') return undefined
      throw folderError(error, dirname(path))
    }
  }

  /**
   * The file that is there, or a new one. What is no plain file of its own, by whatever name somebody else has it too,
   * is not written to but replaced.
   */
  static async open(path: string): Promise<{ file: PartialFile; length: number }> {
    const handle = await open(path, REOPEN).catch(() => undefined)
    if (handle !== undefined) {
      const stats = await handle.stat()
      if (stats.isFile() && stats.nlink === 1) {
        return { file: new PartialFile(path, handle), length: stats.size }
      }
      await handle.close()
    }
    await rm(path, { force: true }).catch(() => {})
    const file = await PartialFile.create(path)
    if (file === undefined) {
      throw new TimoneError('read_only', `${path} is not ours to write: remove it and repeat the command`)
    }
    return { file, length: 0 }
  }

  /** Fails before the first byte where so many more cannot fit, so that the disk keeps what room it has. */
  async checkRoom(needed: number): Promise<void> {
    const { bavail, bsize } = await statfs(dirname(this.path))
    const free = bavail * bsize
    if (needed <= free) return
    throw new TimoneError(
      'disk_full',
      `${needed} bytes are needed in ${dirname(this.path)} and ${free} are free: free some space and repeat the command`,
    )
  }

  /** Writes all of `bytes` at `position`. */
  async write(bytes: Buffer, position: number): Promise<void> {
    try {
      for (let at = 0; at < bytes.length; ) {
        at += (await this.#handle.write(bytes, at, bytes.length - at, position + at)).bytesWritten
      }
    } catch (error) {
      throw this.#failure(error)
    }
  }

  /** Reads into `buffer` from `position` on. @returns how many bytes, 0 behind the end */
  async read(buffer: Buffer, length: number, position: number): Promise<number> {
    try {
      return (await this.#handle.read(buffer, 0, length, position)).bytesRead
    } catch (error) {
      throw this.#failure(error)
    }
  }

  /** Returns when every byte, and the file's length, are on disk. */
  async sync(): Promise<void> {
    await this.#handle.datasync().catch((error: unknown) => {
      throw this.#failure(error)
    })
  }

  async empty(): Promise<void> {
    await this.#handle.truncate(0).catch((error: unknown) => {
      throw this.#failure(error)
    })
  }

  /** Gives it these permission bits. */
  async chmod(mode: number): Promise<void> {
    await this.#handle.chmod(mode).catch((error: unknown) => {
      throw this.#failure(error)
    })
  }

  async close(): Promise<void> {
    await this.#handle.close()
  }

  #failure(error: unknown): unknown {
    if (isTimoneError(error)) return error
    const folder = dirname(this.path)
    if (systemCode(error) !== 'EFBIG') return folderError(error, folder)
    return new TimoneError('disk_full', `the file system of ${folder} takes no file of that size`, {
      cause: error,
    })
  }
}
