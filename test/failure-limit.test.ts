import { expect, test } from 'vitest'
import { FailureLimit } from '../src/failure-limit.ts'

test('each source has its own count, which ends with its window', () => {
  let now = 1_000_000
  const limit = new FailureLimit({ most: 2, window: 60_000, message: 'wait', now: () => now })
  for (const source of ['a', 'b']) {
    limit.check(source)
    limit.count(source)
    limit.count(source)
  }
  expect(() => limit.count('a')).toThrow('wait')
  expect(() => limit.check('b')).toThrow('wait')
  limit.check('c')
  now += 59_000
  expect(() => limit.check('a')).toThrow(expect.objectContaining({ code: 'rate_limited', retryAfter: 1 }))
  now += 1000
  limit.check('a')
  limit.count('a')
})

test('many sources do not fill the memory, and do not free the newest', () => {
  const limit = new FailureLimit({ most: 1, window: 60_000, message: 'wait', now: () => 0 })
  for (let at = 0; at <= 10_000; at++) limit.count(`${at}`)
  limit.check('0')
  expect(() => limit.check('10000')).toThrow('wait')
})
