import { describe, expect, test } from 'vitest'
import { describeDuration, parseDuration } from '../../src/config/duration.ts'
import { isTimoneError } from '../../src/errors.ts'

describe('parseDuration', () => {
  test.each([
    ['3600', 3600],
    ['1s', 1],
    ['90m', 5400],
    ['12h', 43_200],
    ['30d', 2_592_000],
    ['2w', 1_209_600],
    [' 5m ', 300],
  ])('%j is %d seconds', (text, seconds) => expect(parseDuration(text)).toBe(seconds))

  test.each(['', '0', '0d', '-1', '1.5h', '1y', '1 h', 'h', '1h30m', '1e3', 'Infinity', '999999999999w'])(
    'refuses %j',
    (text) => {
      expect(() => parseDuration(text)).toThrow(expect.toSatisfy((error) => isTimoneError(error, 'config')))
    },
  )
})

test.each([
  [0, '0 seconds'],
  [1, '1 second'],
  [61, '1 minute 1 second'],
  [3600, '1 hour'],
  [90_061, '1 day 1 hour'],
  [2_592_000, '30 days'],
])('describeDuration(%d) is %j', (seconds, words) => expect(describeDuration(seconds)).toBe(words))
