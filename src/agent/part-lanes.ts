import { throwIfAborted } from '../access/http-client.ts'

/** Parts in flight before anything was measured. */
const FIRST = 4
/** Twice the lanes must give this much more, or they only cost memory and processor. */
const WORTH_IT = 1.2
/** Lanes that were empty for longer than this share of the time say nothing about the line. */
const FULL = 0.7
/** After so many windows that a width was kept, the next larger one is tried once more: lines change. */
const TRY_AGAIN = 16

/**
 * How many parts of all objects together are in flight. It begins with four and doubles while that makes the total
 * rate grow: on a long line each connection is slow by itself, and sixteen are four times as fast; on a short one four
 * fill it, and more would only take memory, whose first touch costs more than the sending.
 *
 * Fair: whoever comes first enters first, so that objects which are moved together end together.
 */
export class PartLanes {
  readonly #most: number
  readonly #now: () => number
  readonly #waiting: (() => void)[] = []
  #width: number
  #inFlight = 0
  /** Of the window being measured. */
  #began = 0
  #bytes = 0
  #count = 0
  /** Lanes in use, summed over the milliseconds until {@link #changed}. */
  #used = 0
  #changed = 0
  /** The last width that was measured, and its bytes a millisecond; what a larger one is held against. */
  #known: { width: number; rate: number } | undefined
  #kept = 0

  /** `most`: parts at a time, never more. `now` counts milliseconds. */
  constructor(most: number, now: () => number = () => performance.now()) {
    this.#most = most
    this.#now = now
    this.#width = Math.min(FIRST, most)
  }

  /** Parts that may be in flight now. */
  get width(): number {
    return this.#width
  }

  /** Waits for a lane. @throws `cancelled` when `signal` fires first */
  async enter(signal?: AbortSignal): Promise<void> {
    throwIfAborted(signal)
    if (this.#inFlight < this.#width && this.#waiting.length === 0) {
      this.#start()
      return
    }
    let granted = false
    await new Promise<void>((resolve) => {
      const done = (): void => {
        granted = true
        signal?.removeEventListener('abort', onAbort)
        resolve()
      }
      const onAbort = (): void => {
        this.#waiting.splice(this.#waiting.indexOf(done), 1)
        resolve()
      }
      this.#waiting.push(done)
      signal?.addEventListener('abort', onAbort, { once: true })
    })
    if (granted && signal?.aborted === true) this.#end()
    throwIfAborted(signal)
  }

  /** Leaves the lane; `bytes` of a part were sent in it, 0 when it failed. */
  leave(bytes: number): void {
    this.#tick()
    this.#measure(bytes)
    this.#end()
  }

  #end(): void {
    this.#tick()
    this.#inFlight--
    while (this.#inFlight < this.#width) {
      const next = this.#waiting.shift()
      if (next === undefined) return
      this.#start()
      next()
    }
  }

  #start(): void {
    if (this.#inFlight === 0) this.#restart()
    this.#tick()
    this.#inFlight++
  }

  #tick(): void {
    const now = this.#now()
    this.#used += this.#inFlight * (now - this.#changed)
    this.#changed = now
  }

  #restart(): void {
    this.#began = this.#now()
    this.#changed = this.#began
    this.#used = 0
    this.#bytes = 0
    this.#count = 0
  }

  #measure(bytes: number): void {
    this.#bytes += bytes
    this.#count++
    if (this.#count < this.#width) return
    const elapsed = Math.max(1, this.#changed - this.#began)
    if (this.#used / elapsed < this.#width * FULL) {
      this.#restart()
      return
    }
    const rate = this.#bytes / elapsed
    const before = this.#known
    this.#restart()
    if (before !== undefined && this.#width > before.width && rate < before.rate * WORTH_IT) {
      this.#width = before.width
      this.#kept = 0
      return
    }
    const first = before === undefined || this.#width > before.width
    this.#known = { width: this.#width, rate }
    this.#kept = first ? TRY_AGAIN : this.#kept + 1
    if (this.#kept < TRY_AGAIN) return
    this.#kept = 0
    this.#width = Math.min(this.#most, this.#width * 2)
  }
}
