import { readFileSync } from 'node:fs'

/** Prints the closing line of scripts/test from vitest's JSON reports; fails when nothing ran. */
interface Report {
  numPassedTests: number
  numFailedTests: number
  numPendingTests: number
  numTodoTests: number
  testResults: { name: string; status: string; assertionResults: unknown[] }[]
}

let [passed, failed, skipped] = [0, 0, 0]
for (const file of process.argv.slice(2)) {
  let report: Report | undefined
  try {
    report = JSON.parse(readFileSync(file, 'utf8')) as Report
  } catch {
    process.stderr.write('scripts/test: the tests ended without a report\n')
  }
  // A file that could not be loaded has no tests in it to count: it counts as one that failed.
  const broken =
    report?.testResults.filter(
      ({ status, assertionResults }) => status === 'failed' && assertionResults.length === 0,
    ).length ?? 1
  passed += report?.numPassedTests ?? 0
  failed += (report?.numFailedTests ?? 0) + broken
  skipped += (report?.numPendingTests ?? 0) + (report?.numTodoTests ?? 0)
}
process.stdout.write(`${passed} passed, ${failed} failed, ${skipped} skipped\n`)
process.exitCode = failed === 0 && passed > 0 ? 0 : 1
