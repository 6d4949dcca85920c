import { readdir, rm } from 'node:fs/promises'
import { lstatPath, openFolder } from './cache-folder.ts'
import { hostName, isAlive } from './resume-store.ts'

/** A file of a process on another machine is left alone for so long, milliseconds. */
const STALE = 24 * 3600 * 1000
/** And one of a process that seems dead for so long: in another container it may live under the same names. */
const SETTLED = 60 * 1000

const HOST = hostName()
let count = 0

/** Name for a new file in the cache's `tmp` folder: nobody else makes the same. */
export function temporaryName(what: string): string {
  return `${what}.${HOST}.${process.pid}.${count++}`
}

const TEMPORARY = /\.([A-Za-z0-9_-]+)\.(\d+)\.\d+$/

/** Removes what dead processes have left in the cache's `tmp` folder. Never fails. */
export async function sweepTemporaries(root: string): Promise<void> {
  const folder = await openFolder(root, ['tmp'], false).catch(() => undefined)
  if (folder === undefined) return
  try {
    for (const name of await readdir(folder.path)) {
      const path = `${folder.path}/${name}`
      const found = await lstatPath(path).catch(() => undefined)
      if (found === undefined) continue
      const [, host, pid] = TEMPORARY.exec(name) ?? []
      const dead = host === HOST && !isAlive(Number(pid))
      // The distance counts, not the direction: clocks differ between machines.
      const age = Math.abs(Date.now() - found.ctimeMs)
      if (age > (dead ? SETTLED : STALE)) await rm(path, { recursive: true, force: true })
    }
  } catch {
    // What stays is found next time.
  } finally {
    folder.close()
  }
}
