import { isTimoneError, systemCode, TimoneError } from '../errors.ts'

/**
 * A file system error as `TimoneError`. `doing` completes "cannot …" and names the object, not the path on the server:
 * the message may reach a client.
 */
export function fileError(error: unknown, doing: string): TimoneError {
  if (isTimoneError(error)) return error
  const code = systemCode(error)
  const fail = (as: ConstructorParameters<typeof TimoneError>[0], why: string): TimoneError =>
    new TimoneError(as, `cannot ${doing}: ${why}${code === undefined ? '' : ` (${code})`}`, { cause: error })
  switch (code) {
    case 'ENOSPC':
    case 'EDQUOT':
      return fail('disk_full', 'the disk of the storage is full; make room and try again')
    case 'EROFS':
    case 'EACCES':
    case 'EPERM':
      return fail(
        'read_only',
        'the server may not write to or read its storage; check its owner and its mount',
      )
    case 'EMFILE':
    case 'ENFILE':
      return fail('unavailable', 'too many files are open')
    case 'EFBIG':
      return fail('too_large', 'the file system of the storage takes no file of that size')
    case 'ENOTDIR':
    case 'EEXIST':
      return fail('config', 'something that is no folder is in the way in the storage')
    default:
      return fail('internal', 'the storage failed')
  }
}

/** True when `error` says that a file or a folder on the way to it does not exist. */
export function isAbsent(error: unknown): boolean {
  const code = systemCode(error)
  return code === 'ENOENT' || code === 'ENOTDIR'
}
