import type { Readable, Writable } from 'node:stream'
import { throwIfAborted } from '../access/http-client.ts'
import { isTimoneError, TimoneError } from '../errors.ts'
import type { Logger } from '../log.ts'
import { readLines } from './channel.ts'
import type { EngineAnswer, EngineRequest } from './engine-wire.ts'
import { Progress } from './progress.ts'
import type { TransferMessage } from './protocol.ts'
import type { SessionEnd, Transfer } from './session.ts'

export interface EngineOptions {
  /** From the front: requests, one JSON object a line. */
  input: Readable
  /** To the front. */
  output: Writable
  /** What moves bytes; begun at once. */
  transfer: Promise<Transfer>
  log: Logger
}

/** So long nothing is said of an object that is gone in a moment, milliseconds; the front counts it when it is whole. */
const QUIET = 100
/** Bytes of an object that may be gone in a moment. */
const SMALL = 2 ** 20

/**
 * Serves the front's requests until it says that it has no more, and how git-lfs ended, or until its end of the pipe
 * closes: `gone`. A front that is just gone was killed, and its user has the terminal back: there is no time to clean up.
 */
export async function serveEngine(options: EngineOptions): Promise<SessionEnd | 'gone'> {
  const { input, output, transfer, log } = options
  const running = new Map<number, AbortController>()
  // The front has gone: nobody is left to be told.
  output.on('error', () => {})
  const answer = (message: EngineAnswer): void => {
    output.write(`${JSON.stringify(message)}\n`)
  }

  const serve = async (id: number, message: TransferMessage): Promise<void> => {
    const stop = new AbortController()
    running.set(id, stop)
    const progress = new QuietProgress(message.size, (bytes) => answer({ id, bytes }))
    try {
      const move = await transfer
      throwIfAborted(stop.signal)
      const { path } = await move(message, progress, stop.signal)
      answer(path === undefined ? { id, done: {} } : { id, done: { path } })
    } catch (error) {
      if (!isTimoneError(error) && error instanceof Error)
        log.error({ oid: message.oid, stack: error.stack }, 'unexpected failure')
      answer({ id, error: describe(error) })
    } finally {
      running.delete(id)
    }
  }

  return new Promise((resolve) => {
    const end = (how: SessionEnd | 'gone'): void => {
      const cancelled = new TimoneError('cancelled', 'git-lfs is gone')
      for (const stop of running.values()) stop.abort(cancelled)
      resolve(how)
    }
    readLines(input, {
      line: (text) => {
        const request = JSON.parse(text) as EngineRequest
        if ('close' in request) end(request.close)
        else if ('cancel' in request)
          running.get(request.id)?.abort(new TimoneError('cancelled', request.cancel))
        else void serve(request.id, request.message)
      },
      overlong: () => log.error({}, 'a request is too long'),
      end: () => end('gone'),
    })
  })
}

function describe(error: unknown): { code: TimoneError['code']; message: string } {
  if (isTimoneError(error)) return { code: error.code, message: error.message }
  const message = error instanceof Error ? error.message : String(error)
  return { code: 'internal', message: `unexpected failure: ${message}` }
}

/** Reports sums, and none for an object that is whole before anybody could have looked. */
class QuietProgress extends Progress {
  constructor(size: number, report: (bytes: number) => void) {
    const begun = size <= SMALL ? performance.now() : undefined
    super(size, ({ bytesSoFar }) => {
      if (begun !== undefined && performance.now() - begun < QUIET) return false
      report(bytesSoFar)
      return true
    })
  }
}
