import { finished, type Readable, type Writable } from 'node:stream'
import { isTimoneError, TimoneError } from '../errors.ts'

/** Why `signal` stopped something: its own reason where that is a `TimoneError`, else `timeout` or `cancelled`. */
export function abortError(signal: AbortSignal): TimoneError {
  const reason: unknown = signal.reason
  if (isTimoneError(reason)) return reason
  if (reason instanceof Error && reason.name === 'TimeoutError') {
    return new TimoneError('timeout', 'gave up waiting: the time allowed is over', { cause: reason })
  }
  return new TimoneError('cancelled', 'stopped before the end', { cause: reason })
}

/**
 * Pipes `body` into `sink` and waits until the sink has taken everything. Unlike `stream.pipeline` it leaves `body` as
 * it is when the sink fails or `signal` aborts, because a server must still answer over the connection that the body
 * comes from. The sink is destroyed then.
 * @throws the sink's error; `connection` when the body breaks off before its end; `cancelled` or `timeout` on abort
 */
export function pour(body: Readable, sink: Writable, signal?: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    const settle = (): void => {
      forgetBody()
      forgetSink()
      signal?.removeEventListener('abort', onAbort)
    }
    const fail = (error: unknown): void => {
      settle()
      body.unpipe(sink)
      // What was on its way into the sink may fail late, and nobody is left to hear of it.
      sink.on('error', () => {})
      sink.destroy()
      reject(error)
    }
    const onAbort = (): void => fail(abortError(signal as AbortSignal))
    const forgetBody = finished(body, { writable: false }, (error) => {
      if (error === undefined || error === null) return
      fail(
        isTimoneError(error)
          ? error
          : new TimoneError('connection', 'the bytes broke off before their end', { cause: error }),
      )
    })
    const forgetSink = finished(sink, { readable: false }, (error) => {
      if (error !== undefined && error !== null) return fail(error)
      settle()
      resolve()
    })
    if (signal?.aborted) return onAbort()
    signal?.addEventListener('abort', onAbort, { once: true })
    body.pipe(sink)
  })
}
