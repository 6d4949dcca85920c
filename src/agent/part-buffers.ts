import { throwIfAborted } from '../access/http-client.ts'

/** Memory for the parts of all uploads together, bytes: 16 parts of the default size. */
export const UPLOAD_BUDGET: number = 128 * 2 ** 20
/** A buffer takes up whole pages. */
const PAGE = 4096

interface Waiting {
  size: number
  grant: (buffer: Buffer) => void
}

/** Bytes `at` to `at + size` of the arena. */
interface Region {
  at: number
  size: number
}

/**
 * The buffers that parts are read into and sent from: one pool for the whole process, so that however many objects
 * move, they stay within one budget. Whoever asks first gets first: a large part is not kept waiting for ever by
 * small ones that come later.
 *
 * All are cut from one piece of memory, always as near to its beginning as possible: a gigabyte in parts leaves no
 * garbage, and what is never reached never becomes resident. Each begins on a page. What malloc gives for a large
 * buffer begins 16 bytes behind one, and the kernel's copy from the page cache to there takes four times as long on
 * AMD's processors (0.47 s for each GiB instead of 0.12).
 */
export class PartBuffers {
  readonly #budget: number
  /** Made when it is first needed: a process that only downloads never does. */
  #arena: ArrayBuffer | undefined
  /** What is free, in order, no two regions side by side. */
  #free: Region[]
  readonly #given = new Map<Buffer, Region>()
  readonly #waiting: Waiting[] = []

  /** `budget`: bytes that all buffers have together, at most; whole pages. */
  constructor(budget: number = UPLOAD_BUDGET) {
    this.#budget = budget
    this.#free = [{ at: 0, size: budget }]
  }

  /** The largest part that is worth holding in memory: four of them fit. */
  get largest(): number {
    return Math.floor(this.#budget / 4)
  }

  /** Bytes given out now. */
  get used(): number {
    return this.#free.reduce((left, { size }) => left - size, this.#budget)
  }

  /**
   * A buffer of exactly `size` bytes with anything in it, as soon as the budget has room. Give it back.
   * @throws `cancelled` when `signal` fires first; {@link TypeError} for more than {@link largest}
   */
  take(size: number, signal?: AbortSignal): Promise<Buffer> | Buffer {
    if (size > this.largest) throw new TypeError(`a part of ${size} bytes does not fit into the budget`)
    throwIfAborted(signal)
    const ready = this.#waiting.length === 0 ? this.#cut(size) : undefined
    if (ready !== undefined) return ready
    return new Promise<Buffer>((resolve, reject) => {
      const onAbort = (): void => {
        this.#waiting.splice(this.#waiting.indexOf(waiting), 1)
        // It may have been the one whose size the others had to wait for.
        this.#serve()
        try {
          throwIfAborted(signal)
        } catch (error) {
          reject(error)
        }
      }
      const waiting: Waiting = {
        size,
        grant: (buffer) => {
          signal?.removeEventListener('abort', onAbort)
          resolve(buffer)
        },
      }
      this.#waiting.push(waiting)
      signal?.addEventListener('abort', onAbort, { once: true })
    })
  }

  /** Takes a buffer back that {@link take} gave. @throws {TypeError} when it was given back already */
  give(buffer: Buffer): void {
    const region = this.#given.get(buffer)
    if (region === undefined) throw new TypeError('this buffer was not given out')
    this.#given.delete(buffer)
    let index = this.#free.findIndex(({ at }) => at > region.at)
    if (index === -1) index = this.#free.length
    this.#free.splice(index, 0, region)
    this.#join(index)
    if (index > 0) this.#join(index - 1)
    this.#serve()
  }

  #serve(): void {
    for (;;) {
      const [first] = this.#waiting
      const buffer = first === undefined ? undefined : this.#cut(first.size)
      if (first === undefined || buffer === undefined) return
      this.#waiting.shift()
      first.grant(buffer)
    }
  }

  #cut(size: number): Buffer | undefined {
    const taken = Math.max(1, Math.ceil(size / PAGE)) * PAGE
    const index = this.#free.findIndex((region) => region.size >= taken)
    const region = this.#free[index]
    if (region === undefined) return undefined
    const { at } = region
    region.at += taken
    region.size -= taken
    if (region.size === 0) this.#free.splice(index, 1)
    // Resizable: V8 takes such memory from whole pages, and touches none of them.
    this.#arena ??= new ArrayBuffer(this.#budget, { maxByteLength: this.#budget })
    const buffer = Buffer.from(this.#arena, at, size)
    this.#given.set(buffer, { at, size: taken })
    return buffer
  }

  /** Makes one of the free region at `index` and the next one, where they touch. */
  #join(index: number): void {
    const region = this.#free[index]
    const next = this.#free[index + 1]
    if (region === undefined || next === undefined || region.at + region.size !== next.at) return
    region.size += next.size
    this.#free.splice(index + 1, 1)
  }
}
