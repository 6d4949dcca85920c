import { TimoneError } from './errors.ts'

export interface FailureLimitOptions {
  /** Failures that each source may have in a window. */
  most: number
  /** Milliseconds. */
  window: number
  /** Said to who has had too many. */
  message: string
  /** Milliseconds since the epoch. */
  now?: () => number
}

/** Sources remembered at once. */
const MAX_SOURCES = 10_000

/** Slows down who guesses: counts failures of each source, an address or a user, in the memory of this server. */
export class FailureLimit {
  readonly #sources = new Map<string, { until: number; count: number }>()
  readonly #options: FailureLimitOptions
  readonly #now: () => number

  constructor(options: FailureLimitOptions) {
    this.#options = options
    this.#now = options.now ?? Date.now
  }

  /** Counts a failure. @throws {TimoneError} `rate_limited` when there were too many */
  count(source: string): void {
    const now = this.#now()
    const { most, window } = this.#options
    let entry = this.#sources.get(source)
    if (entry === undefined || entry.until <= now) {
      entry = { until: now + window, count: 0 }
      this.#sources.delete(source)
      this.#sources.set(source, entry)
      for (const oldest of this.#sources.keys()) {
        if (this.#sources.size <= MAX_SOURCES) break
        this.#sources.delete(oldest)
      }
    }
    if (++entry.count > most) throw this.#tooMany(entry.until, now)
  }

  /** For what is not to be tried at all any more. @throws {TimoneError} `rate_limited` when there were too many */
  check(source: string): void {
    const now = this.#now()
    const entry = this.#sources.get(source)
    if (entry !== undefined && entry.until > now && entry.count >= this.#options.most)
      throw this.#tooMany(entry.until, now)
  }

  #tooMany(until: number, now: number): TimoneError {
    return new TimoneError('rate_limited', this.#options.message, { retryAfter: (until - now) / 1000 })
  }
}
