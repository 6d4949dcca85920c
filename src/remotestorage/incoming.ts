import { createHash, randomBytes } from 'node:crypto'
import { createReadStream } from 'node:fs'
import { type FileHandle, mkdir, open, readdir, rm, stat } from 'node:fs/promises'
import { join } from 'node:path'
import type { Readable } from 'node:stream'
import { TimoneError } from '../errors.ts'
import type { Oid } from '../oid.ts'
import { fileError } from '../storage/file-errors.ts'
import { FULL } from './change.ts'

/** A body that came whole: in memory when it is small, else in a temporary file, hashed. */
export type Incoming =
  | { readonly kind: 'small'; readonly content: Buffer }
  | {
      readonly kind: 'large'
      readonly size: number
      readonly oid: Oid
      /** Bytes `start` to `end`, the end included. */
      read(start: number, end: number): Readable
      /** Removes the temporary file. */
      drop(): Promise<void>
    }

/** Temporary files older than this, milliseconds, belong to a server that was killed. */
const STALE_AFTER = 24 * 3600_000

/** Receives the bodies of documents with constant memory, however long they are. */
export class Reception {
  readonly #folder: string
  /** Documents of this many bytes and more are large. */
  readonly large: number

  constructor(folder: string, large: number) {
    this.#folder = folder
    this.large = large
  }

  /**
   * Reads `body` to its end. `room`: bytes that it may have before the user's storage is full.
   * @throws {TimoneError} `quota_exceeded` as soon as there are more, `connection` when it breaks off
   */
  async receive(body: Readable, room: number): Promise<Incoming> {
    const held: Buffer[] = []
    let size = 0
    let spill: Spill | undefined
    try {
      for await (const chunk of body as AsyncIterable<Buffer>) {
        size += chunk.length
        if (size > room) throw new TimoneError('quota_exceeded', FULL)
        if (spill === undefined && size < this.large) held.push(chunk)
        else {
          if (spill === undefined) {
            spill = await Spill.create(this.#folder)
            for (const early of held.splice(0)) await spill.write(early)
          }
          await spill.write(chunk)
        }
      }
      if (spill === undefined) return { kind: 'small', content: Buffer.concat(held) }
      return await spill.finish()
    } catch (error) {
      await spill?.drop()
      if (error instanceof TimoneError) throw error
      if (spill === undefined || body.errored !== null) {
        throw new TimoneError('connection', 'the document broke off before its end', { cause: error })
      }
      throw fileError(error, 'receive a document')
    }
  }

  /** Removes what a killed server left. */
  async sweep(): Promise<void> {
    for (const name of await readdir(this.#folder).catch(() => [])) {
      const path = join(this.#folder, name)
      const { mtimeMs } = await stat(path).catch(() => ({ mtimeMs: Date.now() }))
      if (Date.now() - mtimeMs > STALE_AFTER) await rm(path, { force: true })
    }
  }
}

class Spill {
  readonly #path: string
  readonly #handle: FileHandle
  readonly #hash = createHash('sha256')
  #size = 0

  private constructor(path: string, handle: FileHandle) {
    this.#path = path
    this.#handle = handle
  }

  static async create(folder: string): Promise<Spill> {
    await mkdir(folder, { recursive: true, mode: 0o700 })
    const path = join(folder, randomBytes(16).toString('hex'))
    return new Spill(path, await open(path, 'wx', 0o600))
  }

  async write(chunk: Buffer): Promise<void> {
    this.#hash.update(chunk)
    for (let at = 0; at < chunk.length; ) {
      const { bytesWritten } = await this.#handle.write(chunk, at, chunk.length - at, this.#size)
      at += bytesWritten
      this.#size += bytesWritten
    }
  }

  async finish(): Promise<Incoming> {
    await this.#handle.close()
    const path = this.#path
    return {
      kind: 'large',
      size: this.#size,
      oid: this.#hash.digest('hex') as Oid,
      read: (start, end) => createReadStream(path, { start, end, highWaterMark: 256 * 1024 }),
      drop: () => rm(path, { force: true }),
    }
  }

  async drop(): Promise<void> {
    await this.#handle.close().catch(() => {})
    await rm(this.#path, { force: true })
  }
}
