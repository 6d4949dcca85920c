/** Bytes `start` to `end` (excluded) of an object. */
export interface Extent {
  start: number
  end: number
}

/** What one stream fetches. */
export interface Piece {
  readonly start: number
  /** Excluded. Pulled back when another stream takes the tail over. */
  end: number
  /** The next byte that the network has to bring. */
  received: number
  /** All bytes of the piece before this one are in the file. */
  written: number
}

const MIB = 2 ** 20
/** No stream is started for less, bytes: its request would cost more than it moves. */
export const LEAST_PIECE: number = 4 * MIB
/** Bytes in one request where several streams share an object: much larger than a round trip's worth. */
const MOST_PIECE = 32 * MIB
/** The same for a stream that is alone. Not the whole: others may come, and a request that is cut costs its connection. */
const LONE_PIECE = 64 * MIB

/**
 * Which bytes of an object are in the file, on their way, or still to be asked for. Each byte is asked for once.
 * The lowest missing ones go first, so that the object can be hashed behind its streams.
 */
export class RangePlan {
  readonly size: number
  /** In the file; ascending, never touching each other. */
  #done: Extent[]
  /** Nobody is fetching them; ascending. */
  #missing: Extent[]
  readonly #active = new Set<Piece>()

  /** @param done what is in the file already: ascending, none overlapping, none empty */
  constructor(size: number, done: readonly Extent[] = []) {
    this.size = size
    this.#done = done.map(({ start, end }) => ({ start, end }))
    // An object of no bytes is asked for all the same: it has to be there.
    this.#missing = size === 0 ? [span(0, 0)] : gaps(size, this.#done)
  }

  /** Bytes in the file. */
  get written(): number {
    let sum = 0
    for (const { start, end } of this.#done) sum += end - start
    for (const { start, written } of this.#active) sum += written - start
    return sum
  }

  /** All bytes before this one are in the file. */
  get frontier(): number {
    let at = 0
    for (let moved = true; moved; ) {
      moved = false
      for (const { start, end } of this.#done) {
        if (start <= at && end > at) {
          at = end
          moved = true
        }
      }
      for (const { start, written } of this.#active) {
        if (start <= at && written > at) {
          at = written
          moved = true
        }
      }
    }
    return at
  }

  get complete(): boolean {
    return this.#missing.length === 0 && this.#active.size === 0
  }

  /** True when one more stream would find something to do. */
  get divisible(): boolean {
    return this.#missing.length > 0 || this.#longest(2 * LEAST_PIECE) !== undefined
  }

  /**
   * The next piece for one of `streams` streams; undefined when the others have all that is left. Where nobody's bytes
   * are left, the tail of the longest piece changes hands.
   */
  take(streams: number): Piece | undefined {
    if (this.#missing.length === 0) this.#pullBack()
    const first = this.#missing[0]
    if (first === undefined) return undefined
    let free = 0
    for (const { start, end } of this.#missing) free += end - start
    const most = streams > 1 ? MOST_PIECE : LONE_PIECE
    const length = Math.min(most, Math.max(LEAST_PIECE, Math.ceil(free / streams)))
    // No crumbs: they would need a request of their own.
    const end = first.end - (first.start + length) < LEAST_PIECE ? first.end : first.start + length
    const piece: Piece = { start: first.start, end, received: first.start, written: first.start }
    if (end === first.end) this.#missing.shift()
    else first.start = end
    this.#active.add(piece)
    return piece
  }

  /** The stream of a piece has ended: what is not in the file is missing again. */
  release(piece: Piece): void {
    if (!this.#active.delete(piece)) return
    if (piece.written > piece.start) this.#done = merged([...this.#done, span(piece.start, piece.written)])
    if (piece.written < piece.end) this.#missing = merged([...this.#missing, span(piece.written, piece.end)])
  }

  /** Forgets all that is there: `piece`, the only one on its way, becomes the whole object. */
  restart(piece: Piece): Piece {
    this.#active.delete(piece)
    this.#done = []
    this.#missing = []
    const whole: Piece = { start: 0, end: this.size, received: 0, written: 0 }
    this.#active.add(whole)
    return whole
  }

  /** What is in the file; ascending, none touching another. */
  extents(): Extent[] {
    const partly = [...this.#active].filter(({ start, written }) => written > start)
    return merged([...this.#done, ...partly.map(({ start, written }) => span(start, written))])
  }

  #longest(least: number): Piece | undefined {
    let longest: Piece | undefined
    for (const piece of this.#active) {
      const left = piece.end - piece.received
      if (left >= least && (longest === undefined || left > longest.end - longest.received)) longest = piece
    }
    return longest
  }

  #pullBack(): void {
    const piece = this.#longest(2 * LEAST_PIECE)
    if (piece === undefined) return
    const kept = Math.min(MOST_PIECE, Math.ceil((piece.end - piece.received) / 2))
    const { end } = piece
    piece.end = piece.received + kept
    this.#missing = [span(piece.end, end)]
  }
}

const span = (start: number, end: number): Extent => ({ start, end })

function merged(extents: readonly Extent[]): Extent[] {
  const result: Extent[] = []
  for (const { start, end } of [...extents].sort((a, b) => a.start - b.start)) {
    const last = result.at(-1)
    if (last !== undefined && start <= last.end) last.end = Math.max(last.end, end)
    else result.push(span(start, end))
  }
  return result
}

/** What is between ascending extents and up to `size`. */
function gaps(size: number, extents: readonly Extent[]): Extent[] {
  const result: Extent[] = []
  let at = 0
  for (const { start, end } of extents) {
    if (start > at) result.push(span(at, start))
    at = end
  }
  if (at < size) result.push(span(at, size))
  return result
}
