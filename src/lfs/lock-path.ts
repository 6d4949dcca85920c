import { createHash } from 'node:crypto'
import { TimoneError } from '../errors.ts'

/** Bytes of a path; the kernels' own limit (PATH_MAX). */
const MAX_PATH = 4096

/**
 * Checks the path of a lock: relative to the top of the work tree, and naming a file below it in one way only.
 * @throws {TimoneError} `invalid`
 */
export function parseLockPath(value: unknown): string {
  if (typeof value !== 'string' || value === '') throw wrong('it is empty')
  if (Buffer.byteLength(value) > MAX_PATH) throw wrong(`it is longer than ${MAX_PATH} bytes`)
  // Terminals obey control characters, and git-lfs prints the paths of others' locks as they are.
  if (/\p{Cc}/u.test(value) || !value.isWellFormed())
    throw wrong('it holds control characters or is not Unicode')
  // On Windows a backslash separates folders too, and a letter with a colon is a drive.
  const names = value.split(/[/\\]/)
  if (names[0] === '' || /^[A-Za-z]:$/.test(names[0] ?? '')) {
    throw wrong('it must be relative to the top of the repository')
  }
  if (names.includes('..')) throw wrong('it leads out of the repository')
  if (names.includes('') || names.includes('.')) throw wrong('it has an empty name or a dot in it')
  return value
}

/**
 * What two paths have in common when they are one file on Windows or macOS, where case, Unicode form and the kind of
 * slash do not tell files apart.
 */
export function lockPathKey(path: string): string {
  const folded = path
    .replaceAll('\\', '/')
    .normalize('NFC')
    .toLowerCase()
    // A sigma at the end of a word becomes another letter than elsewhere.
    .replaceAll('ς', 'σ')
    .normalize('NFC')
  return createHash('sha256').update(folded).digest('hex')
}

function wrong(why: string): TimoneError {
  return new TimoneError('invalid', `not a path that can be locked: ${why}`)
}
