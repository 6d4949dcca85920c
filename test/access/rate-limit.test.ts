import { describe, expect, test } from 'vitest'
import { RateLimit } from '../../src/access/rate-limit.ts'
import { isTimoneError, type TimoneError } from '../../src/errors.ts'

function refusal(limit: RateLimit, subject: string): TimoneError | undefined {
  try {
    limit.take(subject)
    return undefined
  } catch (error) {
    if (isTimoneError(error, 'rate_limited')) return error
    throw error
  }
}

describe('rate limit', () => {
  test('so many at once, then as time goes by', () => {
    let now = 1_000_000
    const limit = new RateLimit(30, () => now)
    for (let count = 0; count < 30; count++) limit.take('ada')
    expect(refusal(limit, 'ada')).toMatchObject({ retryAfter: 2 })
    now += 1900
    expect(refusal(limit, 'ada')).toMatchObject({ retryAfter: 1 })
    now += 200
    limit.take('ada')
    expect(refusal(limit, 'ada')).toBeDefined()
    now += 3600_000
    for (let count = 0; count < 30; count++) limit.take('ada')
    expect(refusal(limit, 'ada')).toBeDefined()
  })

  test('each has their own', () => {
    const limit = new RateLimit(1, () => 0)
    limit.take('ada')
    limit.take('bob')
    expect(refusal(limit, 'ada')).toBeDefined()
  })

  test('0 is no limit', () => {
    const limit = new RateLimit(0, () => 0)
    for (let count = 0; count < 1000; count++) limit.take('ada')
  })

  test('a clock that is set back neither gives nor takes', () => {
    let now = 1_000_000
    const limit = new RateLimit(2, () => now)
    limit.take('ada')
    now -= 500_000
    limit.take('ada')
    expect(refusal(limit, 'ada')).toBeDefined()
  })

  test('who has waited long enough is forgotten, the others are not', () => {
    let now = 0
    const limit = new RateLimit(1, () => now)
    for (let count = 0; count < 10_000; count++) limit.take(`user${count}`)
    now = 59_000
    limit.take('late')
    now = 61_000
    limit.take('another')
    expect(refusal(limit, 'late')).toBeDefined()
    limit.take('user0')
  })
})
