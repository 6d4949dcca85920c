import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { Progress, type ProgressReport } from '../../src/agent/progress.ts'

describe('Progress', () => {
  test('reports at the first byte', () => {
    const reports: ProgressReport[] = []
    const progress = new Progress(
      100,
      (report) => reports.push(report) > 0,
      () => 0,
    )
    progress.add(1)
    expect(reports).toEqual([{ bytesSoFar: 1, bytesSinceLast: 1 }])
  })

  test('never falls, never passes the size, sums up to the size and ends with it, whatever is sent again', () => {
    const step = fc.record({
      bytes: fc.integer({ min: -500, max: 1000 }),
      ms: fc.integer({ min: -5000, max: 5000 }),
    })
    fc.assert(
      fc.property(fc.array(step), fc.integer({ min: 1, max: 5000 }), (steps, size) => {
        let time = 1_000_000
        const reports: ProgressReport[] = []
        const progress = new Progress(
          size,
          (report) => reports.push(report) > 0,
          () => time,
        )
        for (const { bytes, ms } of steps) {
          time += ms
          progress.add(bytes)
        }
        progress.finish()
        let before = 0
        for (const { bytesSoFar, bytesSinceLast } of reports) {
          expect(bytesSinceLast).toBeGreaterThan(0)
          expect(bytesSoFar - before).toBe(bytesSinceLast)
          before = bytesSoFar
        }
        expect(before).toBe(size)
      }),
    )
  })

  test('sends at most 10 lines a second', () => {
    let time = 0
    let lines = 0
    const progress = new Progress(
      1e9,
      () => ++lines > 0,
      () => time,
    )
    for (let ms = 0; ms < 2000; ms++) {
      time = ms
      progress.add(10)
    }
    expect(lines).toBeLessThanOrEqual(20)
    expect(lines).toBeGreaterThanOrEqual(19)
  })

  test('keeps the bytes of a line that could not go out for the next one', () => {
    const reports: ProgressReport[] = []
    let free = false
    let time = 0
    const progress = new Progress(
      10,
      (report) => free && reports.push(report) > 0,
      () => time,
    )
    progress.add(4)
    free = true
    time = 200
    progress.add(2)
    expect(reports).toEqual([{ bytesSoFar: 6, bytesSinceLast: 6 }])
  })
})
