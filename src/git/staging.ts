import { lstatSync, mkdirSync, readdirSync, rmdirSync, unlinkSync, utimesSync, writeFileSync } from 'node:fs'
import { hostname } from 'node:os'
import { join } from 'node:path'
import { systemCode } from '../errors.ts'
import type { LocalRepository } from './repository.ts'
import type { ParentFolder } from './safe-path.ts'

/** Where files of a fill are made before they are renamed into the work tree. */
export interface Staging {
  /** Path for a new file that will be renamed to a name in `parent`. */
  pathFor(parent: ParentFolder): string
  /** Gives a finished file its modification time. */
  date(path: string): void
  /** Drops what is left. */
  close(): void
}

/** What is older, milliseconds, is nobody's any more. */
const STALE = 24 * 3600 * 1000
let opened = 0

/**
 * A folder in the git folder: what a killed process leaves there is no untracked file of the user's, and the next fill
 * drops it. Files whose folder is on another file system, or passes its group on, are made beside their place.
 */
export function openStaging(repository: LocalRepository): Staging {
  const folder = join(repository.gitDir, 'timone-fill')
  const host = hostname().replace(/[^A-Za-z0-9-]/g, '_')
  // While it lies there, no other fill that ends can remove the folder.
  const mark = join(folder, `${host}.${process.pid}.at-work-${opened++}`)
  makeWith(folder, mark)
  sweep(folder, host)
  const { dev } = lstatSync(folder)
  let count = 0
  let past: number | undefined
  return {
    pathFor(parent) {
      const name = `${host}.${process.pid}.${count++}`
      const apart = parent.stat.dev !== dev || (parent.stat.mode & 0o2000) !== 0
      return apart ? join(parent.path, `.timone-${name}`) : join(folder, name)
    },
    date(path) {
      // Racy git: an index entry whose time is not older than the index file itself is doubted, and the file read (here:
      // filtered) again by each `git status`. git compares whole seconds. So the file's time is put back into the
      // second before, by the file system's own clock, and the index, written after this, is newer. A tenth more: kernels
      // date files by a clock that ticks. An edit after the fill still shows: it brings the time forward.
      past ??= lstatSync(path).mtimeMs - Date.now()
      const second = Math.floor((Date.now() + past) / 1000 - 0.1) - 1
      utimesSync(path, second, second)
    },
    close() {
      try {
        unlinkSync(mark)
        rmdirSync(folder)
      } catch {
        // Another fill is at work in it.
      }
    },
  }
}

/** Makes the folder, with a file in it. */
function makeWith(folder: string, file: string): void {
  for (;;) {
    mkdirSync(folder, { recursive: true })
    try {
      writeFileSync(file, '', { flag: 'wx' })
      return
    } catch (error) {
      // Another fill has ended, and removed the folder meanwhile.
      if (systemCode(error) !== 'ENOENT') throw error
    }
  }
}

function sweep(folder: string, host: string): void {
  for (const name of readdirSync(folder)) {
    const path = join(folder, name)
    const [owner, pid] = name.split('.')
    try {
      const old = Date.now() - lstatSync(path).mtimeMs > STALE
      if (old || (owner === host && !isAlive(Number(pid)))) unlinkSync(path)
    } catch {
      // Another fill was quicker.
    }
  }
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0)
    return true
  } catch (error) {
    return systemCode(error) === 'EPERM'
  }
}
