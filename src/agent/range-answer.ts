import type { HttpResponse } from '../access/http-client.ts'
import { TimoneError } from '../errors.ts'
import type { GetRequest } from './object-access.ts'

/** What is asked for, and of which object. */
export interface Asked {
  offset: number
  /** Excluded. */
  end: number
  size: number
  host: string
  /** Entity tag that the object must still have; undefined: not known yet. */
  etag: string | undefined
}

/** The conditions of a request for a part of an object of `size` bytes, as headers. */
export function rangeHeaders({ offset, end, etag }: GetRequest, size: number): Record<string, string> {
  const last = end ?? size
  return {
    ...(offset === 0 && last >= size ? {} : { range: `bytes=${offset}-${last - 1}` }),
    ...(etag === undefined ? {} : { 'if-match': etag }),
  }
}

/**
 * Checks that an answer holds what was asked for (RFC 9110, section 15.3.7). Any other answer is dropped with its connection.
 * @returns the end of what it holds, excluded: not behind what was asked for, unless it is the whole object (200)
 * @throws `unavailable` (another range), `size_mismatch`, `precondition_failed` (another version)
 */
export function checkAnswer(response: HttpResponse, asked: Asked): number {
  try {
    return endOf(response, asked)
  } catch (error) {
    response.body.destroy()
    throw error
  }
}

function endOf({ status, headers }: HttpResponse, { offset, end, size, host, etag }: Asked): number {
  if (etag !== undefined && headers.etag !== undefined && headers.etag !== etag) {
    throw new TimoneError('precondition_failed', `${host} has another version of the object by now`)
  }
  if (status === 200) {
    const length = headers['content-length']
    if (length !== undefined && Number(length) !== size) throw wrongSize(Number(length), size)
    return size
  }
  const match = /^bytes (\d{1,16})-(\d{1,16})\/(\d{1,16}|\*)$/.exec(headers['content-range'] ?? '')
  if (status !== 206 || match === null || Number(match[1]) !== offset) throw otherRange(host)
  if (match[3] !== '*' && Number(match[3]) !== size) throw wrongSize(Number(match[3]), size)
  const found = Number(match[2]) + 1
  if (found <= offset || found > end) throw otherRange(host)
  return found
}

const otherRange = (host: string): TimoneError =>
  new TimoneError('unavailable', `${host} answered another range than asked for`, { host })

const wrongSize = (found: number, size: number): TimoneError =>
  new TimoneError(
    'size_mismatch',
    `the stored object has ${found} bytes, not ${size}: push it again from a good clone`,
  )
