import type { ChildProcessWithoutNullStreams } from 'node:child_process'
import { rm, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { TimoneError } from '../errors.ts'
import { syncFolder } from '../sync-folder.ts'
import { spawnGit } from './git-process.ts'

export const MAIN = 'refs/heads/main'
export const NO_COMMIT: string = '0'.repeat(40)

/** A lock that is this old, milliseconds, belongs to nobody: git holds one for as long as a rename takes. */
const STALE_LOCK = 10_000
/** What git locks to move `main`: HEAD too, which leads to it (git refs/files-backend.c, `split_head_update`). */
const LOCKS = [`${MAIN}.lock`, 'HEAD.lock']

/** Moves `main` with compare-and-swap, through one `git update-ref --stdin` that stays open. */
export class RefWriter {
  readonly #gitDir: string
  #git: ChildProcessWithoutNullStreams | undefined
  #said = ''
  #settle: ((ok: boolean) => void) | undefined

  constructor(gitDir: string) {
    this.#gitDir = gitDir
  }

  /**
   * Moves `main` from `from` to `to`, durably; one call at a time. False when it was elsewhere, or somebody else is
   * just moving it: look again.
   */
  async move(from: string, to: string): Promise<boolean> {
    const git = this.#start()
    const ok = await new Promise<boolean>((resolve) => {
      this.#settle = resolve
      git.stdin.write(`start\nupdate ${MAIN} ${to} ${from}\nprepare\ncommit\n`)
    })
    // git flushes the file that it renames, but not the folder.
    if (ok) await syncFolder(join(this.#gitDir, 'refs/heads'))
    else await removeStaleLocks(this.#gitDir)
    return ok
  }

  close(): void {
    this.#git?.stdin.end()
    this.#git = undefined
  }

  #start(): ChildProcessWithoutNullStreams {
    if (this.#git !== undefined) return this.#git
    const git = spawnGit(this.#gitDir, ['update-ref', '--stdin'])
    this.#git = git
    this.#said = ''
    git.stdin.on('error', () => {})
    git.stderr.resume()
    git.stdout.on('data', (chunk: Buffer) => {
      this.#said += chunk.toString()
      if (!this.#said.includes('commit: ok\n')) return
      this.#said = ''
      this.#finish(true)
    })
    const ended = (): void => {
      // A lost race ends it, with status 128.
      if (this.#git === git) this.#git = undefined
      this.#finish(false)
    }
    git.once('error', ended)
    git.once('close', ended)
    return git
  }

  #finish(ok: boolean): void {
    const settle = this.#settle
    this.#settle = undefined
    settle?.(ok)
  }
}

/** A server that was killed together with its git leaves locks that nobody would ever remove. */
export async function removeStaleLocks(gitDir: string): Promise<void> {
  for (const name of LOCKS) {
    const lock = join(gitDir, name)
    try {
      const { mtimeMs } = await stat(lock)
      if (Date.now() - mtimeMs > STALE_LOCK) await rm(lock, { force: true })
    } catch {
      // It has gone by itself.
    }
  }
}

/** Said when {@link RefWriter.move} keeps failing. */
export function busy(): TimoneError {
  return new TimoneError('throttled', 'too many others write to this storage just now: try again', {
    retryAfter: 1,
  })
}
