import { join } from 'node:path'
import { FolderCache } from './folder-cache.ts'
import { Space } from './space.ts'

/** Spaces whose git processes are kept at once. */
const MAX_OPEN = 64
/** How long nobody may use a space before its processes end, milliseconds. */
const IDLE = 30_000

export interface SpacesOptions {
  /** Absolute path of the folder with the repositories, one for each user: `<user id>.git`. */
  root: string
  /** Milliseconds since the epoch. */
  now?: () => number
  /** Told when a space was not used for a while. */
  onIdle?: (space: Space) => void
}

interface Kept {
  readonly space: Space
  used: number
}

/** The spaces of all users; those in use have their git processes open. */
export class Spaces {
  readonly root: string
  readonly #cache = new FolderCache()
  readonly #open = new Map<number, Kept>()
  readonly #now: () => number
  readonly #onIdle: ((space: Space) => void) | undefined
  readonly #timer: NodeJS.Timeout

  constructor({ root, now = Date.now, onIdle }: SpacesOptions) {
    this.root = root
    this.#now = now
    this.#onIdle = onIdle
    this.#timer = setInterval(() => this.#endIdle(), IDLE / 3).unref()
  }

  of(userId: number): Space {
    const kept = this.#open.get(userId) ?? {
      space: new Space({ gitDir: this.gitDir(userId), cache: this.#cache, now: this.#now }),
      used: 0,
    }
    kept.used = Date.now()
    // Last in the order: the first ones are the longest unused.
    this.#open.delete(userId)
    this.#open.set(userId, kept)
    this.#endSurplus()
    return kept.space
  }

  gitDir(userId: number): string {
    return join(this.root, `${userId}.git`)
  }

  /** Ends all processes. */
  close(): void {
    clearInterval(this.#timer)
    for (const { space } of this.#open.values()) space.close()
    this.#open.clear()
  }

  #endSurplus(): void {
    let surplus = this.#open.size - MAX_OPEN
    for (const { space } of this.#open.values()) {
      if (surplus-- <= 0) break
      // It stays known, for its queue of changes is the one place where they are put in order.
      if (space.busy === 0) space.close()
    }
  }

  #endIdle(): void {
    for (const [userId, { space, used }] of this.#open) {
      if (space.busy > 0 || Date.now() - used < IDLE) continue
      space.close()
      this.#open.delete(userId)
      this.#onIdle?.(space)
    }
  }
}
