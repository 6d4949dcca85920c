import type { Database } from '../database/connect.ts'
import { type ErrorCode, isTimoneError, TimoneError } from '../errors.ts'
import { ExpiringCache } from '../expiring-cache.ts'
import type { ObjectStore } from '../storage/object-store.ts'

export interface Readiness {
  ready: boolean
  /** `ok`, or the code of the error: anybody may ask, so no names and addresses. */
  storage: 'ok' | ErrorCode
  database: 'ok' | ErrorCode
}

const LIMIT = 5_000
const REMEMBERED = 2_000

interface Checks {
  storage: ObjectStore
  database: Pick<Database, 'check'>
}

/**
 * Asks store and database whether they work, at most every two seconds however often it is asked, and waits five at
 * most. `report` is told what is wrong.
 */
export function createReadiness(
  { storage, database }: Checks,
  options: { report: (name: string, error: unknown) => void; limit?: number; now?: () => number },
): () => Promise<Readiness> {
  const { report, limit = LIMIT, now = Date.now } = options
  const cache = new ExpiringCache<Readiness>({ now })
  return () =>
    cache.get('readiness', async () => {
      const [stored, asked] = await Promise.all([
        check('storage', (signal) => storage.check({ signal }), limit, report),
        check('database', () => database.check(), limit, report),
      ])
      const value = { ready: stored === 'ok' && asked === 'ok', storage: stored, database: asked }
      return { value, until: now() + REMEMBERED }
    })
}

async function check(
  name: string,
  ask: (signal: AbortSignal) => Promise<unknown>,
  limit: number,
  report: (name: string, error: unknown) => void,
): Promise<'ok' | ErrorCode> {
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
    report(name, error)
    return isTimoneError(error) ? error.code : 'internal'
  }
}
