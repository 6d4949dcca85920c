import { closeSync, openSync, writeSync } from 'node:fs'
import type { Logger } from '../log.ts'

const LEVELS = ['debug', 'info', 'warn', 'error'] as const
type Level = (typeof LEVELS)[number]

/**
 * The agent's log: lines of JSON on stderr (which git-lfs shows only under GIT_TRACE) and, with `file`, appended there
 * too. Its own few lines instead of a library, since they are loaded before the first answer on every start.
 * Callers hand in no secrets: never an action header, a signed URL, or the remote's URL.
 */
export function createAgentLog(options: {
  level: string
  file?: string | undefined
  stderr: (line: string) => void
}): Logger & { close(): void } {
  const threshold = Math.max(0, LEVELS.indexOf(options.level as Level))
  let fd: number | undefined
  if (options.file !== undefined && options.file !== '') {
    try {
      fd = openSync(options.file, 'a', 0o600)
    } catch (error) {
      options.stderr(
        `timone: cannot write the log file TIMONE_LOG=${options.file}: ${(error as Error).message}\n`,
      )
    }
  }
  const write = (level: Level, fields: object, message: string): void => {
    if (LEVELS.indexOf(level) < threshold) return
    const line = `${JSON.stringify({ time: new Date().toISOString(), level, pid: process.pid, message, ...fields })}\n`
    options.stderr(line)
    if (fd !== undefined) {
      try {
        writeSync(fd, line)
      } catch {
        // A full disk must not end a transfer for the sake of its log.
        closeSync(fd)
        fd = undefined
      }
    }
  }
  return {
    debug: (fields, message) => write('debug', fields, message),
    info: (fields, message) => write('info', fields, message),
    warn: (fields, message) => write('warn', fields, message),
    error: (fields, message) => write('error', fields, message),
    close: () => {
      if (fd !== undefined) closeSync(fd)
      fd = undefined
    },
  }
}
