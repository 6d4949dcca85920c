import { throwIfAborted } from '../access/http-client.ts'
import { isTimoneError, TimoneError } from '../errors.ts'
import type { Oid } from '../oid.ts'
import type { DownloadContext } from './download.ts'
import type { ExtentJournal } from './extent-journal.ts'
import type { HashFollower } from './hash-follower.ts'
import type { PartialFile } from './partial-file.ts'
import type { Progress } from './progress.ts'
import { checkAnswer } from './range-answer.ts'
import type { Piece, RangePlan } from './range-plan.ts'
import { receive } from './receive.ts'
import type { GovernedDownload, Governor } from './stream-governor.ts'

/** Rounds of tries that each moved some bytes before they failed. */
const MAX_FAILURES = 100

/** A stream has ended because others are better placed to go on. */
class Retired extends Error {}

export interface RangedDownloadOptions {
  oid: Oid
  context: DownloadContext
  file: PartialFile
  plan: RangePlan
  hash: HashFollower
  /** Undefined: nothing is recorded. */
  journal: ExtentJournal | undefined
  /** Undefined: one stream. */
  governor: Governor | undefined
  /** Entity tag that the object must still have; undefined: the first answer's. */
  etag: string | undefined
  progress: Progress
  signal: AbortSignal
}

/** Fetches what a plan says is missing of one object into its file, on as many streams as the governor gives it. */
export class RangedDownload implements GovernedDownload {
  readonly #options: RangedDownloadOptions
  readonly #plan: RangePlan
  /** Stops the other streams when one has failed for good. A stream that is alone needs none. */
  readonly #stop: AbortController | undefined
  /** Stops all streams. */
  readonly #signal: AbortSignal
  readonly #running = new Set<Promise<void>>()
  #unsettled = 0
  #arrived = 0
  #etag: string | undefined
  /** False when the store answers ranges with the whole object. */
  #ranged = true
  #answered = false
  #failure: unknown

  constructor(options: RangedDownloadOptions) {
    this.#options = options
    this.#plan = options.plan
    this.#etag = options.etag
    this.#stop = options.governor === undefined ? undefined : new AbortController()
    this.#signal = this.#stop?.signal ?? options.signal
  }

  get streams(): number {
    return this.#running.size
  }
  get settled(): boolean {
    return this.#unsettled === 0
  }
  get arrived(): number {
    return this.#arrived
  }
  get growable(): boolean {
    return (
      this.#answered &&
      this.#ranged &&
      this.#failure === undefined &&
      this.streams < this.#options.context.parallelParts &&
      this.#plan.divisible
    )
  }
  /** Entity tag of the version that is being fetched. */
  get etag(): string | undefined {
    return this.#etag
  }

