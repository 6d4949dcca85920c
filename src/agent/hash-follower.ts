import { createHash, type Hash } from 'node:crypto'
import { throwIfAborted } from '../access/http-client.ts'
import type { PartialFile } from './partial-file.ts'
import type { RangePlan } from './range-plan.ts'

/** Bytes that are read back at a time. */
const READ_SIZE = 2 ** 20

/**
 * SHA-256 of an object whose bytes arrive in any order. What arrives in order is hashed from memory; what does not is
 * read back, out of the page cache as a rule, while the streams go on. So there is next to nothing left to hash at the
 * end, whatever the size, in one buffer of memory.
 */
export class HashFollower {
  readonly #file: PartialFile
  readonly #plan: RangePlan
  readonly #signal: AbortSignal
  /** What is being written, by its offset: it need not be read back. */
  readonly #inMemory = new Map<number, Buffer>()
  #hash: Hash = createHash('sha256')
  /** All bytes before this one are hashed. */
  #at = 0
  #buffer: Buffer | undefined
  #reading: Promise<void> | undefined
  #failure: unknown

  constructor(file: PartialFile, plan: RangePlan, signal: AbortSignal) {
    this.#file = file
    this.#plan = plan
    this.#signal = signal
  }

  /** `bytes` are about to be written at `offset`: hashes them now where they are next. They are let go by `written`. */
  writing(bytes: Buffer, offset: number): void {
    this.#inMemory.set(offset, bytes)
    if (this.#reading === undefined) this.#hashInMemory()
  }

  /** What began at `offset` is in the file. Reads on where there is something to catch up with. */
  written(offset: number): void {
    this.#inMemory.delete(offset)
    this.catchUp()
  }

  /** Hashes what is in the file, next to the streams that fetch the rest. */
  catchUp(): void {
    if (this.#reading !== undefined || this.#failure !== undefined) return
    if (this.#plan.frontier <= this.#at) return
    this.#reading = this.#readOn()
      .catch((error: unknown) => {
        // Told at the end.
        this.#failure = error
      })
      .finally(() => {
        this.#reading = undefined
      })
  }

  /** Forgets what was hashed: the object is written anew. */
  async restart(): Promise<void> {
    await this.#reading
    this.#hash = createHash('sha256')
    this.#at = 0
    this.#inMemory.clear()
  }

  /** Returns when nothing is being read any more. */
  async stop(): Promise<void> {
    await this.#reading
  }

  /** Hashes what is left, and gives the hash of all, hexadecimal. All bytes must be in the file. */
  async digest(): Promise<string> {
    await this.#reading
    if (this.#failure !== undefined) throw this.#failure
    await this.#readOn()
    return this.#hash.digest('hex')
  }

  #hashInMemory(): boolean {
    const next = this.#inMemory.get(this.#at)
    if (next === undefined) return false
    this.#hash.update(next)
    this.#at += next.length
    return true
  }

  async #readOn(): Promise<void> {
    for (;;) {
      throwIfAborted(this.#signal)
      if (this.#hashInMemory()) continue
      const length = Math.min(READ_SIZE, this.#plan.frontier - this.#at)
      if (length <= 0) return
      this.#buffer ??= Buffer.allocUnsafeSlow(READ_SIZE)
      const read = await this.#file.read(this.#buffer, length, this.#at)
      // Somebody has cut the file short: the hash will say so.
      if (read === 0) return
      this.#hash.update(this.#buffer.subarray(0, read))
      this.#at += read
    }
  }
}
