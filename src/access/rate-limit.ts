import { TimoneError } from '../errors.ts'

interface Bucket {
  /** Requests that are left, as of `at`. */
  left: number
  /** Milliseconds since the epoch. */
  at: number
}

/** From so many principals on, those who have waited long enough are forgotten. */
const MANY = 10_000

/**
 * So many requests a minute for each principal, all at once if they like (a token bucket, in the memory of this server:
 * several servers count each for itself).
 */
export class RateLimit {
  readonly #perMinute: number
  readonly #now: () => number
  readonly #buckets = new Map<string, Bucket>()

  /** @param perMinute 0: no limit */
  constructor(perMinute: number, now: () => number = Date.now) {
    this.#perMinute = perMinute
    this.#now = now
  }

  /** Counts one request of `subject`. @throws {TimoneError} `rate_limited`, with the seconds to wait */
  take(subject: string): void {
    if (this.#perMinute === 0) return
    const now = this.#now()
    const left = this.#left(this.#buckets.get(subject), now)
    if (left < 1) {
      const retryAfter = Math.max(1, Math.ceil(((1 - left) * 60) / this.#perMinute))
      const message = `more than ${this.#perMinute} requests a minute: wait ${retryAfter} s`
      throw new TimoneError('rate_limited', message, { retryAfter })
    }
    if (this.#buckets.size >= MANY && !this.#buckets.has(subject)) this.#forget(now)
    this.#buckets.set(subject, { left: left - 1, at: now })
  }

  #left(bucket: Bucket | undefined, now: number): number {
    if (bucket === undefined) return this.#perMinute
    // A clock that was set back gives nothing, and takes nothing.
    const gained = (Math.max(0, now - bucket.at) / 60_000) * this.#perMinute
    return Math.min(this.#perMinute, bucket.left + gained)
  }

  /** A full bucket says as much as none. */
  #forget(now: number): void {
    for (const [subject, bucket] of this.#buckets)
      if (this.#left(bucket, now) >= this.#perMinute) this.#buckets.delete(subject)
  }
}
