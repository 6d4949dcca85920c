import { TimoneError } from '../errors.ts'
import type { Io } from './io.ts'

/** A terminal has its prompt back after so many milliseconds, whatever still hangs. */
const PATIENCE = 900

/**
 * Runs `work` with a signal that fires on Ctrl-C, SIGTERM and SIGHUP. The first lets it stop in order; a second one,
 * or a second that is too long, ends the process.
 * @param last called before the process is ended that way: what must not be left as it is
 */
export async function interruptible<T>(
  io: Io,
  last: () => void,
  work: (signal: AbortSignal) => Promise<T>,
): Promise<T> {
  const stop = new AbortController()
  const leave = (code: number): void => {
    last()
    process.exit(code)
  }
  const handlers = (
    [
      ['SIGINT', 130],
      ['SIGTERM', 143],
      ['SIGHUP', 129],
    ] as const
  ).map(([name, code]) => {
    const obey = (): void => {
      if (stop.signal.aborted) leave(code)
      stop.abort(new TimoneError('cancelled', 'interrupted'))
      setTimeout(() => leave(code), PATIENCE).unref()
    }
    process.on(name, obey)
    return () => process.off(name, obey)
  })
  const { signal } = io
  if (signal?.aborted === true) stop.abort(signal.reason)
  signal?.addEventListener('abort', () => stop.abort(signal.reason), { once: true })
  try {
    return await work(stop.signal)
  } finally {
    for (const forget of handlers) forget()
  }
}
