interface Entry<V> {
  value: V
  /** Milliseconds since the epoch after which the value must not be handed out. */
  until: number
}

/**
 * Remembers what is expensive to get until shortly before it expires, and asks for it once however many callers wait.
 * A failure is never remembered: the next caller asks again. Size-bounded; the oldest entry goes first.
 * Keys must be unambiguous and free of secrets (use `JSON.stringify` of the parts).
 */
export class ExpiringCache<V> {
  readonly #entries = new Map<string, Entry<V>>()
  readonly #pending = new Map<string, Promise<V>>()
  readonly #max: number
  readonly #now: () => number

  constructor(options: { max?: number; now?: () => number } = {}) {
    this.#max = options.max ?? 10_000
    this.#now = options.now ?? Date.now
  }

  /** The remembered value, or undefined when there is none or it is too old. */
  peek(key: string): V | undefined {
    const entry = this.#entries.get(key)
    if (entry === undefined) return undefined
    if (entry.until > this.#now()) return entry.value
    this.#entries.delete(key)
    return undefined
  }

  /** Remembers `value` until `until` (milliseconds since the epoch). */
  set(key: string, value: V, until: number): void {
    this.#entries.delete(key)
    this.#entries.set(key, { value, until })
    if (this.#entries.size > this.#max) {
      const oldest = this.#entries.keys().next()
      if (!oldest.done) this.#entries.delete(oldest.value)
    }
  }

  delete(key: string): void {
    this.#entries.delete(key)
  }

  /** The remembered value, else what `load` gives: one call of `load` at a time for each key. */
  async get(key: string, load: () => Promise<{ value: V; until: number }>): Promise<V> {
    const known = this.peek(key)
    if (known !== undefined) return known
    const pending = this.#pending.get(key)
    if (pending !== undefined) return pending
    const loading = (async () => {
      const { value, until } = await load()
      this.set(key, value, until)
      return value
    })().finally(() => this.#pending.delete(key))
    this.#pending.set(key, loading)
    return loading
  }
}
