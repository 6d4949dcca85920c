import { open, rm, utimes } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { systemCode } from '../errors.ts'
import { busy, MAIN, removeStaleLocks } from './ref-writer.ts'

/** Milliseconds for which others may hold it. */
const PATIENCE = 15_000
/** Milliseconds after which the lock is made new again, so that a holder at work never looks dead. */
const BEAT = 2000

/**
 * Does something while nobody can move `main`: git, in whichever process, makes this very file before it does
 * (lockfile.h). Others wait meanwhile, so it must not take long; it is safe if it does.
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
  const beat = setInterval(() => {
    const now = new Date()
    utimes(lock, now, now).catch(() => {})
  }, BEAT)
  try {
    return await work()
  } finally {
    clearInterval(beat)
    await rm(lock, { force: true })
  }
}
