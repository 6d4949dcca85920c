import { describe, expect, test } from 'vitest'
import { type PartLock, PartLocks } from '../../src/storage/part-locks.ts'

const settled = async (promise: Promise<unknown>): Promise<boolean> => {
  const pending = Symbol('pending')
  const first = await Promise.race([
    promise.catch(() => {}),
    new Promise((resolve) => setImmediate(() => resolve(pending))),
  ])
  return first !== pending
}

describe('PartLocks', () => {
  test('one writer at a time for a part; others do not wait', async () => {
    const locks = new PartLocks()
    const first = await locks.take('a', 1)
    await locks.take('a', 2)
    await locks.take('b', 1)
    const second = locks.take('a', 1)
    expect(await settled(second)).toBe(false)
    first.release()
    expect((await second).signal.aborted).toBe(false)
  })

  test('any number of waiting writers come in one by one', async () => {
    const locks = new PartLocks()
    let inside = 0
    let most = 0
    const write = async (lock: PartLock) => {
      most = Math.max(most, ++inside)
      await new Promise((resolve) => setImmediate(resolve))
      inside--
      lock.release()
    }
    await Promise.all(Array.from({ length: 20 }, () => locks.take('a', 1).then(write)))
    expect(most).toBe(1)
  })

  test('a silent writer is told to stop, and keeps the part until it has', async () => {
    const locks = new PartLocks(5)
    const silent = await locks.take('a', 1)
    const second = locks.take('a', 1)
    await new Promise((resolve) => silent.signal.addEventListener('abort', resolve))
    expect(silent.signal.reason).toMatchObject({ name: 'TimoneError', code: 'conflict' })
    expect(await settled(second)).toBe(false)
    silent.release()
    await second
  })

  test('a writer that makes progress keeps the part', async () => {
    const locks = new PartLocks(200)
    const busy = await locks.take('a', 1)
    const second = locks.take('a', 1)
    const from = performance.now()
    while (performance.now() - from < 500) {
      busy.progress()
      await new Promise((resolve) => setImmediate(resolve))
    }
    expect(busy.signal.aborted).toBe(false)
    busy.release()
    await second
  })

  test('a writer that waits can be told to give up', async () => {
    const locks = new PartLocks()
    const holder = await locks.take('a', 1)
    const stop = new AbortController()
    const waiting = locks.take('a', 1, stop.signal)
    stop.abort()
    await expect(waiting).rejects.toMatchObject({ name: 'TimoneError', code: 'cancelled' })
    expect(holder.signal.aborted).toBe(false)
  })

  test('shut stops the writers, waits for them and lets none in until it is opened again', async () => {
    const locks = new PartLocks()
    const [one, two] = [await locks.take('a', 1), await locks.take('a', 2)]
    const other = await locks.take('b', 1)
    const waiting = expect(locks.take('a', 1)).rejects.toMatchObject({ code: 'no_such_upload' })
    const shut = locks.shut('a')
    expect([one.signal.aborted, two.signal.aborted, other.signal.aborted]).toEqual([true, true, false])
    one.release()
    expect(await settled(shut)).toBe(false)
    two.release()
    await shut
    await waiting
    await expect(locks.take('a', 3)).rejects.toMatchObject({ name: 'TimoneError', code: 'no_such_upload' })
    locks.reopen('a')
    await locks.take('a', 3)
  })

  test('the caller’s own abort reaches the writer too', async () => {
    const stop = new AbortController()
    const lock = await new PartLocks().take('a', 1, stop.signal)
    stop.abort()
    expect(lock.signal.aborted).toBe(true)
  })
})
