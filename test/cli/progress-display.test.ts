import { Writable } from 'node:stream'
import { describe, expect, test } from 'vitest'
import { printBytes, printClock } from '../../src/cli/amounts.ts'
import type { Io } from '../../src/cli/io.ts'
import { bar, openDisplay } from '../../src/cli/progress-display.ts'
import { RecentRate, Tally } from '../../src/cli/tally.ts'

function tally(fields: Partial<Tally>): Tally {
  return Object.assign(new Tally(), fields)
}

const halfway = tally({
  objects: 2000,
  bytes: 200 * 2 ** 20,
  complete: true,
  doneObjects: 1000,
  doneBytes: 100 * 2 ** 20,
  retries: 3,
})

describe('the bar', () => {
  test('says objects, bytes, rate, time left and retries where there is room', () => {
    expect(bar('pull', halfway, 10 * 2 ** 20, 132)).toBe(
      'pull  50%  [===============>              ]  1000/2000 objects  100.0 MiB of 200.0 MiB  10.0 MiB/s  0:10 left  3 retries',
    )
  })

  test('is never as wide as the terminal, whatever that is', () => {
    for (let columns = 0; columns <= 200; columns++) {
      expect(bar('push', halfway, 10 * 2 ** 20, columns).length).toBeLessThan(Math.max(1, columns))
    }
    expect(bar('push', halfway, 1, 40)).toContain('1000/2000 objects')
  })

  test('promises no end while git is still being read, or nothing moves', () => {
    expect(bar('fetch', tally({ objects: 5, bytes: 100, doneBytes: 50 }), 10, 100)).toContain('0/5+ objects')
    expect(bar('fetch', tally({ objects: 5, bytes: 100, doneBytes: 50 }), 10, 100)).not.toContain('left')
    expect(bar('fetch', halfway, 0, 100)).not.toContain('left')
  })
})

test('amounts', () => {
  expect([0, 1023, 1024, 1536, 2 ** 20 - 1, 2 ** 30, 5 * 2 ** 40].map(printBytes)).toEqual([
    '0 B',
    '1023 B',
    '1.0 KiB',
    '1.5 KiB',
    '1.0 MiB',
    '1.0 GiB',
    '5.0 TiB',
  ])
  expect([0, 7.4, 754, 3723].map(printClock)).toEqual(['0:00', '0:07', '12:34', '1:02:03'])
})

test('the rate is that of the last seconds', () => {
  const rate = new RecentRate()
  expect(rate.add(0, 0)).toBe(0)
  expect(rate.add(1000, 500)).toBe(500)
  for (let second = 2; second <= 20; second++) rate.add(second * 1000, 500)
  expect(rate.add(21_000, 500)).toBe(0)
})

describe('where there is no terminal', () => {
  function open(
    json: boolean,
    quiet: boolean,
  ): { display: ReturnType<typeof openDisplay>; out: () => string; said: () => string } {
    const texts = ['', '']
    const [stdout, stderr] = [0, 1].map(
      (at) =>
        new Writable({
          write(chunk, _encoding, done) {
            texts[at] += String(chunk)
            done()
          },
        }),
    )
    const io = { stdout, stderr, env: {}, cwd: '/' } as unknown as Io
    const display = openDisplay(io, { command: 'pull', tally: halfway, json, quiet })
    return { display, out: () => texts[0] as string, said: () => texts[1] as string }
  }

  test('a failure is one line, without anything that a terminal would obey, and only so many are printed', () => {
    const { display, out, said } = open(false, true)
    for (let at = 0; at < 25; at++) {
      display.failure({
        oid: 'ab'.repeat(32),
        path: 'a\u001b[31m\n.bin',
        code: 'not_found',
        message: 'gone\u202e',
      })
    }
    display.note('not said')
    display.finish(1)
    const lines = said().trim().split('\n')
    expect(lines).toHaveLength(21)
    expect(lines[0]).toBe('timone: a [31m .bin (abababababab): gone ')
    expect(lines[20]).toBe('timone: and 5 objects more; --json lists them all')
    expect(out()).toBe('')
  })

  test('events are JSON, one a line, and nothing else is said', () => {
    const { display, out, said } = open(true, false)
    display.start('https://lfs.example/x')
    display.note('hello')
    display.object({ oid: 'ab', size: 1, path: 'a.bin', result: 'moved' })
    display.failure({ code: 'internal', message: 'x' })
    display.finish(1)
    const events = out()
      .trim()
      .split('\n')
      .map((line) => JSON.parse(line))
    expect(events).toMatchObject([
      { event: 'start', command: 'pull', endpoint: 'https://lfs.example/x' },
      { event: 'note', message: 'hello' },
      { event: 'object', oid: 'ab', size: 1, path: 'a.bin', result: 'moved' },
      { event: 'error', oid: null, path: null, code: 'internal', message: 'x' },
      { event: 'summary', command: 'pull', exit_code: 1, moved: 1000, cached: 0, failed: 0, retries: 3 },
    ])
    expect(said()).toBe('')
  })
})
