import { lstatSync, mkdirSync, type Stats } from 'node:fs'
import { join } from 'node:path'
import { systemCode } from '../errors.ts'

/**
 * True when a path of the index may be written in a work tree: relative, without `.` and `..`, and without anything that
 * some file system takes for `.git`. git refuses such entries itself; a hostile index need not have come through git.
 */
export function isSafePath(path: string): boolean {
  if (path === '' || path.includes('\0') || path.includes('\ufffd')) return false
  if (process.platform === 'win32' && /[\\:]/.test(path)) return false
  return path.split('/').every((name) => name !== '' && name !== '.' && name !== '..' && !isGitFolder(name))
}

/** `.git` as HFS+ (ignored letters, any case) and NTFS (short name, trailing dots and spaces, streams) see it. */
function isGitFolder(name: string): boolean {
  const plain = name.replace(IGNORED_BY_HFS, '').toLowerCase()
  return /^(\.git|git~1)[. ]*(:.*)?$/.test(plain)
}
const IGNORED_BY_HFS = /[\u200c-\u200f\u202a-\u202e\u206a-\u206f\ufeff]/g

/** What a folder of the work tree is: {@link parentFolder}. */
export interface ParentFolder {
  /** Absolute. */
  readonly path: string
  readonly stat: Stats
}

/**
 * The folder of `path` in the work tree `root`, when it and every folder above it is a real folder, not a link to
 * somewhere else. Undefined when one is not; with `create`, missing ones are made.
 */
export function parentFolder(root: string, path: string, create: boolean): ParentFolder | undefined {
  let at = root
  let stat = lstatSync(root)
  const names = path.split('/')
  for (const name of names.slice(0, -1)) {
    at = join(at, name)
    let found = lstatSync(at, { throwIfNoEntry: false })
    if (found === undefined && create) {
      try {
        mkdirSync(at)
      } catch (error) {
        if (systemCode(error) !== 'EEXIST') throw error
      }
      found = lstatSync(at, { throwIfNoEntry: false })
    }
    if (found === undefined || !found.isDirectory()) return undefined
    stat = found
  }
  return { path: at, stat }
}
