import type { Database } from '../database/connect.ts'
import { isTimoneError, TimoneError } from '../errors.ts'
import { ExpiringCache } from '../expiring-cache.ts'
import type { ObjectStore } from '../storage/object-store.ts'

export interface Readiness {
  ready: boolean
  /** `ok`, or what is wrong. */
  storage: string
  database: string
}

const LIMIT = 5_000
const REMEMBERED = 2_000

interface Checks {
  storage: ObjectStore
  database: Pick<Database, 'check'>
}

/** Asks store and database whether they work, at most every two seconds however often it is asked, and waits five at most. */
export function createReadiness(
  { storage, database }: Checks,
  options: { limit?: number; now?: () => number } = {},
): () => Promise<Readiness> {
  const { limit = LIMIT, now = Date.now } = options
  const cache = new ExpiringCache<Readiness>({ now })
  return () =>
    cache.get('readiness', async () => {
      const [stored, asked] = await Promise.all([
        check('storage', (signal) => storage.check({ signal }), limit),
        check('database', () => database.check(), limit),
      ])
      const value = { ready: stored === 'ok' && asked === 'ok', storage: stored, database: asked }
      return { value, until: now() + REMEMBERED }
    })
}

async function check(
  name: string,
  ask: (signal: AbortSignal) => Promise<unknown>,
  limit: number,
): Promise<string> {
  const signal = AbortSignal.timeout(limit)
  const late = new Promise<never>((_resolve, reject) => {
    signal.addEventListener('abort', () =>
      reject(new TimoneError('timeout', `the ${name} did not answer within ${limit / 1000} s`)),
    )
  })
  try {
    await Promise.race([ask(signal), late])
    return 'ok'
  } catch (error) {
    return isTimoneError(error) ? error.message : 'failed'
  }
}
