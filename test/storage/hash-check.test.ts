import { createHash } from 'node:crypto'
import { Readable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { type Expected, HashCheck, HashGate } from '../../src/storage/hash-check.ts'

const hash = (bytes: Uint8Array) => createHash('sha256').update(bytes).digest('hex')

/** What comes out of a gate, and why it ended early if it did. */
async function through(chunks: Uint8Array[], expected: Expected): Promise<{ passed: Buffer; code?: string }> {
  const passed: Buffer[] = []
  const collect = async (source: AsyncIterable<Buffer>): Promise<void> => {
    for await (const chunk of source) passed.push(chunk)
  }
  try {
    await pipeline(Readable.from(chunks), new HashGate(expected), collect)
    return { passed: Buffer.concat(passed) }
  } catch (error) {
    return { passed: Buffer.concat(passed), code: (error as { code: string }).code }
  }
}

describe('HashGate', () => {
  const chunksOf = fc.array(fc.uint8Array({ maxLength: 20 }), { maxLength: 8 })

  test('lets the right bytes through, however they are cut', async () => {
    await fc.assert(
      fc.asyncProperty(chunksOf, async (chunks) => {
        const whole = Buffer.concat(chunks)
        expect(await through(chunks, { size: whole.length, sha256: hash(whole) })).toEqual({ passed: whole })
        expect(await through(chunks, { size: whole.length })).toEqual({ passed: whole })
      }),
    )
  })

  test('never lets a wrong body through whole', async () => {
    await fc.assert(
      fc.asyncProperty(chunksOf, fc.integer({ min: -5, max: 5 }), async (chunks, more) => {
        const { length } = Buffer.concat(chunks)
        const size = Math.max(0, length + more)
        const { passed, code } = await through(chunks, { size, sha256: 'f'.repeat(64) })
        expect(code).toBe(size === length ? 'hash_mismatch' : 'size_mismatch')
        expect(passed.length).toBeLessThan(Math.max(1, size))
      }),
    )
  })

  test('the last byte waits for the end, although it looks complete before', async () => {
    const right = Buffer.from('right')
    const result = await through([right, Buffer.from('more')], { size: 5, sha256: hash(right) })
    expect(result).toEqual({ passed: Buffer.alloc(0), code: 'size_mismatch' })
  })
})

describe('HashCheck', () => {
  test('says which hash it found', () => {
    const check = new HashCheck({ size: 3, sha256: '0'.repeat(64) })
    check.update(Buffer.from('abc'))
    expect(() => check.finish()).toThrow(hash(Buffer.from('abc')))
  })
})
