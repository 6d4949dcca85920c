/** Queries of one kind under way at once; whoever asks meanwhile shares the next one. */
const AT_ONCE = 2
/** Keys of one query: Postgres and SQLite take some 32 000 values, and plan for some hundreds quickly. */
const MOST_KEYS = 100

interface Waiting<K, V> {
  key: K
  promise: Promise<V | undefined>
  resolve: (found: V | undefined) => void
  reject: (error: unknown) => void
}

/**
 * Looks up rows by key, those that several callers want in one query: most of what a short query costs is the way to the
 * database and back.
 *
 * Nothing is remembered. Who asks is answered by a query that began after they asked, so they see all that was committed
 * until then, by whichever process. A query that fails fails for all who share it: keys must be such as the database takes.
 */
export class LookUps<K, V> {
  readonly #load: (keys: readonly K[]) => Promise<ReadonlyMap<string, V>>
  readonly #nameOf: (key: K) => string
  readonly #most: number
  #waiting = new Map<string, Waiting<K, V>>()
  #running = 0
  #begins = false

  /**
   * @param load what there is of `keys`, by name
   * @param nameOf one key, one name
   * @param most keys of one query
   */
  constructor(
    load: (keys: readonly K[]) => Promise<ReadonlyMap<string, V>>,
    nameOf: (key: K) => string,
    most = MOST_KEYS,
  ) {
    this.#load = load
    this.#nameOf = nameOf
    this.#most = most
  }

  /** Undefined: there is none. @throws what the query threw */
  find(key: K): Promise<V | undefined> {
    const name = this.#nameOf(key)
    const asked = this.#waiting.get(name)
    if (asked !== undefined) return asked.promise
    const mine: Waiting<K, V> = { key, ...Promise.withResolvers<V | undefined>() }
    this.#waiting.set(name, mine)
    this.#begin()
    return mine.promise
  }

  /** After all that has just come in from the network was handed to us. */
  #begin(): void {
    if (this.#begins || this.#running >= AT_ONCE || this.#waiting.size === 0) return
    this.#begins = true
    setImmediate(() => {
      this.#begins = false
      void this.#run()
    })
  }

  async #run(): Promise<void> {
    const batch = new Map([...this.#waiting].slice(0, this.#most))
    for (const name of batch.keys()) this.#waiting.delete(name)
    this.#running++
    this.#begin()
    try {
      const found = await this.#load([...batch.values()].map(({ key }) => key))
      for (const [name, { resolve }] of batch) resolve(found.get(name))
    } catch (error) {
      for (const { reject } of batch.values()) reject(error)
    } finally {
      this.#running--
      this.#begin()
    }
  }
}
