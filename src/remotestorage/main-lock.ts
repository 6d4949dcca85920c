import { type FileHandle, open, rename, rm, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { systemCode, TimoneError } from '../errors.ts'
import { fileError } from '../storage/file-errors.ts'
import { syncFolder } from '../sync-folder.ts'

export const MAIN = 'refs/heads/main'

/** Milliseconds for which others may hold it. */
const PATIENCE = 15_000
/** Milliseconds between two looks whether it is free, at most. */
const LOOK = 25
/** Milliseconds after which the lock is made new again, so that a holder at work never looks dead. */
const BEAT = 2000
/** A lock that is this old, milliseconds, belongs to somebody who was killed. */
const STALE = 10_000

/**
 * Does something while nobody can move `main`: git, in whichever process, makes this very file before it does
 * (lockfile.h). Others wait meanwhile, so it must not take long; it is safe if it does.
 * @throws {TimoneError} `throttled` when others hold it all the time
 */
export async function whileMainStands<T>(gitDir: string, work: (lock: MainLock) => Promise<T>): Promise<T> {
  const lock = await MainLock.take(gitDir)
  try {
    return await work(lock)
  } finally {
    await lock.release()
  }
}

/**
 * Moves `main`, durably, to the commit that `work` gives while nobody else can move it; undefined leaves it where it is.
 * @throws {TimoneError} `throttled` when others hold it all the time
 */
export function moveMain(gitDir: string, work: () => Promise<string | undefined>): Promise<void> {
  return whileMainStands(gitDir, async (lock) => {
    const commit = await work()
    if (commit !== undefined) await lock.become(commit)
  })
}

export class MainLock {
  readonly #gitDir: string
  readonly #path: string
  readonly #file: FileHandle
  readonly #beat: NodeJS.Timeout
  #gone = false

  private constructor(gitDir: string, path: string, file: FileHandle) {
    this.#gitDir = gitDir
    this.#path = path
    this.#file = file
    this.#beat = setInterval(() => {
      const now = new Date()
      file.utimes(now, now).catch(() => {})
    }, BEAT)
  }

  static async take(gitDir: string): Promise<MainLock> {
    const path = join(gitDir, `${MAIN}.lock`)
    const deadline = Date.now() + PATIENCE
    for (let looks = 1; ; looks++) {
      try {
        return new MainLock(gitDir, path, await open(path, 'wx'))
      } catch (error) {
        if (systemCode(error) !== 'EEXIST') throw fileError(error, 'write to the storage')
      }
      await removeIfStale(path)
      if (Date.now() > deadline) throw busy()
      await sleep(Math.random() * Math.min(2 * looks, LOOK))
    }
  }

  /** What git does: the new value is written into the lock, which then takes the place of the ref (refs/files-backend.c). */
  async become(commit: string): Promise<void> {
    try {
      await this.#file.writeFile(`${commit}\n`)
      await this.#file.sync()
      if (!(await this.isOurs())) throw busy()
      await rename(this.#path, join(this.#gitDir, MAIN))
      this.#gone = true
      await syncFolder(join(this.#gitDir, 'refs/heads'))
    } catch (error) {
      throw fileError(error, 'write to the storage')
    }
  }

  async release(): Promise<void> {
    clearInterval(this.#beat)
    try {
      if (!this.#gone && (await this.isOurs())) await rm(this.#path, { force: true })
    } finally {
      await this.#file.close()
    }
  }

  /** False: this process was held up for so long that it looked dead. While ours is open no other has its number. */
  async isOurs(): Promise<boolean> {
    const there = await stat(this.#path).catch(() => undefined)
    return there !== undefined && there.ino === (await this.#file.stat()).ino
  }
}

/** A process that was killed leaves a lock that nobody would ever remove. */
async function removeIfStale(lock: string): Promise<void> {
  try {
    const { mtimeMs } = await stat(lock)
    if (Date.now() - mtimeMs > STALE) await rm(lock, { force: true })
  } catch {
    // It has gone by itself.
  }
}

/** Said when others are faster all the time. */
export function busy(): TimoneError {
  return new TimoneError('throttled', 'too many others write to this storage just now: try again', {
    retryAfter: 1,
  })
}
