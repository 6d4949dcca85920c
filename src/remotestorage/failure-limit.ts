import { TimoneError } from '../errors.ts'

/** Wrong tokens that one address may send in {@link WINDOW}. */
const MAX_FAILURES = 100
/** Milliseconds. */
const WINDOW = 60_000
/** Addresses remembered at once. */
const MAX_SOURCES = 10_000

/**
 * Slows down who tries tokens. It counts wrong ones only, and is asked after the look-up: behind a proxy everybody has
 * one address, and nobody with a good token may be shut out by somebody else's tries.
 */
export class FailureLimit {
  readonly #sources = new Map<string, { until: number; count: number }>()
  readonly #now: () => number

  constructor(now: () => number) {
    this.#now = now
  }

  /** Counts a wrong token. @throws {TimoneError} `rate_limited` when there were too many */
  count(source: string): void {
    const now = this.#now()
    let entry = this.#sources.get(source)
    if (entry === undefined || entry.until <= now) {
      entry = { until: now + WINDOW, count: 0 }
      this.#sources.delete(source)
      this.#sources.set(source, entry)
      for (const oldest of this.#sources.keys()) {
        if (this.#sources.size <= MAX_SOURCES) break
        this.#sources.delete(oldest)
      }
    }
    if (++entry.count > MAX_FAILURES) {
      const retryAfter = (entry.until - now) / 1000
      throw new TimoneError('rate_limited', 'too many wrong access tokens: wait a minute', { retryAfter })
    }
  }
}
