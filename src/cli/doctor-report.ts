import { TimoneError } from '../errors.ts'
import { type Io, print, printJson } from './io.ts'

/** What one check found. */
export interface Finding {
  /** What was checked, in a word or two. */
  readonly name: string
  /** `skip`: it could not be checked, because of something above or because it does not apply. */
  readonly status: 'ok' | 'warn' | 'fail' | 'skip'
  /** One line for a person. */
  readonly message: string
  /** The command that mends it: always there with `warn` and `fail`. */
  readonly fix?: string
}

export const ok = (name: string, message: string): Finding => ({ name, status: 'ok', message })
export const skip = (name: string, message: string): Finding => ({ name, status: 'skip', message })
export const warn = (name: string, message: string, fix: string): Finding => ({
  name,
  status: 'warn',
  message,
  fix,
})
export const fail = (name: string, message: string, fix: string): Finding => ({
  name,
  status: 'fail',
  message,
  fix,
})

/** A check that met an error on the way. What is no {@link TimoneError} is a fault of ours and thrown on. */
export function failed(name: string, error: unknown, fix: string): Finding {
  if (!(error instanceof TimoneError) || error.code === 'cancelled') throw error
  return fail(name, error.message, fix)
}

/** Prints what was found. Gives the exit code: 1 when something fails. */
export function report(findings: readonly Finding[], json: boolean, io: Io): number {
  const failures = findings.filter(({ status }) => status === 'fail').length
  if (json) {
    printJson(io, { ok: failures === 0, checks: findings })
    return failures === 0 ? 0 : 1
  }
  const width = Math.max(...findings.map(({ name }) => name.length))
  for (const { name, status, message, fix } of findings) {
    const advice = fix === undefined ? '' : ` -> ${fix}`
    // Some of it is a server's or a file's word: nothing that the terminal would obey.
    const line = `${message}${advice}`.replace(/\p{Cc}+/gu, ' ')
    print(io, `${LABELS[status]}  ${name.padEnd(width)}  ${line}`)
  }
  const warnings = findings.filter(({ status }) => status === 'warn').length
  print(io, summary(failures, warnings))
  return failures === 0 ? 0 : 1
}

const LABELS = { ok: 'ok  ', warn: 'warn', fail: 'FAIL', skip: '-   ' } as const

function summary(failures: number, warnings: number): string {
  if (failures + warnings === 0) return 'everything is in order'
  const parts = [
    ...(failures === 0 ? [] : [`${failures} to mend`]),
    ...(warnings === 0 ? [] : [`${warnings} to look at`]),
  ]
  return `${parts.join(', ')}: what to do stands behind the arrow`
}
