import { PassThrough, Writable } from 'node:stream'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { MessageWriter, readLines } from '../../src/agent/channel.ts'

async function linesOf(chunks: Uint8Array[]): Promise<string[]> {
  const input = new PassThrough()
  const lines: string[] = []
  const ended = new Promise<void>((resolve) =>
    readLines(input, {
      line: (text) => lines.push(text),
      overlong: () => lines.push('OVERLONG'),
      end: resolve,
    }),
  )
  for (const chunk of chunks) input.write(chunk)
  input.end()
  await ended
  return lines
}

describe('readLines', () => {
  test('gives the same lines however the bytes are cut, also inside a character', async () => {
    const line = fc.string({ unit: 'grapheme', minLength: 1 }).map((text) => text.replace(/[\r\n]/g, 'x'))
    await fc.assert(
      fc.asyncProperty(fc.array(line), fc.array(fc.nat()), fc.boolean(), async (lines, cuts, crlf) => {
        const bytes = Buffer.from(lines.map((text) => text + (crlf ? '\r\n' : '\n')).join(''))
        const at = [...new Set(cuts.map((cut) => cut % (bytes.length + 1)))].sort((a, b) => a - b)
        const chunks = [...at, bytes.length].map((end, index) =>
          bytes.subarray(index === 0 ? 0 : at[index - 1], end),
        )
        expect(await linesOf(chunks)).toEqual(lines)
      }),
    )
  })

  test('reads a line of 10 MB in small pieces, and the short one behind it', async () => {
    const long = 'é'.repeat(5_000_000)
    const bytes = Buffer.from(`${long}\nshort\n`)
    const chunks: Buffer[] = []
    for (let at = 0; at < bytes.length; at += 65_521) chunks.push(bytes.subarray(at, at + 65_521))
    const lines = await linesOf(chunks)
    expect(lines.map((text) => text.length)).toEqual([long.length, 5])
    expect(lines[0] === long).toBe(true)
  })

  test('drops a line of more than 64 MiB without holding it and reads on', async () => {
    const piece = Buffer.alloc(2 ** 20, 'a')
    const chunks = [...Array.from({ length: 70 }, () => piece), Buffer.from('\nnext\n')]
    expect(await linesOf(chunks)).toEqual(['OVERLONG', 'next'])
  })

  test('counts a last line without an end, and ends once', async () => {
    expect(await linesOf([Buffer.from('a\nb')])).toEqual(['a', 'b'])
  })
})

describe('MessageWriter', () => {
  test('keeps the order and waits while the reader is slow', async () => {
    const seen: string[] = []
    let release: () => void = () => {}
    const output = new Writable({
      highWaterMark: 10,
      write(chunk: Buffer, _encoding, done) {
        seen.push(chunk.toString())
        release = () => done()
      },
    })
    const writer = new MessageWriter(output, () => {})
    const first = writer.send({ event: 'complete', oid: 'a' })
    const second = writer.send({ event: 'complete', oid: 'b' })
    let settled = false
    void second.then(() => {
      settled = true
    })
    await new Promise((resolve) => setImmediate(resolve))
    expect(writer.congested).toBe(true)
    expect(settled).toBe(false)
    release()
    await new Promise((resolve) => setImmediate(resolve))
    release()
    await Promise.all([first, second])
    expect(writer.congested).toBe(false)
    expect(seen).toEqual(['{"event":"complete","oid":"a"}\n', '{"event":"complete","oid":"b"}\n'])
  })

  test('tells once that the reader is gone and drops what comes later', async () => {
    let gone = 0
    const output = new Writable({
      write(_chunk, _encoding, done) {
        done(Object.assign(new Error('EPIPE'), { code: 'EPIPE' }))
      },
    })
    const writer = new MessageWriter(output, () => {
      gone++
    })
    await writer.send({ event: 'complete', oid: 'a' })
    await new Promise((resolve) => setImmediate(resolve))
    await writer.send({ event: 'complete', oid: 'b' })
    expect(gone).toBe(1)
  })
})
