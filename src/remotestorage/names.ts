import { TimoneError } from '../errors.ts'

/** A path below somebody's storage, decoded and checked. */
export interface StoragePath {
  /** From the root down; empty for the root folder. */
  readonly segments: readonly string[]
  /** It ends with a slash, and so names a folder. */
  readonly folder: boolean
}

/** Bytes of a name as Git keeps it: what the file systems of clones can hold. */
const MAX_NAME = 255
/** Bytes of a path as it comes. */
const MAX_PATH = 4096

/**
 * Reads the raw, percent-encoded path behind `/storage/{login}`; nothing is resolved. Names may hold everything but
 * `/` and NUL, and are neither empty nor `.` nor `..` (draft-dejong-remotestorage-26, section 4).
 * @throws {TimoneError} `malformed` or `uri_too_long`
 */
export function parseStoragePath(raw: string): StoragePath {
  if (!raw.startsWith('/')) throw malformed('the path must begin with a slash')
  if (raw.length > MAX_PATH) throw tooLong()
  const parts = raw.slice(1).split('/')
  const folder = parts.at(-1) === ''
  if (folder) parts.pop()
  return { segments: parts.map(decodeName), folder }
}

/** The path as a URL has it. */
export function printStoragePath({ segments, folder }: StoragePath): string {
  return `/${segments.map(encodeURIComponent).join('/')}${folder && segments.length > 0 ? '/' : ''}`
}

function decodeName(part: string): string {
  let name: string
  try {
    name = decodeURIComponent(part)
  } catch {
    throw malformed('a name is not UTF-8, percent-encoded')
  }
  return checkName(name)
}

/** Gives back the names of a path that {@link parseStoragePath} could have given. @throws {TimoneError} as it does */
export function checkNames(segments: readonly string[]): string[] {
  const names = segments.map(checkName)
  if (printStoragePath({ segments: names, folder: true }).length > MAX_PATH) throw tooLong()
  return names
}

/** Gives back a name that a document or folder may have. @throws {TimoneError} `malformed` or `uri_too_long` */
function checkName(name: string): string {
  if (name === '' || name === '.' || name === '..') throw malformed('a name may not be empty, . or ..')
  if (/[/\0]/.test(name)) throw malformed('a name may hold neither / nor NUL')
  // A URL with bytes outside of ASCII is none; half of a surrogate pair has no UTF-8.
  if (!name.isWellFormed()) throw malformed('a name is not UTF-8')
  if (Buffer.byteLength(toGitName(name)) > MAX_NAME) throw tooLong()
  return name
}

function malformed(why: string): TimoneError {
  return new TimoneError('malformed', `malformed path: ${why}`)
}

function tooLong(): TimoneError {
  return new TimoneError(
    'uri_too_long',
    `a name may have ${MAX_NAME} bytes, a path ${MAX_PATH}: choose shorter ones`,
  )
}

/** Code points that HFS+ leaves out when it compares names (git utf8.c, `next_hfs_char`). */
const IGNORED_BY_HFS = /[\u200c-\u200f\u202a-\u202e\u206a-\u206f\ufeff]/g

/**
 * The name under which Git keeps a document or folder. What Git or a clone would take for something of its own
 * (`.git…` in every disguise, NTFS short names as `git~1`, `.lfsconfig`, whatever has a backslash) gets one `%` before
 * it, with `%` and backslash inside written as `%25` and `%5C`; so does a name that begins with `%`.
 */
export function toGitName(name: string): string {
  const plain = name.replace(IGNORED_BY_HFS, '').toLowerCase()
  const odd = /^(\.git|\.lfsconfig|%|gi[^/]*~)/.test(plain) || name.includes('\\')
  return odd ? `%${name.replaceAll('%', '%25').replaceAll('\\', '%5C')}` : name
}

/** What {@link toGitName} was given. */
export function fromGitName(name: string): string {
  return name.startsWith('%') ? name.slice(1).replaceAll('%5C', '\\').replaceAll('%25', '%') : name
}

/** The file of a tree that says what is not in its blobs; no document can have this name. */
const ATTRIBUTES = '.gitattributes'

export { ATTRIBUTES }
