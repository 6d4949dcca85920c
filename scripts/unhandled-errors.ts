import { writeFileSync } from 'node:fs'
import type { Reporter } from 'vitest/reporters'

/** A vitest reporter that makes the file UNHANDLED_ERRORS when an error belongs to no test: no report of vitest's tells. */
export default class UnhandledErrors implements Reporter {
  onTestRunEnd(_files: unknown, errors: readonly unknown[]): void {
    const file = process.env.UNHANDLED_ERRORS
    if (errors.length > 0 && file !== undefined) writeFileSync(file, '')
  }
}
