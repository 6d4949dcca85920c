import { TimoneError } from '../errors.ts'

/** Bytes of a request body on JSON routes. */
export const MAX_BODY: number = 8 * 2 ** 20

export interface LoadLimits {
  /** Requests worked on at once. */
  requests: number
  /** Bytes of the bodies that are arriving or worked on, together. */
  bytes: number
}

/** One request at a {@link LoadGate}. */
export interface Visit {
  /** Counts `bytes` of the body that have arrived. @throws {TimoneError} `throttled` */
  take(bytes: number): void
  /** Counts the request itself: its body is complete. @throws {TimoneError} `throttled` */
  start(): void
  /** Counts nothing of it any more. May be called again. */
  leave(): void
}

/**
 * Turns requests away while too many are being worked on, so that memory stays bounded whatever comes in. What has only
 * been announced costs nothing: otherwise a few silent connections would shut out everybody.
 */
export class LoadGate {
  readonly #limits: LoadLimits
  #requests = 0
  #bytes = 0

  constructor(limits: LoadLimits) {
    this.#limits = limits
  }

  enter(): Visit {
    let bytes = 0
    let requests = 0
    return {
      take: (count) => {
        if (this.#bytes + count > this.#limits.bytes) throw busy()
        this.#bytes += count
        bytes += count
      },
      start: () => {
        if (this.#requests >= this.#limits.requests) throw busy()
        this.#requests++
        requests++
      },
      leave: () => {
        this.#bytes -= bytes
        this.#requests -= requests
        bytes = requests = 0
      },
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

function busy(): TimoneError {
  return new TimoneError('throttled', 'the server is busy', { retryAfter: 2 })
}
