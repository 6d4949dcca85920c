import type { IncomingMessage } from 'node:http'
import type { Bandwidth } from './bandwidth.ts'

/** One request's share of the bandwidth. */
export interface Pace {
  /** Bytes to send at a time. */
  readonly slice: number
  /** True while it is our own limit that keeps the connection silent. */
  readonly isWaiting: boolean
  /** Runs `then` as soon as `bytes` more may go. */
  before(bytes: number, then: () => void): void
  /** Counts `bytes` that came in. */
  count(bytes: number): void
  /** Runs `then` as soon as what came in is paid for. */
  after(then: () => void): void
}

/** A request's own view of the bandwidth that all share. */
export function paceOf(bandwidth: Bandwidth): Pace {
  let waiting = 0
  /** When what came in is paid for, milliseconds. */
  let paid = 0
  const wait = (ms: number, then: () => void): void => {
    if (ms <= 0) {
      then()
      return
    }
    waiting++
    setTimeout(() => {
      waiting--
      then()
    }, ms)
  }
  return {
    slice: bandwidth.slice,
    get isWaiting() {
      return waiting > 0
    },
    before: (bytes, then) => wait(bandwidth.spend(bytes), then),
    count: (bytes) => {
      paid = performance.now() + bandwidth.spend(bytes)
    },
    after: (then) => wait(paid - performance.now(), then),
  }
}

/** Passes the chunks of a request's body on, each when its bytes may go. */
export async function* pacedChunks(chunks: AsyncIterable<Buffer>, pace: Pace): AsyncGenerator<Buffer> {
  for await (const chunk of chunks) {
    for (let at = 0; at < chunk.length; at += pace.slice) {
      const slice = chunk.subarray(at, at + pace.slice)
      await new Promise<void>((resolve) => pace.before(slice.length, resolve))
      yield slice
    }
  }
}

/**
 * Has a response read from its connection no faster than `pace` allows: after each chunk the socket rests until the
 * chunk is paid for. The chunks themselves go to the reader untouched.
 */
export function paceBody(body: IncomingMessage, pace: Pace): void {
  const push = body.push.bind(body)
  const read = body._read.bind(body)
  body.push = (chunk: Buffer | null, encoding?: BufferEncoding): boolean => {
    if (chunk === null) return push(chunk)
    pace.count(chunk.length)
    push(chunk, encoding)
    // Stops the socket; the next read starts it again.
    return false
  }
  body._read = (size: number): void =>
    pace.after(() => {
      if (!body.destroyed) read(size)
    })
}
