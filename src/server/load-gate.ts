import { TimoneError } from '../errors.ts'

/** Bytes of a request body on JSON routes. */
export const MAX_BODY: number = 8 * 2 ** 20

export interface LoadLimits {
  /** Requests worked on at once. */
  requests: number
  /** Bytes of their bodies together. */
  bytes: number
}

const LIMITS: LoadLimits = { requests: 512, bytes: 128 * 2 ** 20 }

/** Turns requests away while too many are being worked on, so that memory stays bounded whatever comes in. */
export class LoadGate {
  readonly #limits: LoadLimits
  #requests = 0
  #bytes = 0

  constructor(limits: LoadLimits = LIMITS) {
    this.#limits = limits
  }

  /**
   * Lets a request in whose body has `bytes` bytes (undefined: not announced). Call what it gives when it is done.
   * @throws {TimoneError} `too_large`, or `throttled` when the server has enough to do.
   */
  enter(bytes: number | undefined): () => void {
    if ((bytes ?? 0) > MAX_BODY) throw tooLarge()
    const weight = bytes ?? MAX_BODY
    if (this.#requests >= this.#limits.requests || this.#bytes + weight > this.#limits.bytes) {
      throw new TimoneError('throttled', 'the server is busy', { retryAfter: 2 })
    }
    this.#requests++
    this.#bytes += weight
    let left = false
    return () => {
      if (left) return
      left = true
      this.#requests--
      this.#bytes -= weight
    }
  }
}

/** The answer to a body over {@link MAX_BODY}. */
export function tooLarge(): TimoneError {
  return new TimoneError(
    'too_large',
    'the body of the request is over 8 MiB: ask for fewer objects at a time',
  )
}
