import { isTimoneError, TimoneError } from '../errors.ts'
import type { LfsApi } from './lfs-api.ts'
import { type LfsConfig, parseFlag } from './lfs-config.ts'

/** `lfs.<url>.locksverify`, `lfs.locksverify`: what locks mean for a push. */
export type LockPolicy =
  /** They stop it. */
  | 'enforced'
  /** They are only warned of, as git-lfs does while nothing is set. */
  | 'warned'
  /** Nobody asks. */
  | 'ignored'

/** One lock of the Git LFS locking API. */
export interface Lock {
  path: string
  owner: string
}

/** What the configuration says about locks at `url`. */
export function lockPolicy(config: LfsConfig, url: URL): LockPolicy {
  const flag = parseFlag(config.forUrl('lfs', url, 'locksverify').at(-1) ?? config.get('lfs.locksverify'))
  return flag === undefined ? 'warned' : flag ? 'enforced' : 'ignored'
}

/** Pages of locks that are read at most: a server whose cursor never ends must not hold a push for ever. */
const MAX_PAGES = 10_000

/**
 * Locks of other people, by path. Undefined when the server has no locks.
 * @throws {TimoneError} when it has them, or may have them, and does not tell
 */
export async function locksOfOthers(
  api: LfsApi,
  ref: string | undefined,
  signal: AbortSignal,
): Promise<ReadonlyMap<string, Lock> | undefined> {
  const locks = new Map<string, Lock>()
  let cursor: string | undefined
  for (let page = 0; page < MAX_PAGES; page++) {
    let answer: { theirs?: unknown; next_cursor?: unknown }
    try {
      answer = ((await api.post(
        'locks/verify',
        { ...(cursor === undefined ? {} : { cursor }), ...(ref === undefined ? {} : { ref: { name: ref } }) },
        signal,
      )) ?? {}) as typeof answer
    } catch (error) {
      if (isTimoneError(error, 'not_found') || (isTimoneError(error) && error.status === 501))
        return undefined
      throw error
    }
    if (!Array.isArray(answer.theirs ?? [])) throw wrong(api.host)
    for (const one of (answer.theirs ?? []) as unknown[]) {
      const { path, owner } = (one ?? {}) as { path?: unknown; owner?: { name?: unknown } | null }
      if (typeof path !== 'string') throw wrong(api.host)
      locks.set(path, { path, owner: typeof owner?.name === 'string' ? owner.name : 'somebody' })
    }
    const next = answer.next_cursor
    if (typeof next !== 'string' || next === '') return locks
    if (next === cursor) throw wrong(api.host)
    cursor = next
  }
  throw wrong(api.host)
}

const wrong = (host: string): TimoneError =>
  new TimoneError(
    'invalid',
    `${host} answered the question for locks with another shape than LFS servers do`,
    { host },
  )
