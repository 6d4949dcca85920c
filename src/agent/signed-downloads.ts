import { performance } from 'node:perf_hooks'
import type { SignedRequest } from '../access/credentials.ts'
import { isTimoneError } from '../errors.ts'
import type { Oid } from '../oid.ts'

/** A signed URL of an object, and how long it is good for. */
export interface SignedDownload {
  request: SignedRequest
  /** By this process's own clock (`performance.now()`), milliseconds: the time of day may jump. */
  until: number
}

/** Objects whose URL is remembered: more than are fetched in ranges at one time. */
const MOST = 64
/** A URL with less than this left, milliseconds, is not used for another request. */
const MARGIN = 30_000

/** Signed URLs of the objects that are being fetched in ranges: the server is asked once for each, not for each range. */
export class SignedDownloads {
  readonly #held = new Map<Oid, Promise<SignedDownload>>()

  /** The remembered URL, or what `ask` gives; one question at a time for each object. `isNew`: nobody has used it yet. */
  async get(
    oid: Oid,
    signal: AbortSignal,
    ask: () => Promise<SignedDownload>,
  ): Promise<{ signed: SignedDownload; isNew: boolean }> {
    const known = this.#held.get(oid)
    if (known !== undefined) {
      try {
        const signed = await known
        if (signed.until - MARGIN > performance.now()) return { signed, isNew: false }
      } catch (error) {
        // Whoever asked first has gone; that is not the fault of those who wait with him.
        if (!isTimoneError(error, 'cancelled') || signal.aborted) throw error
      }
      this.#drop(oid, known)
    }
    const later = this.#held.get(oid)
    // Somebody else has seen it run out, too, and was quicker.
    if (later !== undefined) return { signed: await later, isNew: false }
    const asked = ask()
    this.#held.set(oid, asked)
    for (const oldest of this.#held.keys()) {
      if (this.#held.size <= MOST) break
      this.#held.delete(oldest)
    }
    try {
      return { signed: await asked, isNew: true }
    } catch (error) {
      this.#drop(oid, asked)
      throw error
    }
  }

  /** Forgets the URL of an object, unless there is a newer one. */
  async refuse(oid: Oid, refused: SignedDownload): Promise<void> {
    const known = this.#held.get(oid)
    if (known !== undefined && (await known.catch(() => undefined)) === refused) this.#drop(oid, known)
  }

  #drop(oid: Oid, known: Promise<SignedDownload>): void {
    if (this.#held.get(oid) === known) this.#held.delete(oid)
  }
}
