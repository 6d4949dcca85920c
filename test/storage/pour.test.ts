import { PassThrough, Readable, Writable } from 'node:stream'
import { describe, expect, test } from 'vitest'
import { TimoneError } from '../../src/errors.ts'
import { pour } from '../../src/storage/pour.ts'

const sinkOf = (onChunk: (chunk: Buffer) => Error | null = () => null) =>
  new Writable({ write: (chunk: Buffer, _encoding, done) => done(onChunk(chunk)) })
const endless = () =>
  new Readable({
    read() {
      this.push(Buffer.alloc(1_000))
    },
  })

describe('pour', () => {
  test('waits until the sink has taken everything', async () => {
    const taken: Buffer[] = []
    const slow = new Writable({
      highWaterMark: 1,
      write(chunk: Buffer, _encoding, done) {
        setImmediate(() => {
          taken.push(chunk)
          done()
        })
      },
    })
    await pour(Readable.from([Buffer.from('a'), Buffer.from('b'), Buffer.from('c')]), slow)
    expect(Buffer.concat(taken).toString()).toBe('abc')
  })

  test('a failing sink stops it and leaves the body to the caller', async () => {
    const body = endless()
    const failure = new Error('full')
    await expect(
      pour(
        body,
        sinkOf(() => failure),
      ),
    ).rejects.toBe(failure)
    expect(body.destroyed).toBe(false)
    expect(body.listenerCount('error')).toBe(0)
    body.destroy()
  })

  test('a body that breaks off is a lost connection, and the sink is destroyed', async () => {
    const body = endless()
    const sink = sinkOf(() => {
      body.destroy(new Error('reset'))
      return null
    })
    await expect(pour(body, sink)).rejects.toMatchObject({ name: 'TimoneError', code: 'connection' })
    expect(sink.destroyed).toBe(true)
  })

  test('a body that is closed before its end, without an error, is one too', async () => {
    const body = new PassThrough()
    body.write('half')
    setImmediate(() => body.destroy())
    await expect(pour(body, sinkOf())).rejects.toMatchObject({ code: 'connection' })
  })

  test('an error that says more is kept', async () => {
    const error = new TimoneError('too_large', 'over the limit')
    const body = new Readable({ read: () => body.destroy(error) })
    await expect(pour(body, sinkOf())).rejects.toBe(error)
  })

  test.each([
    ['cancelled', () => AbortSignal.abort()],
    ['timeout', () => AbortSignal.timeout(10)],
    ['conflict', () => AbortSignal.abort(new TimoneError('conflict', 'taken over'))],
  ])('an abort is %s', async (code, signal) => {
    const body = new Readable({ read() {} })
    const sink = sinkOf()
    await expect(pour(body, sink, signal())).rejects.toMatchObject({ name: 'TimoneError', code })
    expect(sink.destroyed).toBe(true)
    expect(body.destroyed).toBe(false)
  })

  test('a body that broke off before anyone listened', async () => {
    const body = new PassThrough()
    body.destroy()
    await expect(pour(body, sinkOf())).rejects.toMatchObject({ code: 'connection' })
  })

  test('leaves no listener on a signal that outlives it', async () => {
    const { signal } = new AbortController()
    let listeners = 0
    const counted = new Proxy(signal, {
      get(target, name) {
        if (name === 'addEventListener') listeners++
        if (name === 'removeEventListener') listeners--
        const value: unknown = Reflect.get(target, name, target)
        return typeof value === 'function' ? value.bind(target) : value
      },
    })
    await pour(Readable.from([Buffer.from('x')]), sinkOf(), counted)
    expect(listeners).toBe(0)
  })
})
