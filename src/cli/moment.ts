import { parseDuration } from '../config/duration.ts'
import { TimoneError } from '../errors.ts'

/**
 * Reads a point in time: a day (`2026-01-31`, its beginning in UTC), a time with its zone (`2026-01-31T12:00:00Z`), or
 * how long ago it was (`90d`).
 * @returns milliseconds since the epoch
 * @throws {TimoneError} `config`
 */
export function parseMoment(text: string, now: number): number {
  const isTime = /^\d{4}-\d\d-\d\d(T\d\d:\d\d(:\d\d(\.\d{1,3})?)?(Z|[+-]\d\d:\d\d))?$/.test(text)
  if (!isTime) {
    try {
      return now - parseDuration(text) * 1000
    } catch (cause) {
      throw new TimoneError(
        'config',
        `'${text}' is no time: say 2026-01-31, 2026-01-31T12:00:00Z, or how long ago, as in 90d`,
        { cause },
      )
    }
  }
  const time = Date.parse(text)
  if (Number.isNaN(time)) throw new TimoneError('config', `there is no such time: ${text}`)
  return time
}
