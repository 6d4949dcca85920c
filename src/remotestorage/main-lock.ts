import { open, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { systemCode } from '../errors.ts'
import { busy, MAIN, removeStaleLocks } from './ref-writer.ts'

/** Milliseconds for which others may hold it. */
const PATIENCE = 15_000

/**
 * Does something while nobody can move `main`: git, in whichever process, makes this very file before it does
 * (lockfile.h). It must take well under the ten seconds after which a lock counts as left behind.
 * @throws {TimoneError} `throttled` when others hold it all the time
 */
export async function whileMainStands<T>(gitDir: string, work: () => Promise<T>): Promise<T> {
  const lock = join(gitDir, `${MAIN}.lock`)
  const deadline = Date.now() + PATIENCE
  for (;;) {
    try {
      await (await open(lock, 'wx')).close()
      break
    } catch (error) {
      if (systemCode(error) !== 'EEXIST') throw error
      await removeStaleLocks(gitDir)
      if (Date.now() > deadline) throw busy()
      await sleep(5 + Math.random() * 20)
    }
  }
  try {
    return await work()
  } finally {
    await rm(lock, { force: true })
  }
}
