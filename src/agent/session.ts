import type { Readable, Writable } from 'node:stream'
import { type ErrorCode, isTimoneError, TimoneError } from '../errors.ts'
import type { Logger } from '../log.ts'
import { MessageWriter, readLines } from './channel.ts'
import { Progress } from './progress.ts'
import {
  type IncomingMessage,
  type InitMessage,
  parseMessage,
  type TransferMessage,
  type WireError,
} from './protocol.ts'

export interface TransferOptions {
  /** Asked when the transfer fails or is stopped: true when nothing may be left for a later run to go on with. */
  leaveNothing?: () => boolean
}

export interface Transferred {
  /** The finished file of a download. */
  path?: string
  /** It came out of the shared cache. */
  cached?: boolean
  /** The store itself said that it has the upload, in answer to the one request that the oid was bound to. */
  stored?: boolean
  /** An upload of what was there already: nothing was sent. */
  present?: boolean
}

/** Moves one object. Errors fail that object only. */
export type Transfer = (
  message: TransferMessage,
  progress: Progress,
  signal: AbortSignal,
  options?: TransferOptions,
) => Promise<Transferred>

export interface SessionOptions {
  input: Readable
  output: Writable
  log: Logger
  /**
   * Loads what moves bytes. Called after `init` was answered, since git-lfs starts its agents one after another and
   * waits for each answer.
   */
  open: (init: InitMessage) => Promise<Transfer>
  /** Stops everything: a signal from the terminal. */
  signal: AbortSignal
  /** After end of file, how long a transfer in flight may still finish; milliseconds. */
  grace?: number
}

/** How a conversation ended: by `terminate`, or because one end went away. */
export type SessionEnd = 'finished' | 'cut'

/** HTTP-like integer for each kind of failure: git-lfs prints it in brackets before the message. */
const WIRE_CODES: Record<ErrorCode, number> = {
  cancelled: 499,
  clock_skew: 403,
  config: 400,
  conflict: 409,
  connection: 503,
  credentials_expired: 401,
  denied: 403,
  disk_full: 507,
  dns: 503,
  exists: 409,
  forbidden: 403,
  hash_mismatch: 422,
  internal: 500,
  invalid: 422,
  lease_broken: 400,
  malformed: 400,
  method_not_allowed: 405,
  no_such_bucket: 404,
  no_such_upload: 404,
  not_acceptable: 404,
  not_found: 404,
  precondition_failed: 412,
  proxy: 502,
  quota_exceeded: 507,
  rate_limited: 429,
  read_only: 507,
  size_mismatch: 422,
  throttled: 503,
  timeout: 504,
  tls: 495,
  too_large: 413,
  unauthorized: 401,
  unavailable: 503,
  upstream: 503,
  uri_too_long: 414,
  wrong_region: 400,
}

/**
 * The one place where an error becomes what git-lfs shows: one line of bounded length, without control characters,
 * since parts of it may be a server's words and git-lfs writes it to the terminal as it is.
 */
export function toWireError(error: unknown, what?: string): WireError {
  const known = isTimoneError(error)
  const text = known
    ? error.message
    : `unexpected failure: ${error instanceof Error ? error.message : String(error)}`
  const message = (what === undefined ? text : `${what}: ${text}`)
    .replace(/[\s\p{Cc}\p{Cf}]+/gu, ' ')
    .trim()
    .slice(0, 1000)
  return { code: known ? WIRE_CODES[error.code] : 500, message }
}

/**
 * Speaks the custom transfer protocol until `terminate`, end of file, or `signal`.
 *
 * git-lfs sends one request at a time and waits for ever, so every request is answered exactly once, whatever happens
 * to it, and nothing else is ever written. After end of file (git-lfs was killed, or its terminal interrupted) a
 * transfer in flight is stopped after `grace`; what it left on disk is what the next run continues from.
 */
export async function runSession(options: SessionOptions): Promise<SessionEnd> {
  const { input, output, log } = options
  const stop = new AbortController()
  const cancel = (why: string): void => {
    if (!stop.signal.aborted) stop.abort(new TimoneError('cancelled', why))
  }
  if (options.signal.aborted) cancel('interrupted')
  options.signal.addEventListener('abort', () => cancel('interrupted'), { once: true })

  const writer = new MessageWriter(output, () => cancel('git-lfs has closed the pipe'))
  // Lines are read one at a time, in order: whether a bad one may be answered depends on those before it.
  const queue: string[] = []
  let initialised = false
  let wake: () => void = () => {}
  let ended = false

  const reject = (problem: string): void => {
    log.warn({}, `ignored ${problem}`)
    // Before init something is waited for; later a stray line would be taken for the answer to the next object.
    if (!initialised)
      void writer.send({ error: { code: 400, message: `timone agent: expected init, got ${problem}` } })
  }
  readLines(input, {
    line: (text) => {
      queue.push(text)
      wake()
    },
    overlong: () => reject('a line that is too long'),
    end: () => {
      ended = true
      wake()
      setTimeout(() => cancel('git-lfs is gone'), options.grace ?? 900).unref()
    },
  })
  stop.signal.addEventListener('abort', () => wake(), { once: true })

  const next = async (): Promise<IncomingMessage | undefined> => {
    while (!stop.signal.aborted) {
      const line = queue.shift()
      if (line !== undefined) {
        try {
          return parseMessage(line)
        } catch (error) {
          reject(isTimoneError(error) ? error.message : 'a line that cannot be read')
          continue
        }
      }
      if (ended) return undefined
      await new Promise<void>((resolve) => {
        wake = resolve
      })
    }
    return undefined
  }

  let transfer: Promise<Transfer> | undefined
  for (let message = await next(); message !== undefined; message = await next()) {
    if (message.event === 'terminate') return 'finished'
    if (message.event === 'init') {
      if (initialised) {
        log.warn({}, 'ignored a second init')
        continue
      }
      initialised = true
      await writer.send({})
      const opening = options.open(message)
      // A failure is told for each object that needs it, not as an unhandled rejection.
      opening.catch(() => {})
      transfer = opening
    } else if (transfer === undefined) {
      reject(`${message.event} before init`)
    } else {
      await answer(message, transfer, writer, stop.signal, log)
    }
  }
  return 'cut'
}

async function answer(
  message: TransferMessage,
  opening: Promise<Transfer>,
  writer: MessageWriter,
  signal: AbortSignal,
  log: Logger,
): Promise<void> {
  const { oid } = message
  const started = Date.now()
  const progress = new Progress(Number.isFinite(message.size) ? message.size : 0, (report) => {
    if (writer.congested) return false
    void writer.send({ event: 'progress', oid, ...report })
    return true
  })
  try {
    const transfer = await opening
    const { path } = await transfer(message, progress, signal)
    progress.finish()
    log.info({ oid, size: message.size, ms: Date.now() - started }, `${message.event} complete`)
    await writer.send(path === undefined ? { event: 'complete', oid } : { event: 'complete', oid, path })
  } catch (error) {
    const wire = toWireError(error, `${message.event} of ${oid.slice(0, 64)}`)
    log.error(
      { oid, code: isTimoneError(error) ? error.code : 'internal', ms: Date.now() - started },
      wire.message,
    )
    if (!isTimoneError(error) && error instanceof Error)
      log.error({ oid, stack: error.stack }, 'unexpected failure')
    await writer.send({ event: 'complete', oid, error: wire })
  }
}
