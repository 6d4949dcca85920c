import { describe, expect, test } from 'vitest'
import { Presence } from '../../src/lfs/presence.ts'
import { fakeStore } from '../server/harness.ts'

const keys = (count: number, prefix = 'k') => Array.from({ length: count }, (_, index) => `${prefix}${index}`)

describe('looking up many objects', () => {
  test('answers in the order asked, absent ones as undefined', async () => {
    const store = fakeStore({
      head: async (key) => {
        await new Promise((resolve) => setTimeout(resolve, Math.random() * 5))
        const size = Number(key.slice(1))
        return size % 2 === 0 ? { size, etag: '"e"' } : undefined
      },
    })
    const presence = new Presence({ store })
    const sizes = await presence.sizes(keys(200), {})
    expect(sizes).toEqual(keys(200).map((_, index) => (index % 2 === 0 ? index : undefined)))
    expect(await presence.sizes([], {})).toEqual([])
  })

  test('trusts what was seen only where it has the size asked for', async () => {
    let heads = 0
    let size = 5
    const store = fakeStore({
      head: async () => {
        heads++
        return { size, etag: '"e"' }
      },
    })
    const presence = new Presence({ store })
    expect(await presence.sizes(['k'], { recent: [5] })).toEqual([5])
    expect(await presence.sizes(['k'], { recent: [5] })).toEqual([5])
    expect(heads).toBe(1)
    // Healed by another upload: what was seen is another object's.
    size = 9
    expect(await presence.sizes(['k'], { recent: [9] })).toEqual([9])
    expect(heads).toBe(2)
  })

  test('a small request is served while a large one is under way', async () => {
    let large = 0
    const store = fakeStore({
      head: async (key) => {
        await new Promise((resolve) => setImmediate(resolve))
        if (key.startsWith('l')) large++
        return undefined
      },
    })
    const presence = new Presence({ store, limit: 4 })
    const all = presence.sizes(keys(1000, 'l'), {})
    await presence.sizes(keys(4, 's'), {})
    expect(large).toBeLessThan(100)
    await all
    expect(large).toBe(1000)
  })

  test('one failure ends it: no more is looked up', async () => {
    let heads = 0
    const store = fakeStore({
      head: async () => {
        if (++heads === 10) throw new Error('down')
        await new Promise((resolve) => setImmediate(resolve))
        return undefined
      },
    })
    const presence = new Presence({ store, limit: 4 })
    await expect(presence.sizes(keys(1000), {})).rejects.toThrow('down')
    await new Promise((resolve) => setTimeout(resolve, 20))
    expect(heads).toBeLessThan(20)
    expect(await presence.sizes(keys(4), {})).toEqual(Array(4).fill(undefined))
  })

  test('a request that takes too long is told to come back, and goes on from there', async () => {
    let heads = 0
    let slow = true
    const store = fakeStore({
      head: async (_key, options) => {
        heads++
        if (slow && heads > 30) {
          await new Promise((_resolve, reject) => {
            options?.signal?.addEventListener('abort', () => reject(new Error('aborted')))
          })
        }
        return { size: 1, etag: '"e"' }
      },
    })
    const presence = new Presence({ store, limit: 4, deadline: 50 })
    await expect(presence.sizes(keys(100), {})).rejects.toMatchObject({
      code: 'timeout',
      retryAfter: 1,
    })
    slow = false
    heads = 0
    expect(await presence.sizes(keys(100), {})).toEqual(Array(100).fill(1))
    expect(heads).toBe(70)
    heads = 0
    await presence.sizes(keys(100), {})
    expect(heads).toBe(100)
  })

  test('a client that goes away stops it', async () => {
    const gone = new AbortController()
    let heads = 0
    const store = fakeStore({
      head: async () => {
        if (++heads === 10) gone.abort()
        await new Promise((resolve) => setImmediate(resolve))
        return undefined
      },
    })
    const presence = new Presence({ store, limit: 4 })
    const looking = presence.sizes(keys(1000), { signal: gone.signal })
    await expect(looking).rejects.toMatchObject({ code: 'cancelled' })
    expect(heads).toBeLessThan(20)
  })
})
