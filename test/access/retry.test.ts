import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest'
import { askFirstAfterFailure, pause, Retrier } from '../../src/access/retry.ts'
import { type ErrorCode, TimoneError } from '../../src/errors.ts'

const fail = (code: ErrorCode, retryAfter?: number): TimoneError =>
  new TimoneError(code, `it was ${code}`, retryAfter === undefined ? {} : { retryAfter })

/** Always fails with `error`; counts the tries. */
function failing(error: unknown) {
  const attempt = vi.fn(async (): Promise<never> => {
    throw error
  })
  return attempt
}

beforeEach(() => {
  vi.useFakeTimers()
})
afterEach(() => {
  vi.useRealTimers()
})

/** Runs `work` to its end on fake time; gives its error and how long it took, seconds. */
async function outcome(work: Promise<unknown>): Promise<{ error: unknown; seconds: number }> {
  const start = Date.now()
  let error: unknown
  const done = work.catch((reason: unknown) => {
    error = reason
  })
  await vi.runAllTimersAsync()
  await done
  return { error, seconds: (Date.now() - start) / 1000 }
}

describe('Retrier', () => {
  test('doubles its pauses up to the longest, between half and whole of them by chance', async () => {
    for (const [random, share] of [
      [0, 0.5],
      [0.999999, 1],
    ] as const) {
      const delays: number[] = []
      const retrier = new Retrier({ retries: 8, maxDelay: 10 })
      const { error } = await outcome(
        retrier.run('host', failing(fail('unavailable')), {
          random: () => random,
          onRetry: (_error, delay) => delays.push(delay),
        }),
      )
      expect(error).toMatchObject({ code: 'unavailable', message: 'it was unavailable (9 tries)' })
      const expected = [0.25, 0.5, 1, 2, 4, 8, 10, 10].map((ceiling) => ceiling * share)
      expect(delays).toHaveLength(8)
      for (const [index, delay] of delays.entries()) expect(delay).toBeCloseTo(expected[index] as number, 3)
    }
  })

  test('gives the result of the first try that succeeds', async () => {
    const attempt = vi
      .fn<(number: number) => Promise<string>>()
      .mockRejectedValueOnce(fail('timeout'))
      .mockRejectedValueOnce(fail('dns'))
      .mockResolvedValue('here')
    const running = new Retrier({ retries: 8, maxDelay: 10 }).run('host', attempt)
    await vi.runAllTimersAsync()
    expect(await running).toBe('here')
    expect(attempt.mock.calls).toEqual([[0], [1], [2]])
  })

  test.each([0, 1, 7, 300])('waits the %i seconds of Retry-After, no less and no more', async (seconds) => {
    const attempt = vi
      .fn<() => Promise<string>>()
      .mockRejectedValueOnce(fail('throttled', seconds))
      .mockResolvedValue('here')
    const took = await outcome(new Retrier({ retries: 8, maxDelay: 10 }).run('host', attempt))
    expect(took).toEqual({ error: undefined, seconds })
  })

  test('does not wait for a Retry-After of more than five minutes', async () => {
    const attempt = failing(fail('throttled', 301))
    const { error, seconds } = await outcome(new Retrier({ retries: 8, maxDelay: 10 }).run('host', attempt))
    expect(error).toMatchObject({ code: 'throttled', retryAfter: 301 })
    expect(seconds).toBe(0)
    expect(attempt).toHaveBeenCalledTimes(1)
  })

  test.each([
    'denied',
    'forbidden',
    'hash_mismatch',
    'invalid',
    'no_such_bucket',
    'not_found',
    'proxy',
    'tls',
    'unauthorized',
    'wrong_region',
  ] as ErrorCode[])('tries %s once only', async (code) => {
    const attempt = failing(fail(code))
    const { error, seconds } = await outcome(new Retrier({ retries: 8, maxDelay: 10 }).run('host', attempt))
    expect(error).toMatchObject({ code, message: `it was ${code}` })
    expect(seconds).toBe(0)
    expect(attempt).toHaveBeenCalledTimes(1)
  })

  test('does not try again after a mistake of the program', async () => {
    const attempt = failing(new RangeError('a mistake'))
    const { error } = await outcome(new Retrier({ retries: 8, maxDelay: 10 }).run('host', attempt))
    expect(error).toBeInstanceOf(RangeError)
    expect(attempt).toHaveBeenCalledTimes(1)
  })

  test('a host that used up all tries gets one for each further request, until one succeeds', async () => {
    const retrier = new Retrier({ retries: 3, maxDelay: 10 })
    await outcome(retrier.run('dead', failing(fail('connection'))))
    const second = failing(fail('connection'))
    expect((await outcome(retrier.run('dead', second))).seconds).toBe(0)
    expect(second).toHaveBeenCalledTimes(1)

    const other = failing(fail('connection'))
    await outcome(retrier.run('other', other))
    expect(other).toHaveBeenCalledTimes(4)

    expect(await retrier.run('dead', async () => 'back')).toBe('back')
    const third = failing(fail('connection'))
    await outcome(retrier.run('dead', third))
    expect(third).toHaveBeenCalledTimes(4)
  })

  test('an interruption ends the pause at once', async () => {
    const stop = new AbortController()
    const attempt = failing(fail('throttled', 200))
    const running = new Retrier({ retries: 8, maxDelay: 10 })
      .run('host', attempt, { signal: stop.signal })
      .catch((error: unknown) => error)
    await vi.advanceTimersByTimeAsync(1000)
    stop.abort()
    expect(await running).toMatchObject({ code: 'cancelled' })
    expect(attempt).toHaveBeenCalledTimes(1)
    expect(vi.getTimerCount()).toBe(0)
  })

  test('an interruption from before is not even tried', async () => {
    const attempt = failing(fail('connection'))
    const { error } = await outcome(
      new Retrier({ retries: 8, maxDelay: 10 }).run('host', attempt, { signal: AbortSignal.abort() }),
    )
    expect(error).toMatchObject({ code: 'cancelled' })
    expect(attempt).not.toHaveBeenCalled()
  })

  test('the last error keeps host, status and request id', async () => {
    const error = new TimoneError('unavailable', 'broken', { status: 500, host: 'a:1', requestId: 'r-9' })
    const got = await outcome(new Retrier({ retries: 1, maxDelay: 1 }).run('a:1', failing(error)))
    expect(got.error).toMatchObject({ status: 500, host: 'a:1', requestId: 'r-9', cause: error })
  })
})

test('a pause that is over leaves nothing behind on the signal', async () => {
  const stop = new AbortController()
  const remove = vi.spyOn(stop.signal, 'removeEventListener')
  const waiting = pause(500, stop.signal)
  await vi.advanceTimersByTimeAsync(500)
  await waiting
  expect(remove).toHaveBeenCalledTimes(1)
})

test('only a broken connection makes the next try ask before it sends', async () => {
  const asked: boolean[] = []
  const errors = [fail('unavailable'), fail('connection'), fail('timeout')]
  const attempt = askFirstAfterFailure(async (ask) => {
    asked.push(ask)
    const error = errors.shift()
    if (error !== undefined) throw error
  })
  for (let number = 0; number < 4; number++) await attempt().catch(() => {})
  expect(asked).toEqual([false, false, true, true])
})
