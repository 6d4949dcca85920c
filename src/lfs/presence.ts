import { TimoneError } from '../errors.ts'
import { ExpiringCache } from '../expiring-cache.ts'
import type { ListedObjects, ObjectStore } from '../storage/object-store.ts'
import { type Listing, listObjects, WORTH_A_PAGE } from './listing.ts'

export interface PresenceOptions {
  store: ObjectStore
  /** Look-ups under way at any moment, for all requests together. */
  limit?: number
  /** Milliseconds that one request may take. */
  deadline?: number
  /** Milliseconds since the epoch. */
  now?: () => number
}

/** How long an object that was seen counts as seen, milliseconds. */
const SEEN_FOR = 60_000
/** How long the size of a repository counts as known, milliseconds. */
const REACH_FOR = 60_000
/** git-lfs hangs up after 30 s of silence (`lfs.activitytimeout`): give it an answer before that. */
const DEADLINE = 25_000

/** Looks up which objects the store has, many at a time. */
export class Presence {
  readonly #store: ObjectStore
  readonly #seen: ExpiringCache<number>
  /** What was found for requests that then took too long: the next try goes on from there. Each is used once. */
  readonly #unanswered: ExpiringCache<{ size: number | undefined }>
  /** Share of a repository that one page of its listing answers for, by the repository's prefix. */
  readonly #reach: ExpiringCache<number>
  readonly #limit: number
  readonly #deadline: number
  readonly #now: () => number
  readonly #waiting: (() => void)[] = []
  #free: number

  constructor(options: PresenceOptions) {
    this.#store = options.store
    this.#limit = options.limit ?? 64
    this.#free = this.#limit
    this.#deadline = options.deadline ?? DEADLINE
    this.#now = options.now ?? Date.now
    this.#seen = new ExpiringCache({ max: 100_000, now: this.#now })
    this.#unanswered = new ExpiringCache({ max: 100_000, now: this.#now })
    this.#reach = new ExpiringCache({ now: this.#now })
  }

  /**
   * The size of each of `keys` in bytes, undefined where the store has no such object.
   * With `recent`, an object seen within the last minute counts as there; one that was absent is always looked up anew,
   * and so is one that was seen with another size than `recent` has for it: it may have been healed meanwhile.
   * @throws {TimoneError} `timeout` when it takes too long, `cancelled`, or what the store threw first.
   */
  async sizes(
    keys: readonly string[],
    options: {
      /** What every key begins with, where a listing of the store may answer for many of them. */
      prefix?: string
      recent?: readonly number[] | undefined
      signal?: AbortSignal | undefined
    },
  ): Promise<(number | undefined)[]> {
    const stop = new AbortController()
    const deadline = AbortSignal.timeout(this.#deadline)
    const signal = AbortSignal.any([stop.signal, deadline, ...(options.signal ? [options.signal] : [])])
    const found: { key: string; size: number | undefined }[] = []
    const sizes = new Array<number | undefined>(keys.length)
    const listed = await this.#listing(keys, options, signal)
    let next = 0
    const work = async (): Promise<void> => {
      for (let at = next++; at < keys.length; at = next++) {
        const key = keys[at] as string
        const known = listed?.find(key)
        // A listing may be behind. What an upload does for nothing hurts nobody, nor does a download that then finds
        // nothing; the other way round an object could get lost, so there the object itself is asked.
        if (options.recent === undefined ? known === 'absent' : known === options.recent[at]) {
          sizes[at] = options.recent?.[at]
          if (known === 'absent') this.#seen.delete(key)
          continue
        }
        const size = await this.#size(key, options.recent?.[at], signal)
        sizes[at] = size
        found.push({ key, size })
      }
    }
    try {
      // As many as there are slots: those who wait for one are served in turn, so no batch shuts out another.
      await Promise.all(Array.from({ length: Math.min(this.#limit, keys.length) }, work))
    } catch (error) {
      stop.abort()
      if (!deadline.aborted && !options.signal?.aborted) throw error
      const until = this.#now() + SEEN_FOR
      for (const { key, size } of found) this.#unanswered.set(key, { size }, until)
      throw deadline.aborted
        ? new TimoneError('timeout', 'the storage takes too long to look up the objects', { retryAfter: 1 })
        : new TimoneError('cancelled', 'the client has gone')
    }
    return sizes
  }

  /** @returns undefined where a listing is not worth it, or is refused: the right to list is not needed for anything else */
  async #listing(
    keys: readonly string[],
    { prefix, recent }: { prefix?: string; recent?: readonly number[] | undefined },
    signal: AbortSignal,
  ): Promise<Listing | undefined> {
    if (prefix === undefined || this.#store.list === undefined) return undefined
    const wanted = keys.filter((key, at) => recent === undefined || this.#seen.peek(key) !== recent[at])
    if (wanted.length * (this.#reach.peek(prefix) ?? 1) < WORTH_A_PAGE) return undefined
    const listing = await listObjects((after) => this.#page(prefix, after, signal), wanted)
    const now = this.#now()
    this.#reach.set(prefix, listing.reach, now + REACH_FOR)
    // git-lfs asks for a hundred objects at a time: the pages know the next hundreds of the same download too.
    for (const [key, size] of listing.sizes) this.#seen.set(key, size, now + SEEN_FOR)
    return listing
  }

  async #page(
    prefix: string,
    after: string | undefined,
    signal: AbortSignal,
  ): Promise<ListedObjects | undefined> {
    await this.#take()
    try {
      return await this.#store.list?.(prefix, { ...(after === undefined ? {} : { after }), signal })
    } catch {
      // Each object is then looked up, which also says what is wrong.
      return undefined
    } finally {
      this.#give()
    }
  }

  async #size(key: string, expected: number | undefined, signal: AbortSignal): Promise<number | undefined> {
    const seen = expected === undefined ? undefined : this.#seen.peek(key)
    if (seen !== undefined && seen === expected) return seen
    const before = this.#unanswered.peek(key)
    if (before !== undefined) {
      this.#unanswered.delete(key)
      return before.size
    }
    await this.#take()
    try {
      if (signal.aborted) throw new TimoneError('cancelled', 'the look-up was stopped')
      const size = (await this.#store.head(key, { signal }))?.size
      if (size === undefined) this.#seen.delete(key)
      else this.#seen.set(key, size, this.#now() + SEEN_FOR)
      return size
    } finally {
      this.#give()
    }
  }

  async #take(): Promise<void> {
    if (this.#free > 0) this.#free--
    else await new Promise<void>((resolve) => this.#waiting.push(resolve))
  }

  #give(): void {
    const next = this.#waiting.shift()
    if (next === undefined) this.#free++
    else next()
  }
}
