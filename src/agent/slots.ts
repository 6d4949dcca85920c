import { throwIfAborted } from '../access/http-client.ts'

interface Waiting {
  weight: number
  start: () => void
}

/**
 * Bounds how much happens at once: work of different weight under one sum, in the order of asking, so that nothing
 * large starves behind many small ones.
 */
export class Slots {
  readonly #waiting: Waiting[] = []
  #free: number

  constructor(size: number) {
    this.#free = size
  }

  /**
   * Runs `work` when `weight` of the slots are free. `weight` may not be more than there are.
   * @throws `cancelled` when `signal` fires while waiting, or what `work` throws.
   */
  async run<T>(weight: number, signal: AbortSignal, work: () => Promise<T>): Promise<T> {
    await this.#take(weight, signal)
    try {
      return await work()
    } finally {
      this.#free += weight
      this.#serve()
    }
  }

  async #take(weight: number, signal: AbortSignal): Promise<void> {
    throwIfAborted(signal)
    if (this.#waiting.length === 0 && weight <= this.#free) {
      this.#free -= weight
      return
    }
    const taken = await new Promise<boolean>((resolve) => {
      const entry = {
        weight,
        start: () => {
          signal.removeEventListener('abort', leave)
          this.#free -= weight
          resolve(true)
        },
      }
      const leave = (): void => {
        this.#waiting.splice(this.#waiting.indexOf(entry), 1)
        resolve(false)
        // Who was behind it may fit.
        this.#serve()
      }
      signal.addEventListener('abort', leave, { once: true })
      this.#waiting.push(entry)
    })
    if (!taken) throwIfAborted(signal)
  }

  #serve(): void {
    for (let first = this.#waiting[0]; first !== undefined; first = this.#waiting[0]) {
      if (first.weight > this.#free) return
      this.#waiting.shift()
      first.start()
    }
  }
}
