import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { hrefWithoutPlan, hrefWithPlan, type PlannedObject, splitPlan } from '../../src/access/plan.ts'
import { MAX_OBJECT_SIZE, parseOid } from '../../src/oid.ts'

const HREF = 'https://lfs.example/org/repo/info/lfs/credentials'

const object = fc.record({
  oid: fc
    .uint8Array({ minLength: 32, maxLength: 32 })
    .map((bytes) => parseOid(Buffer.from(bytes).toString('hex'))),
  size: fc.integer({ min: 0, max: MAX_OBJECT_SIZE }),
  replace: fc.boolean(),
})

/** A URL with this after `#plan=`. */
const raw = (bytes: number[] | Buffer): string => `${HREF}#plan=${Buffer.from(bytes).toString('base64url')}`

describe('the plan in an action’s URL', () => {
  test('comes back as it went in, whatever the sizes', () => {
    fc.assert(
      fc.property(fc.array(object, { maxLength: 200 }), (plan) => {
        expect(splitPlan(hrefWithPlan(HREF, plan))).toEqual({ href: HREF, plan })
      }),
    )
  })

  test('the largest object and the empty one', () => {
    const plan: PlannedObject[] = [
      { oid: parseOid('a'.repeat(64)), size: MAX_OBJECT_SIZE, replace: true },
      { oid: parseOid('b'.repeat(64)), size: 0, replace: false },
    ]
    expect(splitPlan(hrefWithPlan(HREF, plan)).plan).toEqual(plan)
  })

  test('takes about 50 characters an object', () => {
    const plan = Array.from({ length: 100 }, () => ({
      oid: parseOid('c'.repeat(64)),
      size: 100_000,
      replace: false,
    }))
    expect(hrefWithPlan(HREF, plan).length - HREF.length).toBeLessThan(100 * 50)
  })

  test('is no part of what HTTP asks for', () => {
    const href = hrefWithPlan(HREF, [{ oid: parseOid('d'.repeat(64)), size: 1, replace: false }])
    const { pathname, search } = new URL(href)
    expect(pathname + search).toBe('/org/repo/info/lfs/credentials')
    expect(hrefWithoutPlan(href)).toBe(HREF)
    expect(hrefWithoutPlan(HREF)).toBe(HREF)
  })

  test('other fragments are no plan', () => {
    expect(splitPlan(HREF)).toEqual({ href: HREF, plan: [] })
    expect(splitPlan(`${HREF}#elsewhere`)).toEqual({ href: HREF, plan: [] })
  })

  test.each([
    ['nothing', []],
    ['an unknown version', [2]],
    ['half an oid', [1, ...Array<number>(10).fill(7)]],
    ['an oid without a size', [1, ...Array<number>(32).fill(7)]],
    ['a size without an end', [1, ...Array<number>(32).fill(7), 255, 255]],
    ['a size beyond all numbers', [1, ...Array<number>(32).fill(7), ...Array<number>(20).fill(255), 1]],
    ['a size beyond 5 TiB', [1, ...Array<number>(32).fill(7), ...Array<number>(6).fill(255), 127]],
  ])('%s is refused', (_name, bytes) => {
    expect(() => splitPlan(raw(bytes))).toThrow(/cannot be read/)
  })

  test('more objects than a batch may have are refused', () => {
    const one = Buffer.alloc(33, 1)
    expect(() => splitPlan(raw(Buffer.concat([Buffer.from([1]), Buffer.alloc(33 * 100_001, one)])))).toThrow(
      /cannot be read/,
    )
  })
})
