import type { Socket } from 'node:net'

/** What a line does to the bytes that pass, for one direction of one connection. */
export interface LineQuality {
  /** Milliseconds that a byte is on its way. */
  delay: number
  /** Bytes a millisecond that fit through; Infinity for no limit. */
  rate: number
  /** Share of packets that are lost, 0 to 1. */
  loss: number
}

/** Bytes of payload in a packet. */
const PACKET = 1448
/** For how long a lost packet holds up its connection: the least time that Linux waits before it sends again. */
const RETRANSMIT_AFTER = 200
/** The line takes in this much more than it can send at once, ms of its rate, and stops taking in above the maximum. */
const BUFFER = { low: 15, high: 30 }
/** Bytes that may lie in one line, and in the socket of a receiver that does not read. */
const MOST_QUEUED = 4 * 2 ** 20
const MOST_UNREAD = 2 ** 20

/**
 * One direction of a connection over a long line: chunks leave at the line's rate, one after another, and arrive a delay
 * later. Works on chunks as they were read, and only when {@link deliver} is called, so it costs next to nothing.
 */
export class DelayLine {
  /** Bytes handed to the receiver. */
  delivered = 0
  readonly #from: Socket
  readonly #to: Socket
  readonly #quality: LineQuality
  readonly #chunks: { due: number; bytes: Buffer | undefined }[] = []
  #first = 0
  #queued = 0
  /** When the line has sent what it was given. */
  #free: number
  #paused = false

  /** `open`: when the connection stands; what is sent before waits for it. Milliseconds, as `performance.now()`. */
  constructor(from: Socket, to: Socket, quality: LineQuality, open: number) {
    this.#from = from
    this.#to = to
    this.#quality = quality
    this.#free = open
  }

  get empty(): boolean {
    return this.#queued === 0 && this.#first === this.#chunks.length
  }

  /** Takes in a chunk that was read; undefined: the sender has ended. */
  take(bytes: Buffer | undefined, now: number): void {
    const { delay, rate, loss } = this.#quality
    if (bytes !== undefined) {
      const start = Math.max(now, this.#free)
      this.#free = start + bytes.length / rate
      if (loss > 0 && Math.random() < 1 - (1 - loss) ** Math.ceil(bytes.length / PACKET))
        this.#free += RETRANSMIT_AFTER
      this.#queued += bytes.length
    }
    this.#chunks.push({ due: Math.max(now, this.#free) + delay, bytes })
    if (!this.#paused && (this.#free - now > BUFFER.high || this.#queued > MOST_QUEUED)) {
      this.#paused = true
      this.#from.pause()
    }
  }

  /** Nothing passes for that long. */
  stall(now: number, milliseconds: number): void {
    this.#free = Math.max(now, this.#free) + milliseconds
  }

  /** Hands on what has arrived by now. */
  deliver(now: number): void {
    const chunks = this.#chunks
    if (this.#first < chunks.length && (chunks[this.#first]?.due as number) <= now) {
      this.#to.cork()
      while (this.#first < chunks.length && this.#to.writableLength < MOST_UNREAD) {
        const { due, bytes } = chunks[this.#first] as (typeof chunks)[number]
        if (due > now) break
        this.#first++
        if (bytes === undefined) {
          this.#to.end()
          continue
        }
        this.#queued -= bytes.length
        this.delivered += bytes.length
        this.#to.write(bytes)
      }
      this.#to.uncork()
      if (this.#first === chunks.length || this.#first > 64) {
        chunks.splice(0, this.#first)
        this.#first = 0
      }
    }
    if (this.#paused && this.#free - now < BUFFER.low && this.#queued < MOST_QUEUED / 2) {
      this.#paused = false
      this.#from.resume()
    }
  }
}
