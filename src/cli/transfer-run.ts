import { setFlagsFromString } from 'node:v8'
import { createAgentLog } from '../agent/log.ts'
import { isTimoneError, type TimoneError } from '../errors.ts'
import type { Logger } from '../log.ts'
import { interruptible } from './interruption.ts'
import type { Io } from './io.ts'
import type { NamedObject } from './move-objects.ts'
import { type Display, openDisplay, type TransferCommand } from './progress-display.ts'
import { Tally } from './tally.ts'

/** Options that push, pull and fetch share. */
export interface TransferOptions {
  readonly remote?: string | undefined
  readonly json?: boolean | undefined
  readonly quiet?: boolean | undefined
}

/** What one push, pull or fetch works with. */
export interface TransferRun {
  readonly io: Io
  readonly display: Display
  readonly tally: Tally
  readonly log: Logger
  readonly signal: AbortSignal
  /** Reports what went wrong with one object; the others go on. */
  fail(object: NamedObject, error: unknown): void
}

/**
 * Runs `work` with a display and an interruptible signal, and gives the exit code: 0 all done, 1 something failed, 2
 * usage or configuration, 130 interrupted. What stops everything is shown like the rest, at the end.
 */
export async function runTransfer(
  command: TransferCommand,
  options: TransferOptions,
  io: Io,
  work: (run: TransferRun) => Promise<void>,
): Promise<number> {
  // As in the agent: the space for new objects would grow to tens of MiB under load, for small garbage only.
  setFlagsFromString('--semi-space-growth-factor=1')
  const tally = new Tally()
  const display = openDisplay(io, {
    command,
    tally,
    json: options.json ?? false,
    quiet: options.quiet ?? false,
  })
  const file = createAgentLog({
    level: io.env.TIMONE_LOG_LEVEL ?? 'info',
    file: io.env.TIMONE_LOG,
    stderr: () => {},
  })
  const log = countRetries(file, tally)
  const code = await interruptible(
    io,
    () => display.stop(),
    async (signal) => {
      const fail = (object: NamedObject, error: unknown): void => {
        tally.failed++
        log.error({ oid: object.oid, code: codeOf(error) }, messageOf(error))
        display.failure({
          oid: object.oid,
          path: object.path,
          code: codeOf(error),
          message: messageOf(error),
        })
      }
      try {
        await work({ io, display, tally, log, signal, fail })
      } catch (error) {
        if (signal.aborted) return 130
        if (!isTimoneError(error)) {
          display.stop()
          throw error
        }
        log.error({ code: error.code }, error.message)
        display.failure({ code: error.code, message: error.message })
        return error.code === 'config' ? 2 : 1
      }
      return signal.aborted ? 130 : tally.failed > 0 ? 1 : 0
    },
  )
  display.finish(code)
  file.close()
  return code
}

/** Every retry is logged as a warning that says how long it waits. */
function countRetries(log: Logger, tally: Tally): Logger {
  return {
    debug: (fields, message) => log.debug(fields, message),
    info: (fields, message) => log.info(fields, message),
    warn(fields, message) {
      if ('delay' in fields) tally.retries++
      log.warn(fields, message)
    },
    error: (fields, message) => log.error(fields, message),
  }
}

const codeOf = (error: unknown): TimoneError['code'] => (isTimoneError(error) ? error.code : 'internal')

const messageOf = (error: unknown): string =>
  isTimoneError(error)
    ? error.message
    : `unexpected failure: ${error instanceof Error ? error.message : String(error)}`
