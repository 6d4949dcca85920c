import { throwIfAborted } from '../access/http-client.ts'

/** Memory for the parts of all uploads together, bytes: 16 parts of the default size. */
export const UPLOAD_BUDGET: number = 128 * 2 ** 20
/** Buffers come in powers of two up to here, so that small objects of all sizes share them; above, in whole MiB. */
const SMALLEST = 64 * 1024
const EXACT_FROM = 4 * 2 ** 20

interface Waiting {
  size: number
  grant: (buffer: Buffer) => void
}

/** A buffer and the memory under it, which can be given back to the system at once. */
interface Held {
  memory: ArrayBuffer
  size: number
}

/**
 * The buffers that parts are read into and sent from: one pool for the whole process, so that however many objects
 * move, they stay within one budget. Buffers are used again and again, since a gigabyte in parts must not leave a
 * gigabyte of garbage. Whoever asks first gets first: a large part is not kept waiting by small ones that come later.
 *
 * The memory begins on a page. What malloc gives for a large buffer begins 16 bytes behind one, and the kernel's copy
 * from the page cache to there takes four times as long on AMD's processors (0.47 s for each GiB instead of 0.12).
 */
export class PartBuffers {
  readonly #budget: number
  /** Bytes of all buffers, given out or free. */
  #allocated = 0
  readonly #free = new Map<number, Held[]>()
  readonly #given = new Map<Buffer, Held>()
  readonly #waiting: Waiting[] = []

  /** `budget`: bytes that all buffers have together, at most. */
  constructor(budget: number = UPLOAD_BUDGET) {
    this.#budget = budget
  }

  /** The largest part that is worth holding in memory: four of them fit. */
  get largest(): number {
    return Math.floor(this.#budget / 4)
  }

  /** Bytes of all buffers, in use or free. */
  get allocated(): number {
    return this.#allocated
  }

  /**
   * A buffer of exactly `size` bytes with anything in it, as soon as the budget has room. Give it back.
   * @throws `cancelled` when `signal` fires first; {@link TypeError} for more than {@link largest}
   */
  take(size: number, signal?: AbortSignal): Promise<Buffer> | Buffer {
    if (size > this.largest) throw new TypeError(`a part of ${size} bytes does not fit into the budget`)
    throwIfAborted(signal)
    const ready = this.#waiting.length === 0 ? this.#make(size) : undefined
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

  /** Takes a buffer back that {@link take} gave; once. */
  give(buffer: Buffer): void {
    const held = this.#given.get(buffer)
    if (held === undefined) throw new TypeError('this buffer was not given out')
    this.#given.delete(buffer)
    const free = this.#free.get(held.size) ?? []
    free.push(held)
    this.#free.set(held.size, free)
    this.#serve()
  }

  #serve(): void {
    for (;;) {
      const [first] = this.#waiting
      const buffer = first === undefined ? undefined : this.#make(first.size)
      if (first === undefined || buffer === undefined) return
      this.#waiting.shift()
      first.grant(buffer)
    }
  }

  #make(size: number): Buffer | undefined {
    const capacity = capacityFor(size)
    const held = this.#free.get(capacity)?.pop() ?? this.#allocate(capacity)
    if (held === undefined) return undefined
    const buffer = Buffer.from(held.memory, 0, size)
    this.#given.set(buffer, held)
    return buffer
  }

  /** New memory, in place of free buffers of other sizes where the budget is used up. */
  #allocate(capacity: number): Held | undefined {
    for (const [size, free] of this.#free) {
      while (this.#allocated + capacity > this.#budget) {
        const dropped = free.pop()
        if (dropped === undefined) break
        this.#allocated -= size
        // At once, not when the collector finds it.
        dropped.memory.resize(0)
      }
    }
    if (this.#allocated + capacity > this.#budget) return undefined
    this.#allocated += capacity
    // Resizable: V8 takes its memory from whole pages then.
    return { memory: new ArrayBuffer(capacity, { maxByteLength: capacity }), size: capacity }
  }
}

function capacityFor(size: number): number {
  if (size > EXACT_FROM) return Math.ceil(size / 2 ** 20) * 2 ** 20
  let capacity = SMALLEST
  while (capacity < size) capacity *= 2
  return capacity
}
