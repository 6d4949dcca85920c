import { TimoneError } from '../errors.ts'

const SECONDS: Readonly<Record<string, number>> = { s: 1, m: 60, h: 3600, d: 86_400, w: 604_800 }

/**
 * Reads a length of time: whole seconds (`3600`), or a number with `s`, `m`, `h`, `d` or `w` (`90m`, `30d`).
 * @returns whole seconds, above 0
 * @throws {TimoneError} `config`
 */
export function parseDuration(text: string): number {
  const [, digits, unit] = /^(\d{1,12})([smhdw]?)$/.exec(text.trim()) ?? []
  const seconds = Number(digits) * (SECONDS[unit || 's'] ?? Number.NaN)
  if (!Number.isSafeInteger(seconds) || seconds <= 0) {
    throw new TimoneError('config', `'${text}' is not a length of time, such as 3600, 90m, 12h or 30d`)
  }
  return seconds
}

/** A length of time for people, in its two largest units: `2 days 3 hours`. @param seconds 0 or more */
export function describeDuration(seconds: number): string {
  const parts: string[] = []
  let rest = Math.floor(seconds)
  for (const [name, length] of [
    ['day', 86_400],
    ['hour', 3600],
    ['minute', 60],
    ['second', 1],
  ] as const) {
    const count = Math.floor(rest / length)
    rest -= count * length
    if (count > 0) parts.push(`${count} ${name}${count === 1 ? '' : 's'}`)
  }
  return parts.length === 0 ? '0 seconds' : parts.slice(0, 2).join(' ')
}
