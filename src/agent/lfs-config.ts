import type { ConfigEntry } from './git-environment.ts'
import { specificity } from './url-match.ts'

/**
 * What git-lfs takes from a repository's `.lfsconfig` (config/git_fetcher.go, as of 3.8.1): nothing in there may make
 * anybody's machine run a program, read a file or give away a credential.
 */
const SAFE_KEYS: ReadonlySet<string> = new Set([
  'lfs.allowincompletepush',
  'lfs.fetchexclude',
  'lfs.fetchinclude',
  'lfs.gitprotocol',
  'lfs.locksverify',
  'lfs.pushurl',
  'lfs.skipdownloaderrors',
  'lfs.url',
  // Where objects are without a server that speaks Batch; which credentials are used there is never a repository's choice.
  'timone.bucket',
  'timone.endpoint',
  'timone.prefix',
  'timone.region',
  'timone.url',
])

/** True for a key that counts in `.lfsconfig`. */
export function isSafeKey(key: string): boolean {
  return (
    SAFE_KEYS.has(key) || /^remote\.[^\n]+\.lfsurl$/.test(key) || /^lfs\.https?:\/\/[^\n]+\.access$/.test(key)
  )
}

/** Git's configuration, and beneath it the repository's `.lfsconfig`, read as git-lfs reads them. */
export class LfsConfig {
  readonly #values = new Map<string, string[]>()
  readonly #fromRepository = new Set<string>()

  /** Both lists in git's order, from least to most important. Of `repository` only the safe keys are taken. */
  constructor(git: readonly ConfigEntry[], repository: readonly ConfigEntry[] = []) {
    for (const [key, value] of git) this.#add(key, value)
    for (const [key, value] of repository) {
      if (!isSafeKey(key) || (this.#values.has(key) && !this.#fromRepository.has(key))) continue
      this.#fromRepository.add(key)
      this.#add(key, value)
    }
  }

  #add(key: string, value: string): void {
    const values = this.#values.get(key)
    if (values === undefined) this.#values.set(key, [value])
    else values.push(value)
  }

  /** The value that counts; `key` with section and name in lower case. */
  get(key: string): string | undefined {
    return this.#values.get(key)?.at(-1)
  }

  /** Every value, in order. */
  getAll(key: string): readonly string[] {
    return this.#values.get(key) ?? []
  }

  /** True when the value that counts is `.lfsconfig`'s. */
  isFromRepository(key: string): boolean {
    return this.#fromRepository.has(key)
  }

  /** A boolean as git has it; `otherwise` when it is not set or no boolean. */
  flag(key: string, otherwise: boolean): boolean {
    return parseFlag(this.get(key)) ?? otherwise
  }

  /** A whole number, zero or more; `otherwise` when it is not set or none. */
  number(key: string, otherwise: number): number {
    const text = this.get(key)
    return text !== undefined && /^\d{1,9}$/.test(text) ? Number(text) : otherwise
  }

  /**
   * Values of `<section>.<url>.<name>` for the pattern that fits `url` best (git-config, `http.<url>.*`).
   * Empty when none fits: {@link getAll} of `<section>.<name>` is then what counts.
   */
  forUrl(section: string, url: URL, name: string): readonly string[] {
    let best = -1
    let found: readonly string[] = []
    for (const [key, values] of this.#values) {
      if (!key.startsWith(`${section}.`) || !key.endsWith(`.${name}`)) continue
      const pattern = key.slice(section.length + 1, -name.length - 1)
      const rank = pattern === '' ? undefined : specificity(pattern, url)
      if (rank === undefined || rank < best) continue
      best = rank
      found = values
    }
    return found
  }

  /** `[pattern, value]` of every `<section>.<pattern>.<name>`. */
  *sections(section: string, name: string): Generator<[pattern: string, value: string]> {
    for (const [key, values] of this.#values) {
      if (!key.startsWith(`${section}.`) || !key.endsWith(`.${name}`)) continue
      if (key.length <= section.length + name.length + 2) continue
      const pattern = key.slice(section.length + 1, -name.length - 1)
      for (const value of values) yield [pattern, value]
    }
  }
}

/** A boolean as git-config(1) has it; undefined when it is none. */
export function parseFlag(text: string | undefined): boolean | undefined {
  if (text === undefined) return undefined
  if (/^(true|yes|on|[1-9]\d*)$/i.test(text)) return true
  return /^(false|no|off|0|)$/i.test(text) ? false : undefined
}
