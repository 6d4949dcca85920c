import { type HttpResponse, type HttpSend, throwIfAborted } from './http-client.ts'

/** Requests in flight to one host before it was ever heard of. */
const MOST = 96
/** So many answers without a complaint let one more request fly. */
const PER_STEP = 8

/** How many requests may be in flight to one host, and who waits. */
class Lane {
  limit: number
  inFlight = 0
  readonly waiting: (() => void)[] = []
  #begun = 0
  /** Requests that began before the last cut: what they come to is known already. */
  #cutAt = 0
  readonly #most: number

  constructor(most: number) {
    this.limit = most
    this.#most = most
  }

  get isFree(): boolean {
    return this.inFlight < Math.floor(this.limit)
  }

  /** The number of a request that begins now. */
  number(): number {
    return ++this.#begun
  }

  end(): void {
    this.inFlight--
    this.wake()
  }

  wake(): void {
    while (this.isFree && this.waiting.length > 0) {
      // Counted for it here, so that nobody else takes the place before it wakes.
      this.inFlight++
      this.waiting.shift()?.()
    }
  }

  /** A burst of refusals is one: only a request that began after the last cut can say that it was not enough. */
  refused(number: number): void {
    if (number <= this.#cutAt) return
    this.limit = Math.max(1, Math.floor(this.limit / 2))
    this.#cutAt = this.#begun
  }

  accepted(): void {
    if (this.limit < this.#most) this.limit = Math.min(this.#most, this.limit + 1 / PER_STEP)
  }
}

/**
 * Holds back requests to hosts that ask for it: SlowDown, 503 and 429 halve how many may be in flight to that host,
 * answers without complaint restore them one by one (additive increase, multiplicative decrease). Who tries again is
 * not decided here.
 */
export class Throttle {
  readonly #most: number
  readonly #lanes = new Map<string, Lane>()

  /** `most`: requests in flight to one host, at most, and at first. */
  constructor(most: number = MOST) {
    this.#most = most
  }

  /** How many requests may be in flight to `host` (with its port) now. */
  limitOf(host: string): number {
    return Math.floor(this.#lanes.get(host)?.limit ?? this.#most)
  }

  /** `send`, held back. A request is in flight until its answer's body has ended or was given up. */
  around(send: HttpSend): HttpSend {
    return async (request) => {
      const lane = this.#laneOf(request.url.host)
      const number = await enter(lane, request.signal)
      let response: HttpResponse
      try {
        response = await send(request)
      } catch (error) {
        lane.end()
        throw error
      }
      if (response.status === 503 || response.status === 429) lane.refused(number)
      else if (response.status < 500) lane.accepted()
      if (response.body.closed) lane.end()
      else response.body.once('close', () => lane.end())
      return response
    }
  }

  #laneOf(host: string): Lane {
    const lane = this.#lanes.get(host) ?? new Lane(this.#most)
    this.#lanes.set(host, lane)
    return lane
  }
}

/** Waits for a place in the lane; gives the request's number. @throws `cancelled` when `signal` fires first */
async function enter(lane: Lane, signal: AbortSignal | undefined): Promise<number> {
  throwIfAborted(signal)
  if (lane.isFree && lane.waiting.length === 0) {
    lane.inFlight++
    return lane.number()
  }
  let granted = false
  await new Promise<void>((resolve) => {
    const grant = (): void => {
      granted = true
      signal?.removeEventListener('abort', onAbort)
      resolve()
    }
    const onAbort = (): void => {
      lane.waiting.splice(lane.waiting.indexOf(grant), 1)
      resolve()
    }
    lane.waiting.push(grant)
    signal?.addEventListener('abort', onAbort, { once: true })
  })
  if (granted && signal?.aborted === true) lane.end()
  throwIfAborted(signal)
  return lane.number()
}
