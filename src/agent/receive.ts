import type { HttpResponse } from '../access/http-client.ts'
import type { BodyReader } from '../access/socket-tap.ts'
import { isTimoneError, systemCode, TimoneError } from '../errors.ts'
import { giveBlock, takeBlock } from './blocks.ts'

/** Where the bytes of an answer go. */
export interface Sink {
  /** Bytes that are wanted still. May become less while they come: what is behind them then stays unread. */
  wanted(): number
  /** So many wanted bytes have arrived. */
  onBytes(bytes: number): void
  /**
   * Puts the next bytes away; never called again before it has returned, and not to be looked at after that. Its
   * failure is the reading's.
   */
  write(bytes: Buffer): Promise<void>
}

/** Milliseconds after which bytes are written even if they are few: on a slow line, and before a stall. */
const WRITE_INTERVAL = 100

/**
 * Reads a body that announces `length` bytes into `sink`, and returns when all that were wanted are written. The socket
 * waits while the disk is slow: at most two writes' worth is held. A body of which less is wanted is cut short, with its
 * connection. What has arrived is written also when the reading fails.
 * @throws `size_mismatch` for a body that goes on behind its length, `connection`, and what `sink.write` and the
 * client threw
 */
export function receive({ body, direct }: HttpResponse, length: number, sink: Sink): Promise<void> {
  return new Promise((resolve, reject) => {
    const reception = new Reception(length, sink, {
      pause: () => body.pause(),
      resume: () => (direct ?? body).resume(),
      cut: () => body.destroy(),
      settle: (error) => (error === undefined ? resolve() : reject(error)),
    })
    if (direct === undefined) body.on('data', (chunk: Buffer) => reception.copy(chunk))
    else direct.attach(reception)
    body.on('end', () => reception.end())
    body.on('error', (error: unknown) => reception.end(isTimoneError(error) ? error : broken(error)))
    body.on('close', () => reception.end(broken(undefined)))
    // It broke before anybody listened.
    if (body.destroyed) reception.end(broken(body.errored))
    // All that comes this way is its end.
    if (direct !== undefined) body.resume()
  })
}

interface Source {
  pause(): void
  resume(): void
  /** Wants no more of it. */
  cut(): void
  settle(error: unknown): void
}

/** Collects bytes in blocks, and hands them on: a system call for each packet would cost more than the packet. */
class Reception implements BodyReader {
  readonly #length: number
  readonly #sink: Sink
  readonly #source: Source
  #arrived = 0
  /** Takes what arrives. */
  #block: Buffer | undefined
  /** Where in the block the bytes begin that are not written, and where they end. */
  #from = 0
  #to = 0
  /** Full blocks that wait for their turn, and the place in each from which on it is not written. */
  #full: { block: Buffer; from: number }[] = []
  #writing = false
  #paused = false
  #ended = false
  #failure: unknown
  #timer: NodeJS.Timeout | undefined

  constructor(length: number, sink: Sink, source: Source) {
    this.#length = length
    this.#sink = sink
    this.#source = source
  }

  room(): Buffer {
    this.#block ??= takeBlock(this.#length)
    return this.#block.subarray(this.#to)
  }

  arrived(count: number): boolean {
    if (this.#ended) return false
    this.#arrived += count
    const wanted = this.#sink.wanted()
    const taken = Math.min(count, wanted)
    if (taken > 0) {
      this.#to += taken
      this.#sink.onBytes(taken)
    }
    if (this.#arrived > this.#length) {
      this.end(new TimoneError('size_mismatch', `more than the ${this.#length} bytes asked for arrived`))
      this.#source.cut()
      return false
    }
    if (taken === wanted && this.#arrived < this.#length) {
      this.end()
      this.#source.cut()
      return false
    }
    if (this.#to < (this.#block as Buffer).length) {
      this.#wait()
      return true
    }
    this.#full.push({ block: this.#block as Buffer, from: this.#from })
    this.#block = undefined
    this.#from = this.#to = 0
    this.#flush()
    this.#paused = this.#full.length > 0
    return !this.#paused
  }

  /** As {@link arrived}, for bytes that stand elsewhere. */
  copy(chunk: Buffer): void {
    for (let at = 0; at < chunk.length && !this.#ended; ) {
      const count = chunk.copy(this.room(), 0, at)
      at += count
      this.arrived(count)
    }
    if (this.#paused) this.#source.pause()
  }

  /** Nothing more will come. */
  end(error?: unknown): void {
    if (this.#ended) return
    this.#ended = true
    this.#failure = error
    this.#flush()
  }

  #wait(): void {
    this.#timer ??= setTimeout(() => this.#flush(), WRITE_INTERVAL)
  }

  #flush(): void {
    clearTimeout(this.#timer)
    this.#timer = undefined
    if (this.#writing) return
    const full = this.#full.shift()
    if (full !== undefined) {
      const { block, from } = full
      void this.#write(block.subarray(from)).then(() => this.#failure ?? giveBlock(block))
    } else if (this.#block !== undefined && this.#to > this.#from) {
      const bytes = this.#block.subarray(this.#from, this.#to)
      this.#from = this.#to
      void this.#write(bytes)
    } else if (this.#ended) {
      this.#settle()
    }
  }

  async #write(bytes: Buffer): Promise<void> {
    this.#writing = true
    try {
      await this.#sink.write(bytes)
    } catch (error) {
      this.#failure ??= error
      this.#ended = true
      this.#full = []
      this.#source.cut()
      this.#settle()
      return
    } finally {
      this.#writing = false
    }
    if (this.#ended || this.#full.length > 0) this.#flush()
    else if (this.#to > this.#from) this.#wait()
    if (!this.#paused || this.#full.length > 0) return
    this.#paused = false
    this.#source.resume()
  }

  #settle(): void {
    clearTimeout(this.#timer)
    // After a failure the kernel may still be about to put bytes there.
    if (this.#failure === undefined && this.#arrived === this.#length && this.#block !== undefined) {
      giveBlock(this.#block)
      this.#block = undefined
    }
    this.#source.settle(this.#failure)
  }
}

function broken(cause: unknown): TimoneError {
  return new TimoneError(
    'connection',
    `the connection broke in the middle of the object (${systemCode(cause) ?? 'ended'})`,
    { cause },
  )
}
