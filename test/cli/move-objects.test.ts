import { setImmediate as turn } from 'node:timers/promises'
import { describe, expect, test } from 'vitest'
import type { BatchVerdict, WantedObject } from '../../src/agent/batch-client.ts'
import { type MoveOptions, moveObjects, type NamedObject } from '../../src/cli/move-objects.ts'
import { Tally } from '../../src/cli/tally.ts'
import { TimoneError } from '../../src/errors.ts'
import type { Oid } from '../../src/oid.ts'

async function* named(count: number): AsyncGenerator<NamedObject> {
  for (let at = 0; at < count; at++) yield { oid: String(at) as Oid, size: 10, path: `${at}.bin` }
}

/** Everything that is moved, and how; the server and the engine are the test's. */
function scene(count: number, change: Partial<MoveOptions> = {}) {
  const tally = new Tally()
  const seen = { batches: [] as number[], active: 0, most: 0, moved: [] as string[], failed: [] as string[] }
  const move: BatchVerdict = { kind: 'move', action: { href: 'http://x/', header: {} }, verify: undefined }
  const stop = new AbortController()
  const options: MoveOptions = {
    operation: 'download',
    objects: named(count),
    batch: {
      ask: async (objects: readonly WantedObject[]) => {
        seen.batches.push(objects.length)
        return objects.map(() => move)
      },
    },
    transfer: async (_message, progress) => {
      seen.most = Math.max(seen.most, ++seen.active)
      progress.add(5)
      await turn()
      seen.active--
      return { path: 'x' }
    },
    source: async () => 'x',
    verify: async () => {},
    arrived: async ({ oid }) => {
      seen.moved.push(oid)
    },
    failed: ({ oid }) => {
      seen.failed.push(oid)
    },
    tally,
    signal: stop.signal,
    ...change,
  }
  return { seen, tally, stop, done: moveObjects(options), move }
}

describe('moving', () => {
  test('a small batch first, then large ones; many at once, but not too many; every byte counted once', async () => {
    const { seen, tally, done } = scene(2500)
    expect(await done).toEqual({ foreign: [] })
    expect(seen.batches).toEqual([100, 1000, 1000, 400])
    expect(seen.most).toBe(128)
    expect(new Set(seen.moved).size).toBe(2500)
    expect(tally).toMatchObject({
      objects: 2500,
      doneObjects: 2500,
      bytes: 25_000,
      doneBytes: 25_000,
      complete: true,
    })
  })

  test('the next batch is asked for while the last one moves', async () => {
    let release = (): void => {}
    const held = new Promise<void>((resolve) => {
      release = resolve
    })
    const { seen, done } = scene(1100, {
      transfer: async () => {
        await held
        return {}
      },
    })
    while (seen.batches.length < 2) await turn()
    expect(seen.moved).toEqual([])
    release()
    await done
    expect(seen.moved).toHaveLength(1100)
  })

  test('a failed object is told, its bytes are taken back, and the others go on', async () => {
    const { seen, tally, done } = scene(50, {
      transfer: async ({ oid }, progress) => {
        progress.add(5)
        if (oid === '7') throw new TimoneError('hash_mismatch', 'damaged')
        return {}
      },
    })
    await done
    expect(seen.failed).toEqual(['7'])
    expect(tally).toMatchObject({ objects: 50, doneObjects: 49, doneBytes: 490 })
  })

  test('a full disk stops what has not begun', async () => {
    const { seen, done } = scene(5000, {
      transfer: async () => {
        throw new TimoneError('disk_full', 'no room')
      },
    })
    await expect(done).rejects.toMatchObject({ code: 'disk_full' })
    expect(seen.failed.length).toBeLessThanOrEqual(128)
  })

  test('a server that refuses a whole batch ends it, after what moves has moved', async () => {
    let asked = 0
    const { seen, done, move } = scene(1100, {
      batch: {
        ask: async (objects) => {
          if (++asked > 1) throw new TimoneError('unauthorized', 'no more')
          return objects.map(() => move)
        },
      },
    })
    await expect(done).rejects.toMatchObject({ code: 'unauthorized' })
    expect(seen.moved).toHaveLength(100)
  })

  test('interruption: no failure is told, and it ends although transfers hang until then', async () => {
    const { seen, stop, done } = scene(300, {
      transfer: (_message, _progress, signal) =>
        new Promise((_, reject) => signal.addEventListener('abort', () => reject(signal.reason))),
    })
    while (seen.batches.length < 2) await turn()
    stop.abort(new TimoneError('cancelled', 'interrupted'))
    await expect(done).rejects.toMatchObject({ code: 'cancelled' })
    expect(seen.failed).toEqual([])
  })

  test('another kind of transfer: all are handed back, and the server is asked once', async () => {
    let asked = 0
    const { done, tally } = scene(2000, {
      batch: {
        ask: async (objects) => {
          asked++
          return objects.map(() => ({ kind: 'foreign', transfer: 'basic' }))
        },
      },
    })
    expect((await done).foreign).toHaveLength(2000)
    expect(asked).toBe(1)
    expect(tally).toMatchObject({ objects: 0, bytes: 0 })
  })

  test('present and refused ones', async () => {
    const { done, tally, seen } = scene(4, {
      operation: 'upload',
      batch: {
        ask: async (objects) =>
          objects.map(({ oid }) =>
            oid === '0' ? { kind: 'failed', error: new TimoneError('invalid', 'no') } : { kind: 'present' },
          ),
      },
    })
    await done
    expect(seen.failed).toEqual(['0'])
    expect(tally).toMatchObject({ skipped: 3, doneObjects: 0, objects: 0 })
  })

  test('what the store itself has acknowledged is confirmed many at a time, all else one by one', async () => {
    const verify: BatchVerdict = {
      kind: 'move',
      action: { href: 'http://x/', header: {} },
      verify: { href: 'http://x/verify', header: {} },
    }
    const verified: string[] = []
    const confirmed: string[][] = []
    const { done, tally, seen } = scene(10, {
      operation: 'upload',
      batch: { ask: async (objects) => objects.map(() => verify) },
      transfer: async ({ oid }) => ({ stored: Number(oid) % 2 === 0 }),
      verify: async ({ oid }) => {
        verified.push(oid)
      },
      confirm: async (objects) => {
        confirmed.push(objects.map(({ oid }) => oid))
        return objects.map(({ oid }) =>
          oid === '4' ? { kind: 'failed', error: new TimoneError('not_found', 'gone') } : verify,
        )
      },
    })
    await done
    expect(verified.sort()).toEqual(['1', '3', '5', '7', '9'])
    expect(confirmed.map((group) => group.sort())).toEqual([['0', '2', '4', '6', '8']])
    expect(seen.failed).toEqual(['4'])
    expect(seen.moved).toHaveLength(9)
    expect(tally).toMatchObject({ doneObjects: 9, doneBytes: 90 })
  })

  test('a confirmation that cannot be had fails the push', async () => {
    const verify: BatchVerdict = {
      kind: 'move',
      action: { href: 'http://x/', header: {} },
      verify: { href: 'http://x/verify', header: {} },
    }
    const { done, seen } = scene(2, {
      operation: 'upload',
      batch: { ask: async (objects) => objects.map(() => verify) },
      transfer: async () => ({ stored: true }),
      confirm: async () => Promise.reject(new TimoneError('unavailable', 'away')),
    })
    await expect(done).rejects.toThrow('away')
    expect(seen.moved).toEqual([])
  })
})
