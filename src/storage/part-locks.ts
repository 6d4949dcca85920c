import { TimoneError } from '../errors.ts'
import { abortError } from './pour.ts'

/** The right to write one part. */
export interface PartLock {
  /** Aborts when the right is taken away. */
  readonly signal: AbortSignal
  /** Says that bytes arrived: a writer that is silent for long loses its right to one that waits. */
  progress(): void
  /** To be called when no write can follow any more. */
  release(): void
}

interface Holder {
  controller: AbortController
  /** `performance.now()` of the last byte. */
  lastProgress: number
  done: Promise<void>
}

const GONE = 'no such upload: it was completed or dropped'

/**
 * One writer at a time for each part of an upload. A second one waits, and takes over when the first has been silent
 * for `stallMs`: a client that lost its connection sends the part again long before we notice that the old one is dead.
 */
export class PartLocks {
  readonly #uploads = new Map<string, Map<number, Holder>>()
  readonly #shut = new Set<string>()
  readonly #stallMs: number

  constructor(stallMs = 10_000) {
    this.#stallMs = stallMs
  }

  /** @throws `no_such_upload` when the upload is shut, `cancelled` when `signal` aborts while waiting */
  async take(uploadId: string, number: number, signal?: AbortSignal): Promise<PartLock> {
    for (;;) {
      if (signal?.aborted) throw abortError(signal)
      if (this.#shut.has(uploadId)) throw new TimoneError('no_such_upload', GONE)
      const holder = this.#uploads.get(uploadId)?.get(number)
      if (holder === undefined) return this.#hold(uploadId, number, signal)
      await this.#outwait(holder, signal)
    }
  }

  /** Takes the rights of all writers of the upload away, lets no new one in, and waits until nothing can be written. */
  async shut(uploadId: string): Promise<void> {
    this.#shut.add(uploadId)
    const holders = [...(this.#uploads.get(uploadId)?.values() ?? [])]
    for (const holder of holders) holder.controller.abort(new TimoneError('no_such_upload', GONE))
    await Promise.all(holders.map((holder) => holder.done))
  }

  /** Ends {@link shut}. */
  reopen(uploadId: string): void {
    this.#shut.delete(uploadId)
  }

  #hold(uploadId: string, number: number, signal: AbortSignal | undefined): PartLock {
    const controller = new AbortController()
    const { promise: done, resolve } = Promise.withResolvers<void>()
    const holder: Holder = { controller, lastProgress: performance.now(), done }
    const parts = this.#uploads.get(uploadId) ?? new Map<number, Holder>()
    this.#uploads.set(uploadId, parts.set(number, holder))
    return {
      signal: signal === undefined ? controller.signal : AbortSignal.any([controller.signal, signal]),
      progress: () => {
        holder.lastProgress = performance.now()
      },
      release: () => {
        if (parts.get(number) === holder) parts.delete(number)
        if (parts.size === 0 && this.#uploads.get(uploadId) === parts) this.#uploads.delete(uploadId)
        resolve()
      },
    }
  }

  /** Until the holder is done, or may have been replaced because it was silent for too long. */
  async #outwait(holder: Holder, signal: AbortSignal | undefined): Promise<void> {
    const { promise: woken, resolve } = Promise.withResolvers<void>()
    const wake = (): void => resolve()
    const timer = setTimeout(wake, Math.max(0, holder.lastProgress + this.#stallMs - performance.now()))
    signal?.addEventListener('abort', wake, { once: true })
    try {
      await Promise.race([holder.done, woken])
      if (signal?.aborted) return
      if (performance.now() - holder.lastProgress < this.#stallMs) return
      holder.controller.abort(new TimoneError('conflict', 'the same part arrives over another connection'))
      await holder.done
    } finally {
      clearTimeout(timer)
      signal?.removeEventListener('abort', wake)
    }
  }
}
