import type { Readable, Writable } from 'node:stream'
import type { ProgramLocation } from './agent-command.ts'

/** What a command may touch of the process: data goes to stdout, everything said about it to stderr. */
export interface Io {
  readonly stdin: Readable
  readonly stdout: Writable
  readonly stderr: Writable
  readonly env: Readonly<Record<string, string | undefined>>
  /** Absolute. */
  readonly cwd: string
  /** Fires when the user interrupts; without it the process simply ends. */
  readonly signal?: AbortSignal
  /** How this program is started; default: found from the process. */
  readonly program?: ProgramLocation
}

/** Prints lines of data. */
export function print(io: Io, ...lines: readonly string[]): void {
  io.stdout.write(lines.map((line) => `${line}\n`).join(''))
}

/** Prints `value` as JSON for programs, indented for people who look. */
export function printJson(io: Io, value: unknown): void {
  print(io, JSON.stringify(value, null, 2))
}

/** Text without anything that a terminal would obey, and on one line. */
export function clean(text: string): string {
  return text.replace(/\p{Cc}+/gu, ' ')
}

/** Says something about the data, on stderr. */
export function say(io: Io, ...lines: readonly string[]): void {
  io.stderr.write(lines.map((line) => `timone: ${line}\n`).join(''))
}
