import { isTimoneError, TimoneError } from '../errors.ts'
import { throwIfAborted } from './http-client.ts'

export interface RetryPolicy {
  /** How often a request is sent again after the first failure. git-lfs: `lfs.transfer.maxretries`, 8. */
  retries: number
  /** Longest pause between two tries, seconds. git-lfs: `lfs.transfer.maxretrydelay`, 10. */
  maxDelay: number
}

export interface RetryOptions {
  signal?: AbortSignal | undefined
  /** Told of each failure that will be tried again. */
  onRetry?: (error: TimoneError, delay: number) => void
  random?: () => number
}

/** A `Retry-After` longer than this, seconds, is not waited for. */
const MAX_RETRY_AFTER = 300

/**
 * Exponential back-off with jitter, honouring `Retry-After`. git-lfs never sends anything again for its agents
 * (tq/custom.go), so this is all the patience there is.
 *
 * A host that has just used up all tries gets one try for each further request until one succeeds, so that a push of
 * a thousand objects to a dead server ends in seconds after the first one has waited.
 */
export class Retrier {
  readonly #policy: RetryPolicy
  readonly #exhausted = new Set<string>()

  constructor(policy: RetryPolicy) {
    this.#policy = policy
  }

  /** Runs `attempt` until it succeeds, fails for good, or the tries are used up. `host` groups requests. */
  async run<T>(
    host: string,
    attempt: (number: number) => Promise<T>,
    options: RetryOptions = {},
  ): Promise<T> {
    for (let number = 0; ; number++) {
      throwIfAborted(options.signal)
      try {
        const result = await attempt(number)
        this.#exhausted.delete(host)
        return result
      } catch (error) {
        if (!isTimoneError(error) || !error.retryable) throw error
        const last = number >= this.#policy.retries || this.#exhausted.has(host)
        if (last || (error.retryAfter ?? 0) > MAX_RETRY_AFTER) {
          this.#exhausted.add(host)
          throw number === 0 ? error : afterTries(error, number + 1)
        }
        const delay = error.retryAfter ?? this.#backoff(number, options.random ?? Math.random)
        options.onRetry?.(error, delay)
        await pause(delay * 1000, options.signal)
      }
    }
  }

  #backoff(number: number, random: () => number): number {
    const ceiling = Math.min(this.#policy.maxDelay, 0.25 * 2 ** number)
    return ceiling / 2 + (ceiling / 2) * random()
  }
}

function afterTries(error: TimoneError, tries: number): TimoneError {
  const details = { cause: error, ...(error.status === undefined ? {} : { status: error.status }) }
  return new TimoneError(error.code, `${error.message} (${tries} tries)`, {
    ...details,
    ...(error.requestId === undefined ? {} : { requestId: error.requestId }),
    ...(error.host === undefined ? {} : { host: error.host }),
  })
}

/**
 * A store that refuses a body early and hangs up looks like a broken connection to whoever is still sending it. So
 * after such a failure `attempt` is told to ask before it sends.
 */
export function askFirstAfterFailure<T>(attempt: (ask: boolean) => Promise<T>): () => Promise<T> {
  let ask = false
  return async () => {
    try {
      return await attempt(ask)
    } catch (error) {
      if (isTimoneError(error, 'connection')) ask = true
      throw error
    }
  }
}

/** Waits `ms` milliseconds. @throws `cancelled` when `signal` fires first. */
export async function pause(ms: number, signal?: AbortSignal): Promise<void> {
  await new Promise<void>((resolve) => {
    const timer = setTimeout(done, ms)
    function done(): void {
      clearTimeout(timer)
      signal?.removeEventListener('abort', done)
      resolve()
    }
    signal?.addEventListener('abort', done, { once: true })
  })
  throwIfAborted(signal)
}
