import { describe, expect, test } from 'vitest'
import { PartBuffers } from '../../src/agent/part-buffers.ts'
import { TimoneError } from '../../src/errors.ts'

const MIB = 2 ** 20

/** What a promise has come to by now. */
async function settled<T>(work: Promise<T> | T): Promise<T | 'waiting'> {
  const waiting = new Promise<'waiting'>((resolve) => setImmediate(() => resolve('waiting')))
  return Promise.race([work, waiting])
}

describe('PartBuffers', () => {
  test('gives buffers of the size asked for, each with memory of its own', async () => {
    const buffers = new PartBuffers(MIB)
    const taken = await Promise.all([1, 4096, 4097, 100_000, 0].map((size) => buffers.take(size)))
    expect(taken.map(({ length }) => length)).toEqual([1, 4096, 4097, 100_000, 0])
    for (const [index, buffer] of taken.entries()) buffer.fill(index + 1)
    for (const [index, buffer] of taken.entries()) {
      expect(buffer.every((byte) => byte === index + 1)).toBe(true)
    }
    for (const buffer of taken) buffers.give(buffer)
    expect(buffers.used).toBe(0)
  })

  test('begins each on a page of one arena, and uses the same memory again', async () => {
    const buffers = new PartBuffers(MIB)
    const first = await buffers.take(10_000)
    const second = await buffers.take(10_000)
    expect(second.buffer).toBe(first.buffer)
    expect([first.byteOffset % 4096, second.byteOffset % 4096]).toEqual([0, 0])
    buffers.give(first)
    expect((await buffers.take(5_000)).byteOffset).toBe(first.byteOffset)
  })

  test('keeps to its budget: who does not fit waits until something is given back', async () => {
    const buffers = new PartBuffers(MIB)
    const taken = await Promise.all([1, 2, 3, 4].map(() => buffers.take(MIB / 4)))
    const fifth = buffers.take(MIB / 4)
    expect(await settled(fifth)).toBe('waiting')
    expect(buffers.used).toBe(MIB)
    buffers.give(taken[2] as Buffer)
    const got = await fifth
    expect(got.byteOffset).toBe((taken[2] as Buffer).byteOffset)
    expect(buffers.used).toBe(MIB)
  })

  test('serves in the order of asking: small ones do not go past a large one', async () => {
    const buffers = new PartBuffers(MIB)
    const taken = await Promise.all([1, 2, 3, 4].map(() => buffers.take(MIB / 4)))
    const order: string[] = []
    const large = Promise.resolve(buffers.take(MIB / 4)).then(() => order.push('large'))
    const small = Promise.resolve(buffers.take(10)).then(() => order.push('small'))
    buffers.give(taken[0] as Buffer)
    buffers.give(taken[1] as Buffer)
    await Promise.all([large, small])
    expect(order).toEqual(['large', 'small'])
  })

  test('joins what is given back, in any order, into room for a large one', async () => {
    for (const order of [
      [0, 1, 2, 3],
      [3, 2, 1, 0],
      [1, 3, 0, 2],
    ]) {
      const buffers = new PartBuffers(4 * 65_536)
      const taken = await Promise.all([1, 2, 3, 4].map(() => buffers.take(65_536)))
      for (const index of order) buffers.give(taken[index] as Buffer)
      const again = await Promise.all([1, 2, 3, 4].map(() => buffers.take(65_536)))
      expect(new Set(again.map(({ byteOffset }) => byteOffset)).size).toBe(4)
    }
  })

  test('a wait that is cancelled makes room for those behind it', async () => {
    const buffers = new PartBuffers(MIB)
    const taken = await Promise.all([1, 2, 3].map(() => buffers.take(MIB / 4)))
    const stop = new AbortController()
    const held = await buffers.take(MIB / 8)
    const large = Promise.resolve(buffers.take(MIB / 4, stop.signal))
    const small = buffers.take(10)
    expect(await settled(small)).toBe('waiting')
    stop.abort(new TimoneError('cancelled', 'enough'))
    await expect(large).rejects.toMatchObject({ code: 'cancelled', message: 'enough' })
    const got = await small
    for (const buffer of [...taken, held, got]) buffers.give(buffer)
    expect(buffers.used).toBe(0)
  })

  test('what is given back twice, or never was taken, is a mistake', async () => {
    const buffers = new PartBuffers(MIB)
    const buffer = await buffers.take(1)
    buffers.give(buffer)
    expect(() => buffers.give(buffer)).toThrow(TypeError)
    expect(() => buffers.take(MIB)).toThrow(TypeError)
  })

  test('thousands of odd sizes in and out leave nothing behind', async () => {
    const buffers = new PartBuffers(MIB)
    let most = 0
    const work = async (seed: number): Promise<void> => {
      for (let round = 0; round < 100; round++) {
        const buffer = await buffers.take(((seed * 7919 + round * 104_729) % (MIB / 4)) + 1)
        buffer.fill(seed)
        most = Math.max(most, buffers.used)
        await new Promise((resolve) => setImmediate(resolve))
        expect(buffer[0]).toBe(seed)
        expect(buffer.at(-1)).toBe(seed)
        buffers.give(buffer)
      }
    }
    await Promise.all(Array.from({ length: 30 }, (_, seed) => work(seed)))
    expect(most).toBeLessThanOrEqual(MIB)
    expect(buffers.used).toBe(0)
  })
})
