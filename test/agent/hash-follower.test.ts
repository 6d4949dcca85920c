import { createHash, randomBytes } from 'node:crypto'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest'
import { HashFollower } from '../../src/agent/hash-follower.ts'
import { PartialFile } from '../../src/agent/partial-file.ts'
import { type Piece, RangePlan } from '../../src/agent/range-plan.ts'

const MIB = 2 ** 20
const content = randomBytes(20 * MIB + 3)
const expected = createHash('sha256').update(content).digest('hex')

let folder: string
let file: PartialFile
beforeEach(async () => {
  folder = mkdtempSync(join(tmpdir(), 'timone-hash-'))
  file = (await PartialFile.create(join(folder, 'x'))) as PartialFile
})
afterEach(async () => {
  await file.close()
  rmSync(folder, { recursive: true, force: true })
})

const signal = new AbortController().signal

/** Writes the next `bytes` of a piece as a stream would. */
async function write(hash: HashFollower, piece: Piece, bytes = piece.end - piece.written): Promise<void> {
  const at = piece.written
  const chunk = content.subarray(at, at + bytes)
  hash.writing(chunk, at)
  await file.write(chunk, at)
  piece.received = piece.written = at + bytes
  hash.written(at)
}

describe('HashFollower', () => {
  test('hashes what comes in order from memory: nothing is read back', async () => {
    const plan = new RangePlan(content.length)
    const hash = new HashFollower(file, plan, signal)
    const read = vi.spyOn(file, 'read')
    const piece = plan.take(1) as Piece
    while (piece.written < piece.end) await write(hash, piece, Math.min(700_000, piece.end - piece.written))
    expect(await hash.digest()).toBe(expected)
    expect(read).not.toHaveBeenCalled()
  })

  test('reads back what came out of order, while the rest is still to come', async () => {
    const plan = new RangePlan(content.length)
    const hash = new HashFollower(file, plan, signal)
    const read = vi.spyOn(file, 'read')
    const [first, second, third] = [plan.take(4), plan.take(4), plan.take(4)] as [Piece, Piece, Piece]
    await write(hash, second)
    plan.release(second)
    expect(read).not.toHaveBeenCalled()
    await write(hash, first)
    plan.release(first)
    // All of the second piece, before the third is there.
    await vi.waitUntil(() => read.mock.calls.some(([, length, at]) => length + at === second.end))
    await hash.stop()
    await write(hash, third)
    plan.release(third)
    for (let piece = plan.take(1); piece !== undefined; piece = plan.take(1)) {
      await write(hash, piece)
      plan.release(piece)
    }
    expect(await hash.digest()).toBe(expected)
  })

  test('does not read back what a stream is just writing where it has caught up', async () => {
    const plan = new RangePlan(content.length, [{ start: 0, end: 5 * MIB }])
    await file.write(content.subarray(0, 5 * MIB), 0)
    const hash = new HashFollower(file, plan, signal)
    const read = vi.spyOn(file, 'read')
    hash.catchUp()
    const piece = plan.take(1) as Piece
    while (piece.written < piece.end) {
      await hash.stop()
      await write(hash, piece, Math.min(MIB, piece.end - piece.written))
    }
    expect(await hash.digest()).toBe(expected)
    expect(read.mock.calls.reduce((sum, [, length]) => sum + length, 0)).toBe(5 * MIB)
  })

  test('begins anew', async () => {
    const plan = new RangePlan(content.length)
    const hash = new HashFollower(file, plan, signal)
    const piece = plan.take(1) as Piece
    await write(hash, piece, MIB)
    const whole = plan.restart(piece)
    await hash.restart()
    await write(hash, whole)
    expect(await hash.digest()).toBe(expected)
  })

  test('says at the end why it could not read', async () => {
    const plan = new RangePlan(content.length, [{ start: 0, end: content.length }])
    vi.spyOn(file, 'read').mockRejectedValue(new Error('no disk'))
    const hash = new HashFollower(file, plan, signal)
    hash.catchUp()
    await expect(hash.digest()).rejects.toThrow('no disk')
  })

  test('stops in the middle when it is aborted', async () => {
    const plan = new RangePlan(content.length, [{ start: 0, end: content.length }])
    await file.write(content, 0)
    const abort = new AbortController()
    const hash = new HashFollower(file, plan, abort.signal)
    const read = vi.spyOn(file, 'read')
    hash.catchUp()
    abort.abort()
    await hash.stop()
    expect(read.mock.calls.length).toBeLessThan(3)
    await expect(hash.digest()).rejects.toMatchObject({ code: 'cancelled' })
  })
})
