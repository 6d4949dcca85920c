/** At most so many milliseconds' worth of bytes go at once after a pause. */
const BURST = 250

/**
 * One allowance of bytes a second for all bodies, in both directions together. Whoever moves bytes says so first and
 * waits as long as it is told; who comes later waits behind.
 */
export class Bandwidth {
  /** Bytes a second. */
  readonly rate: number
  readonly #now: () => number
  /** When all that was spoken for will have gone, milliseconds. */
  #until = Number.NEGATIVE_INFINITY

  /** `rate`: bytes a second, above 0. `now` counts milliseconds. */
  constructor(rate: number, now: () => number = () => performance.now()) {
    this.rate = rate
    this.#now = now
  }

  /** Bytes to move at a time, so that everybody gets a turn: a twentieth of a second, 1 KiB to 1 MiB. */
  get slice(): number {
    return Math.max(1024, Math.min(2 ** 20, Math.ceil(this.rate / 20)))
  }

  /** Speaks for `bytes`; gives the milliseconds to wait before they move, or, of bytes that came, before the next. */
  spend(bytes: number): number {
    const now = this.#now()
    const from = Math.max(this.#until, now - BURST)
    this.#until = from + (bytes / this.rate) * 1000
    return Math.max(0, Math.ceil(this.#until - now))
  }
}
