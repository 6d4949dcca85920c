/** At most 10 lines a second for an object. */
const INTERVAL = 100

export interface ProgressReport {
  bytesSoFar: number
  bytesSinceLast: number
}

/**
 * Turns byte counts into progress lines for one object: the first at the first byte, at most 10 a second, never
 * falling (a part that must be sent again adds nothing until it is past where it was), the last one equal to the size.
 */
export class Progress {
  readonly #size: number
  readonly #report: (report: ProgressReport) => boolean
  readonly #now: () => number
  #current = 0
  #reported = 0
  #lastTime = Number.NEGATIVE_INFINITY

  /** `report` answers false when the line could not go out now: its bytes are then part of the next one. */
  constructor(size: number, report: (report: ProgressReport) => boolean, now: () => number = Date.now) {
    this.#size = size
    this.#report = report
    this.#now = now
  }

  /** `bytes` more were moved; negative when bytes turn out to be moved again. */
  add(bytes: number): void {
    this.#current += bytes
    if (this.#current <= this.#reported) return
    const time = this.#now()
    // A clock that was set back must not silence us, so the distance counts, not the direction.
    if (Math.abs(time - this.#lastTime) < INTERVAL) return
    this.#send(Math.min(this.#current, this.#size), time)
  }

  /** The object is whole: reports what is missing up to its size. */
  finish(): void {
    if (this.#reported < this.#size) this.#send(this.#size, this.#now())
  }

  #send(bytesSoFar: number, time: number): void {
    const bytesSinceLast = bytesSoFar - this.#reported
    if (bytesSinceLast <= 0) return
    if (!this.#report({ bytesSoFar, bytesSinceLast })) return
    this.#reported = bytesSoFar
    this.#lastTime = time
  }
}
