import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import {
  DEFAULT_PART_SIZE,
  MAX_PART_SIZE,
  MAX_PARTS,
  MIN_PART_SIZE,
  partSizeFor,
  planParts,
} from '../../src/access/part-plan.ts'

const MIB = 2 ** 20
const TIB = 2 ** 40

describe('partSizeFor', () => {
  test.each([
    [0, undefined, DEFAULT_PART_SIZE],
    [1, undefined, DEFAULT_PART_SIZE],
    [8 * MIB * 10_000, undefined, DEFAULT_PART_SIZE],
    [8 * MIB * 10_000 + 1, undefined, 9 * MIB],
    [5 * TIB, undefined, 525 * MIB],
    [100, 1, MIN_PART_SIZE],
    [100, 8 * MIB, 8 * MIB],
    [100, 2 ** 50, MAX_PART_SIZE],
  ])('%i bytes, wanted %s', (size, wanted, partSize) => {
    expect(partSizeFor(size, wanted)).toBe(partSize)
  })

  test('what S3 cannot store at all is refused', () => {
    expect(() => partSizeFor(MAX_PART_SIZE * MAX_PARTS + 1)).toThrow(
      expect.objectContaining({ code: 'too_large' }),
    )
  })
})

describe('planParts', () => {
  test.each([
    [0, [[1, 0, 0]]],
    [1, [[1, 0, 1]]],
    [10, [[1, 0, 10]]],
    [
      11,
      [
        [1, 0, 10],
        [2, 10, 1],
      ],
    ],
    [
      30,
      [
        [1, 0, 10],
        [2, 10, 10],
        [3, 20, 10],
      ],
    ],
  ] as [number, number[][]][])('%i bytes in parts of 10', (size, parts) => {
    expect(planParts(size, 10).map(({ number, offset, size }) => [number, offset, size])).toEqual(parts)
  })

  test('of any size up to 5 TiB: no gap, no overlap, within the limits of S3', () => {
    fc.assert(
      fc.property(
        fc.oneof(fc.integer({ min: 0, max: 5 * TIB }), fc.integer({ min: 5 * TIB - 100, max: 5 * TIB })),
        fc.integer({ min: 1, max: 8 * 2 ** 30 }),
        (size, wanted) => {
          const partSize = partSizeFor(size, wanted)
          const parts = planParts(size, partSize)
          expect(parts.length).toBeLessThanOrEqual(MAX_PARTS)
          let offset = 0
          for (const [index, part] of parts.entries()) {
            if (part.number !== index + 1 || part.offset !== offset)
              throw new Error(`part ${index + 1} is off`)
            if (part.size > MAX_PART_SIZE) throw new Error('a part is too large')
            if (index < parts.length - 1 && part.size < MIN_PART_SIZE) throw new Error('a part is too small')
            offset += part.size
          }
          expect(offset).toBe(size)
        },
      ),
      { numRuns: 60 },
    )
  })
})
