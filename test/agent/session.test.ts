import { PassThrough } from 'node:stream'
import { describe, expect, test } from 'vitest'
import { runSession, type Transfer, toWireError } from '../../src/agent/session.ts'
import { TimoneError } from '../../src/errors.ts'
import { nullLogger } from '../../src/log.ts'

const OID = 'a'.repeat(64)
const INIT = {
  event: 'init',
  operation: 'download',
  remote: 'origin',
  concurrent: true,
  concurrenttransfers: 8,
}

/** A session with pipes at both ends. */
function open(
  transfer: Transfer,
  options: { grace?: number; signal?: AbortSignal; open?: () => Promise<Transfer> } = {},
) {
  const input = new PassThrough()
  const output = new PassThrough()
  const answers: unknown[] = []
  let buffered = ''
  output.setEncoding('utf8').on('data', (text: string) => {
    buffered += text
    const lines = buffered.split('\n')
    buffered = lines.pop() ?? ''
    for (const line of lines) answers.push(JSON.parse(line))
  })
  const done = runSession({
    input,
    output,
    log: nullLogger,
    open: options.open ?? (async () => transfer),
    signal: options.signal ?? new AbortController().signal,
    ...(options.grace === undefined ? {} : { grace: options.grace }),
  })
  const say = (message: unknown): void => {
    input.write(typeof message === 'string' ? `${message}\n` : `${JSON.stringify(message)}\n`)
  }
  return { input, output, answers, done, say }
}

const download = (oid: string, size = 1): object => ({
  event: 'download',
  oid,
  size,
  action: { href: 'https://h.example/', header: {} },
})

describe('runSession', () => {
  test('init, a transfer, terminate', async () => {
    const { answers, done, say } = open(async (_message, progress) => {
      progress.add(1)
      return { path: '/tmp/x' }
    })
    say(INIT)
    say(download(OID))
    say({ event: 'terminate' })
    await done
    expect(answers).toEqual([
      {},
      { event: 'progress', oid: OID, bytesSoFar: 1, bytesSinceLast: 1 },
      { event: 'complete', oid: OID, path: '/tmp/x' },
    ])
  })

  test('answers init before it loads anything', async () => {
    const order: string[] = []
    const { answers, done, say, input } = open(async () => ({}), {
      open: async () => {
        order.push(`open after ${answers.length}`)
        return async () => ({})
      },
    })
    say(INIT)
    input.end()
    await done
    expect(answers).toEqual([{}])
    expect(order).toHaveLength(1)
  })

  test('an object that fails is told and does not end the session', async () => {
    let calls = 0
    const { answers, done, say } = open(async () => {
      if (calls++ === 0) throw new TimoneError('not_found', 'the object\nis not in the bucket')
      return { path: '/tmp/x' }
    })
    say(INIT)
    say(download(OID))
    say(download('b'.repeat(64)))
    say({ event: 'terminate' })
    await done
    expect(answers[1]).toEqual({
      event: 'complete',
      oid: OID,
      error: { code: 404, message: `download of ${OID}: the object is not in the bucket` },
    })
    expect(answers.at(-1)).toMatchObject({ event: 'complete', oid: 'b'.repeat(64), path: '/tmp/x' })
  })

  test('where nothing can be opened, each object says why', async () => {
    const { answers, done, say } = open(async () => ({}), {
      open: async () => {
        throw new TimoneError('config', 'git was not found on PATH')
      },
    })
    say(INIT)
    say(download(OID))
    say({ event: 'terminate' })
    await done
    expect(answers).toEqual([
      {},
      {
        event: 'complete',
        oid: OID,
        error: { code: 400, message: `download of ${OID}: git was not found on PATH` },
      },
    ])
  })

  test.each([
    ['not JSON', 'hello'],
    ['an array', '[1]'],
    ['an unknown event', '{"event":"dance"}'],
    ['an upload', JSON.stringify({ event: 'upload', oid: OID, size: 1, path: '/x', action: null })],
  ])('%s before init is answered with an error, and init still works', async (_what, line) => {
    const { answers, done, say } = open(async () => ({ path: '/tmp/x' }))
    say(line)
    say(INIT)
    say({ event: 'terminate' })
    await done
    expect(answers).toEqual([{ error: { code: 400, message: expect.stringMatching(/expected init/) } }, {}])
  })

  test.each([
    ['not JSON', 'hello'],
    ['an array', '[1]'],
    ['an unknown event', '{"event":"dance"}'],
    ['a second init', JSON.stringify(INIT)],
  ])(
    '%s after init is ignored: a stray line would be taken for the answer to the next object',
    async (_what, line) => {
      const { answers, done, say } = open(async () => ({ path: '/tmp/x' }))
      say(INIT)
      say(line)
      say(download(OID))
      say({ event: 'terminate' })
      await done
      expect(answers.filter((answer) => (answer as { event?: string }).event !== 'progress')).toEqual([
        {},
        { event: 'complete', oid: OID, path: '/tmp/x' },
      ])
    },
  )

  test('end of file without terminate ends the session', async () => {
    const { done, say, input, answers } = open(async () => ({}))
    say(INIT)
    input.end()
    await done
    expect(answers).toEqual([{}])
  })

  test('end of file in the middle of a transfer stops it after the grace', async () => {
    let reason: unknown
    const { done, say, input } = open(
      (_message, _progress, signal) =>
        new Promise((_resolve, reject) => {
          signal.addEventListener('abort', () => {
            reason = signal.reason
            reject(signal.reason)
          })
        }),
      { grace: 20 },
    )
    say(INIT)
    say(download(OID))
    input.end()
    await done
    expect(reason).toMatchObject({ code: 'cancelled' })
  })

  test('a transfer that ends within the grace is still answered', async () => {
    const { answers, done, say, input } = open(async () => {
      await new Promise((resolve) => setTimeout(resolve, 20))
      return { path: '/tmp/x' }
    })
    say(INIT)
    say(download(OID))
    input.end()
    await done
    expect(answers.at(-1)).toEqual({ event: 'complete', oid: OID, path: '/tmp/x' })
  })

  test('a closed pipe stops the transfer', async () => {
    const { done, say, output } = open(
      (_message, progress, signal) =>
        new Promise((_resolve, reject) => {
          signal.addEventListener('abort', () => reject(signal.reason))
          progress.add(1)
          output.destroy()
        }),
    )
    say(INIT)
    say(download(OID))
    await done
  })

  test('the signal of a terminal stops the transfer', async () => {
    const stop = new AbortController()
    const { done, say } = open(
      (_message, _progress, signal) =>
        new Promise((_resolve, reject) => {
          signal.addEventListener('abort', () => reject(signal.reason))
          stop.abort()
        }),
      { signal: stop.signal },
    )
    say(INIT)
    say(download(OID))
    await done
  })
})

describe('toWireError', () => {
  test('passes no control characters to the terminal, and no endless text', () => {
    const { message } = toWireError(
      new TimoneError('denied', `no\u001b[2J\u0007 ${'x'.repeat(60_000)}\u202e`),
    )
    expect(message).toMatch(/^no \[2J x+$/)
    expect(message.length).toBeLessThanOrEqual(1000)
  })

  test('always has an integer code and one line', () => {
    expect(toWireError(new Error('a\nb'))).toEqual({ code: 500, message: 'unexpected failure: a b' })
    expect(toWireError('odd')).toEqual({ code: 500, message: 'unexpected failure: odd' })
    expect(toWireError(new TimoneError('unauthorized', 'sign in'), 'upload of x')).toEqual({
      code: 401,
      message: 'upload of x: sign in',
    })
  })
})
