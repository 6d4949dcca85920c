import { readdir, utimes } from 'node:fs/promises'
import { join } from 'node:path'
import { systemCode } from '../errors.ts'
import { syncFolder } from '../sync-folder.ts'
import { runGit } from './git-process.ts'

/**
 * Loose objects in one of the 256 folders from which it is time to pack: about 2000 changes of documents three folders
 * deep. Git guesses from the same folder (git-gc(1), `gc.auto`).
 */
const MANY = 40

/** What packs a repository. */
export const REPACK: readonly string[] = ['repack', '--geometric=2', '-d', '-l', '-q']

/** Puts the loose objects of spaces into packs while nobody uses them; one space at a time. */
export class Packing {
  #last: Promise<void> = Promise.resolve()
  readonly #failed: (error: unknown) => void

  constructor(failed: (error: unknown) => void) {
    this.#failed = failed
  }

  /** Packs a space when it is its turn, if it has many loose objects. */
  add(gitDir: string): void {
    this.#last = this.#last.then(async () => {
      try {
        await packIfMany(gitDir)
      } catch (error) {
        this.#failed(error)
      }
    })
  }
}

/**
 * Packs what is loose, and joins small packs. Nothing is ever thrown away, so that it may run beside changes of this and
 * other processes: an object that no commit names yet is packed as well.
 * @param many loose objects in one of 256 folders from which it is done
 * @returns whether it was done
 * @throws {TimoneError} `internal`
 */
export async function packIfMany(gitDir: string, many: number = MANY): Promise<boolean> {
  const sample = await readdir(join(gitDir, 'objects', '17')).catch(() => [])
  if (sample.length < many) return false
  // git drops loose objects that packs have as well, new ones too: such a pack must not go before they are referred to.
  const packs = join(gitDir, 'objects', 'pack')
  const now = new Date()
  for (const name of await readdir(packs))
    if (name.endsWith('.pack')) await utimes(join(packs, name), now, now).catch(unlessGone)
  await runGit(gitDir, REPACK)
  // git flushes the packs, but not their names.
  await syncFolder(packs)
  return true
}

/** Whoever else packs or prunes may take packs, loose objects and their folders from under our hands. */
export function unlessGone(error: unknown): undefined {
  if (systemCode(error) !== 'ENOENT') throw error
}