  /** Returns when all bytes are in the file. @throws what made it stop, after every stream has */
  async run(): Promise<void> {
    const { governor, signal } = this.#options
    throwIfAborted(signal)
    const onAbort = (): void => this.#stop?.abort(signal.reason)
    if (governor !== undefined) signal.addEventListener('abort', onAbort, { once: true })
    governor?.join(this)
    try {
      while (!this.#plan.complete && this.#failure === undefined) {
        if (this.streams === 0) this.grow()
        await Promise.race(this.#running)
      }
      await Promise.all(this.#running)
      if (this.#failure !== undefined) throw this.#failure
    } finally {
      governor?.leave(this)
      signal.removeEventListener('abort', onAbort)
    }
  }

  grow(): void {
    const piece = this.#plan.take(this.streams + 1)
    if (piece === undefined) return
    this.#unsettled++
    let settled = false
    const settle = (): void => {
      if (!settled) this.#unsettled--
      settled = true
    }
    const running = this.#stream(piece, settle)
      .catch((error: unknown) => {
        if (error instanceof Retired) return
        this.#failure ??= error
        this.#stop?.abort(this.#failure)
      })
      .finally(() => {
        settle()
        this.#running.delete(running)
      })
    this.#running.add(running)
  }

  /** Fetches piece after piece while there are some, and the governor lets it. */
  async #stream(first: Piece, settle: () => void): Promise<void> {
    for (let piece: Piece | undefined = first; piece !== undefined; piece = this.#next()) {
      const held = { piece }
      try {
        await this.#fetch(held, settle)
      } finally {
        this.#plan.release(held.piece)
      }
    }
  }

  #next(): Piece | undefined {
    return this.#options.governor?.keeps(this) === false ? undefined : this.#plan.take(this.streams)
  }

  /** Fetches one piece, trying again as long as that can help. */
  async #fetch(held: { piece: Piece }, settle: () => void): Promise<void> {
    const { context, oid } = this.#options
    const signal = this.#signal
    let failures = 0
    let begun = false
    const attempt = async (): Promise<void> => {
      const before = this.#arrived
      try {
        await this.#receive(held, settle)
      } catch (error) {
        if (!isTimoneError(error)) throw error
        if (error.code === 'throttled') this.#options.governor?.throttled()
        begun ||= held.piece.received > held.piece.start
        // One too many for the host, perhaps: the others go on, and come to its piece later.
        if (error.retryable && !begun && this.streams > 1) {
          if (error.code !== 'throttled') this.#options.governor?.refused()
          context.log.warn({ oid, code: error.code, streams: this.streams - 1 }, error.message)
          throw new Retired()
        }
        throw error
      } finally {
        if (this.#arrived > before) settle()
      }
    }
    for (;;) {
      const before = held.piece.received
      try {
        await context.retrier.run(context.access.host, attempt, {
          signal,
          onRetry: (error, delay) =>
            context.log.warn({ oid, at: held.piece.received, delay, code: error.code }, error.message),
        })
        return
      } catch (error) {
        throwIfAborted(signal)
        if (isTimoneError(error, 'precondition_failed')) {
          throw new TimoneError('hash_mismatch', 'the object was replaced while it was being read', {
            cause: error,
          })
        }
        // Tries count from the last byte that arrived: a bad line that still moves is not given up.
        const moved = held.piece.received > before
        if (!isTimoneError(error) || !error.retryable || !moved || ++failures > MAX_FAILURES) throw error
      }
    }
  }

  /** One request, and what it brings. */
  async #receive(held: { piece: Piece }, settle: () => void): Promise<void> {
    const { context, oid, file, hash, journal, progress } = this.#options
    const { access } = context
    const { size } = this.#plan
    const { received: offset, end } = held.piece
    const known = this.#etag
    // A weak tag never matches (RFC 9110, section 13.1.1): it can only be compared here.
    const strong = known?.startsWith('W/') === true ? undefined : known
    const response = await access.get(oid, size, { offset, end, etag: strong, signal: this.#signal })
    const until = checkAnswer(response, { offset, end, size, host: access.host, etag: known })
    this.#etag ??= response.headers.etag
    if (response.status === 200 && (offset > 0 || end < size)) {
      // The whole object instead of a part: of use only for whoever is alone.
      this.#ranged = false
      if (this.streams > 1) {
        response.body.destroy()
        throw new Retired()
      }
      progress.add(-this.#plan.written)
      held.piece = this.#plan.restart(held.piece)
      await Promise.all([hash.restart(), journal?.restart()])
    }
    this.#answered = true
    const { piece } = held
    await receive(response, until - piece.received, {
      wanted: () => piece.end - piece.received,
      onBytes: (bytes) => {
        piece.received += bytes
        this.#arrived += bytes
        progress.add(bytes)
        settle()
      },
      write: async (bytes) => {
        const at = piece.written
        hash.writing(bytes, at)
        await file.write(bytes, at)
        piece.written += bytes.length
        hash.written(at)
        journal?.written(bytes.length)
      },
    })
    if (piece.received < piece.end)
      throw new TimoneError('connection', `${access.host} ended the answer early`)
  }
}
