import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { PassThrough } from 'node:stream'
import { afterEach, describe, expect, test } from 'vitest'
import { serveEngine } from '../../src/agent/engine.ts'
import { EngineLink, type EngineProcess } from '../../src/agent/engine-link.ts'
import { Progress } from '../../src/agent/progress.ts'
import type { TransferMessage } from '../../src/agent/protocol.ts'
import type { Transfer } from '../../src/agent/session.ts'
import { TimoneError } from '../../src/errors.ts'
import { nullLogger as log } from '../../src/log.ts'

const MIB = 2 ** 20
const never = new AbortController().signal
const message = (oid: string, size = 10 * MIB): TransferMessage => ({
  event: 'download',
  oid: oid.repeat(64),
  size,
  action: null,
})
const silent = (): Progress => new Progress(10 * MIB, () => true)

/** A link to an engine in this process that moves objects by `transfer`. */
function linked(transfer: Transfer) {
  const stdin = new PassThrough()
  const stdout = new PassThrough()
  const served = serveEngine({ input: stdin, output: stdout, transfer: Promise.resolve(transfer), log })
  const process = { stdin, stdout, once: () => process, unref: () => {} } as unknown as EngineProcess
  return { link: new EngineLink({ spawn: () => process, log }), served, stdin }
}

describe('front and engine', () => {
  test('many objects at once, each with its answer and its progress', async () => {
    const { link } = linked(async ({ oid }, progress) => {
      progress.add(4 * MIB)
      if (oid.startsWith('b')) throw new TimoneError('hash_mismatch', 'damaged')
      return { path: `/${oid[0]}` }
    })
    const reports: number[] = []
    const progress = new Progress(10 * MIB, ({ bytesSoFar }) => {
      reports.push(bytesSoFar)
      return true
    })
    const [a, b, c] = await Promise.allSettled([
      link.transfer(message('a'), progress, never),
      link.transfer(message('b'), silent(), never),
      link.transfer(message('c'), silent(), never),
    ])
    expect(a).toMatchObject({ value: { path: '/a' } })
    expect(b).toMatchObject({ reason: { code: 'hash_mismatch', message: 'damaged' } })
    expect(c).toMatchObject({ value: { path: '/c' } })
    expect(reports).toEqual([4 * MIB])
  })

  test('an unexpected failure is one object’s, and said as such', async () => {
    const { link } = linked(async () => {
      throw new TypeError('boom')
    })
    await expect(link.transfer(message('a'), silent(), never)).rejects.toMatchObject({
      code: 'internal',
      message: 'unexpected failure: boom',
    })
  })

  test('stopping one leaves the others', async () => {
    const { link } = linked(
      (asked, _progress, signal) =>
        new Promise((resolve, reject) => {
          signal.addEventListener('abort', () => reject(signal.reason))
          if (asked.oid.startsWith('b')) setImmediate(() => resolve({ path: '/b' }))
        }),
    )
    const stop = new AbortController()
    const a = link.transfer(message('a'), silent(), stop.signal)
    const b = link.transfer(message('b'), silent(), never)
    stop.abort(new TimoneError('cancelled', 'git-lfs is gone'))
    await expect(a).rejects.toMatchObject({ code: 'cancelled', message: 'git-lfs is gone' })
    expect(await b).toEqual({ path: '/b' })
  })

  test('the engine knows a front that has finished from one that was killed', async () => {
    const finished = linked(async () => ({}))
    finished.link.start()
    void finished.link.close('finished')
    expect(await finished.served).toBe('finished')
    const killed = linked(async () => ({}))
    killed.link.start()
    killed.stdin.end()
    expect(await killed.served).toBe('gone')
  })

  test('both stop what is under way', async () => {
    for (const end of ['finished', 'cut', 'gone'] as const) {
      let stopped: unknown
      const { link, served, stdin } = linked(
        (_asked, _progress, signal) =>
          new Promise((_resolve, reject) => {
            signal.addEventListener('abort', () => {
              stopped = signal.reason
              reject(signal.reason)
            })
          }),
      )
      link.transfer(message('a'), silent(), never).catch(() => {})
      await new Promise((resolve) => setImmediate(resolve))
      if (end === 'gone') stdin.end()
      else void link.close(end)
      expect(await served).toBe(end)
      expect(stopped).toMatchObject({ code: 'cancelled' })
    }
  })
})

/** Answers `done` with its own number to what does not begin with `d`, and dies of what does: a real process. */
const MORTAL = `
  const { createInterface } = require('node:readline')
  createInterface({ input: process.stdin }).on('line', (line) => {
    const { id, message, close } = JSON.parse(line)
    if (close) process.exit(0)
    if (message.oid.startsWith('d')) process.kill(process.pid, 'SIGKILL')
    if (message.oid.startsWith('o') && process.argv[1] === '1') {
      process.stdout.write(JSON.stringify({ id, bytes: 5000000 }) + '\\n', () => process.kill(process.pid, 'SIGKILL'))
      return
    }
    process.stdout.write(JSON.stringify({ id, done: { path: '/engine/' + process.argv[1] } }) + '\\n')
  })
`

describe('an engine that ends', () => {
  const engines: EngineProcess[] = []
  afterEach(() => {
    for (const engine of engines.splice(0)) engine.kill('SIGKILL')
  })
  const link = (): EngineLink =>
    new EngineLink({
      spawn: () => {
        const engine = spawn(process.execPath, ['-e', MORTAL, String(engines.length + 1)], {
          stdio: ['pipe', 'pipe', 'inherit'],
        }) as unknown as EngineProcess
        engines.push(engine)
        return engine
      },
      log,
    })

  test('is replaced, and the next one does the work; progress does not fall', async () => {
    const front = link()
    const reports: number[] = []
    const progress = new Progress(10 * MIB, ({ bytesSoFar }) => {
      reports.push(bytesSoFar)
      return true
    })
    expect(await front.transfer(message('o'), progress, never)).toEqual({ path: '/engine/2' })
    expect(reports).toEqual([5_000_000])
    await front.close('finished')
  })

  test('while nothing is to do is replaced when there is', async () => {
    const front = link()
    expect(await front.transfer(message('a'), silent(), never)).toEqual({ path: '/engine/1' })
    const [first] = engines as [EngineProcess]
    const gone = once(first, 'close')
    first.kill('SIGKILL')
    await gone
    expect(await front.transfer(message('a'), silent(), never)).toEqual({ path: '/engine/2' })
    await front.close('finished')
  })

  test('again and again fails clearly, and the next object has a new chance', async () => {
    const front = link()
    await expect(front.transfer(message('d'), silent(), never)).rejects.toMatchObject({
      code: 'internal',
      message: expect.stringMatching(/engine ended with SIGKILL, 4 times: repeat the command/),
    })
    expect(await front.transfer(message('a'), silent(), never)).toEqual({ path: '/engine/5' })
    await front.close('finished')
  })

  test('that cannot be started is said', async () => {
    const front = new EngineLink({
      spawn: () =>
        spawn('/no/such/program', { stdio: ['pipe', 'pipe', 'inherit'] }) as unknown as EngineProcess,
      log,
    })
    await expect(front.transfer(message('a'), silent(), never)).rejects.toMatchObject({
      code: 'internal',
      message: expect.stringMatching(/engine could not be started: .*ENOENT/),
    })
  })
})
