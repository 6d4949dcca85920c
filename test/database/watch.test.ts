import { afterEach, beforeEach, expect, test, vi } from 'vitest'
import { watchDatabase } from '../../src/database/watch.ts'

beforeEach(() => void vi.useFakeTimers())
afterEach(() => void vi.useRealTimers())

function watched() {
  const state = { works: true, lost: 0 }
  const stop = watchDatabase(
    {
      check: async () => {
        if (!state.works) throw new RangeError('away')
      },
    },
    { lost: () => state.lost++, now: () => Date.now() },
  )
  return { state, stop }
}

test('away for more than ten seconds is lost, told once', async () => {
  const { state } = watched()
  await vi.advanceTimersByTimeAsync(60_000)
  state.works = false
  await vi.advanceTimersByTimeAsync(10_000)
  expect(state.lost).toBe(0)
  await vi.advanceTimersByTimeAsync(4_000)
  expect(state.lost).toBe(1)
  await vi.advanceTimersByTimeAsync(60_000)
  expect(state.lost).toBe(1)
})

test('away for a moment, again and again, is not lost', async () => {
  const { state, stop } = watched()
  for (let turn = 0; turn < 10; turn++) {
    state.works = false
    await vi.advanceTimersByTimeAsync(7_000)
    state.works = true
    await vi.advanceTimersByTimeAsync(3_000)
  }
  expect(state.lost).toBe(0)
  stop()
  state.works = false
  await vi.advanceTimersByTimeAsync(60_000)
  expect(state.lost).toBe(0)
})
