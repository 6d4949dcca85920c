import { describe, expect, test } from 'vitest'
import { PartLanes } from '../../src/agent/part-lanes.ts'
import { TimoneError } from '../../src/errors.ts'

const MIB = 2 ** 20

/**
 * Sends `parts` parts of 8 MiB over a line of `total` bytes a second, of which each connection gets `each` at most; on
 * a clock of its own. Gives the widths that the lanes had and the seconds it took.
 */
async function send(
  parts: number,
  { each, total, most = 16 }: { each: number; total: number; most?: number },
): Promise<{ widths: number[]; seconds: number; peak: number }> {
  let now = 0
  const lanes = new PartLanes(most, () => now)
  const left = new Set<{ bytes: number }>()
  const widths = [lanes.width]
  let waiting = 0
  let peak = 0
  for (let number = 0; number < parts; number++) {
    waiting++
    void lanes.enter().then(() => {
      waiting--
      left.add({ bytes: 8 * MIB })
      peak = Math.max(peak, left.size)
    })
  }
  for (;;) {
    await new Promise((resolve) => setImmediate(resolve))
    if (left.size === 0 && waiting === 0) return { widths, seconds: now / 1000, peak }
    const rate = Math.min(each, total / left.size)
    now += 10
    for (const part of left) {
      part.bytes -= rate / 100
      if (part.bytes > 0) continue
      left.delete(part)
      lanes.leave(8 * MIB)
      if (lanes.width !== widths.at(-1)) widths.push(lanes.width)
    }
  }
}

describe('PartLanes', () => {
  test('a line that is slow for each connection gets all lanes', async () => {
    const { widths, seconds } = await send(128, { each: 20 * MIB, total: 1000 * MIB })
    expect(widths.slice(0, 3)).toEqual([4, 8, 16])
    expect(widths.at(-1)).toBe(16)
    // One connection takes 51.2 s.
    expect(seconds).toBeLessThan(51.2 / 10)
  })

  test('a line that four connections fill is left to four, but for a try now and then', async () => {
    const { widths } = await send(512, { each: 400 * MIB, total: 400 * MIB })
    expect(widths.slice(0, 3)).toEqual([4, 8, 4])
    expect(Math.max(...widths)).toBe(8)
    // 512 parts are at most 128 windows of 4, each 16 of them followed by a try.
    expect(widths.filter((width) => width === 8).length).toBeLessThanOrEqual(8)
  })

  test('a line that eight fill gets eight', async () => {
    const { widths } = await send(256, { each: 50 * MIB, total: 400 * MIB })
    expect(widths.slice(0, 4)).toEqual([4, 8, 16, 8])
  })

  test('never more than the setting says', async () => {
    for (const most of [1, 3, 6]) {
      const { widths, peak } = await send(64, { each: 20 * MIB, total: 1000 * MIB, most })
      expect(Math.max(...widths)).toBe(most)
      expect(peak).toBe(most)
    }
  })

  test('few objects that do not fill the lanes say nothing about the line', async () => {
    let now = 0
    const lanes = new PartLanes(16, () => now)
    for (let part = 0; part < 100; part++) {
      await lanes.enter()
      now += 100
      lanes.leave(MIB)
    }
    expect(lanes.width).toBe(4)
  })

  test('a wait ends when it is cancelled, and takes no lane', async () => {
    const lanes = new PartLanes(1)
    await lanes.enter()
    const stop = new AbortController()
    const waiting = lanes.enter(stop.signal)
    const next = lanes.enter()
    stop.abort(new TimoneError('cancelled', 'enough'))
    await expect(waiting).rejects.toMatchObject({ code: 'cancelled' })
    lanes.leave(0)
    await next
    lanes.leave(0)
    await lanes.enter(new AbortController().signal)
  })

  test('a wait that is cancelled just when its turn comes gives the lane on', async () => {
    const lanes = new PartLanes(1)
    await lanes.enter()
    const stop = new AbortController()
    const waiting = lanes.enter(stop.signal)
    const next = lanes.enter()
    lanes.leave(0)
    stop.abort(new TimoneError('cancelled', 'enough'))
    await expect(waiting).rejects.toMatchObject({ code: 'cancelled' })
    await next
  })
})
