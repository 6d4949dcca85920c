import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { type Extent, LEAST_PIECE, type Piece, RangePlan } from '../../src/agent/range-plan.ts'

const MIB = 2 ** 20
const GIB = 2 ** 30

/** The network brings `bytes` more of a piece, and they are written. */
function bring(piece: Piece, bytes: number): void {
  piece.received += bytes
  piece.written = piece.received
}

describe('RangePlan', () => {
  test('a stream that is alone takes large pieces in order, the last one to the end', () => {
    const plan = new RangePlan(150 * MIB + 7)
    const taken: [number, number][] = []
    for (let piece = plan.take(1); piece !== undefined; piece = plan.take(1)) {
      taken.push([piece.start, piece.end])
      bring(piece, piece.end - piece.start)
      plan.release(piece)
    }
    expect(taken).toEqual([
      [0, 64 * MIB],
      [64 * MIB, 128 * MIB],
      [128 * MIB, 150 * MIB + 7],
    ])
    expect(plan.complete).toBe(true)
    expect(plan.extents()).toEqual([{ start: 0, end: plan.size }])
  })

  test('an object of no bytes is asked for once', () => {
    const plan = new RangePlan(0)
    expect(plan.complete).toBe(false)
    const piece = plan.take(1) as Piece
    expect(piece).toMatchObject({ start: 0, end: 0 })
    plan.release(piece)
    expect(plan.complete).toBe(true)
    expect(plan.take(1)).toBeUndefined()
  })

  test('several streams share what is left, and no piece is smaller than is worth a request', () => {
    const plan = new RangePlan(GIB)
    const sizes: number[] = []
    for (let piece = plan.take(16); piece !== undefined; piece = plan.take(16)) {
      sizes.push(piece.end - piece.start)
      bring(piece, piece.end - piece.start)
      plan.release(piece)
    }
    expect(Math.max(...sizes)).toBe(32 * MIB)
    expect(Math.min(...sizes)).toBeGreaterThanOrEqual(LEAST_PIECE)
    expect(sizes.reduce((sum, size) => sum + size)).toBe(GIB)
  })

  test('where all is taken, the tail of the longest piece changes hands', () => {
    const plan = new RangePlan(60 * MIB)
    const first = plan.take(1) as Piece
    expect(first.end).toBe(60 * MIB)
    bring(first, 20 * MIB)
    expect(plan.divisible).toBe(true)
    const second = plan.take(2) as Piece
    expect(first.end).toBe(40 * MIB)
    expect([second.start, second.end]).toEqual([40 * MIB, 50 * MIB])
    const third = plan.take(3) as Piece
    expect([third.start, third.end]).toEqual([50 * MIB, 54 * MIB])
  })

  test('less than two pieces’ worth is left to whoever has it', () => {
    const plan = new RangePlan(2 * LEAST_PIECE - 1)
    plan.take(1)
    expect(plan.divisible).toBe(false)
    expect(plan.take(2)).toBeUndefined()
  })

  test('what a stream leaves is taken by another, lowest first', () => {
    const plan = new RangePlan(100 * MIB)
    const first = plan.take(2) as Piece
    const second = plan.take(2) as Piece
    bring(first, MIB)
    bring(second, MIB)
    plan.release(first)
    expect(plan.take(2)?.start).toBe(MIB)
    expect(plan.extents()).toEqual([
      { start: 0, end: MIB },
      { start: second.start, end: second.start + MIB },
    ])
  })

  test('goes on with what was written: only the gaps are taken', () => {
    const done: Extent[] = [
      { start: 0, end: 10 },
      { start: 20, end: 30 },
    ]
    const plan = new RangePlan(40, done)
    expect([plan.written, plan.frontier]).toEqual([20, 10])
    const pieces = [plan.take(1), plan.take(1), plan.take(1)]
    expect(pieces.map((piece) => piece && [piece.start, piece.end])).toEqual([[10, 20], [30, 40], undefined])
    bring(pieces[0] as Piece, 10)
    expect(plan.frontier).toBe(30)
    expect(done).toEqual([
      { start: 0, end: 10 },
      { start: 20, end: 30 },
    ])
  })

  test('restart forgets all', () => {
    const plan = new RangePlan(100, [{ start: 0, end: 50 }])
    const whole = plan.restart(plan.take(1) as Piece)
    expect(whole).toEqual({ start: 0, end: 100, received: 0, written: 0 })
    expect([plan.written, plan.frontier, plan.take(1), plan.complete]).toEqual([0, 0, undefined, false])
  })

  test('whatever streams do, each byte is asked for once and all are', () => {
    const command = fc.record({
      what: fc.constantFrom('take', 'bring', 'bring', 'end'),
      which: fc.nat(20),
      share: fc.double({ min: 0, max: 1, noNaN: true }),
    })
    fc.assert(
      fc.property(
        fc.integer({ min: 0, max: GIB }),
        fc.array(command, { maxLength: 200 }),
        (size, commands) => {
          const plan = new RangePlan(size)
          const active: Piece[] = []
          let brought = 0
          const end = (piece: Piece): void => {
            active.splice(active.indexOf(piece), 1)
            plan.release(piece)
          }
          const some = (piece: Piece, bytes: number): void => {
            bring(piece, bytes)
            brought += bytes
            if (piece.received === piece.end) end(piece)
          }
          for (const { what, which, share } of commands) {
            const piece = active[which % Math.max(1, active.length)]
            if (what === 'take') {
              const taken = plan.take(active.length + 1)
              if (taken !== undefined) active.push(taken)
            } else if (piece !== undefined && what === 'bring') {
              some(piece, Math.ceil((piece.end - piece.received) * share))
            } else if (piece !== undefined) {
              end(piece)
            }
            expect(plan.written).toBe(brought)
            const extents = plan.extents()
            expect(extents[0]?.start === 0 ? extents[0].end : 0).toBe(plan.frontier)
          }
          while (!plan.complete) {
            const taken = plan.take(active.length + 1)
            if (taken !== undefined) active.push(taken)
            for (const piece of [...active]) some(piece, piece.end - piece.received)
          }
          expect(brought).toBe(size)
          expect(plan.extents()).toEqual(size === 0 ? [] : [{ start: 0, end: size }])
        },
      ),
    )
  })
})
