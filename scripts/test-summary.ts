import { readFileSync } from 'node:fs'
import { relative } from 'node:path'

/**
 * Reads vitest's JSON reports for scripts/test.
 *
 * `test-summary --failed REPORT` prints the files that failed, one a line; nothing when there is no report, or when so
 * many failed that it is not the machine.
 *
 * `test-summary REPORT…` prints what failed and the closing line, and fails when a test failed or nothing ran. Beside
 * `1.json` lies `1.again.json` when its failed files have run again: that run counts for them, and every test that
 * failed only in the first is named, because it depends on the machine's load and wants mending.
 */
interface Test {
  fullName: string
  status: string
  failureMessages?: string[]
}
interface TestFile {
  name: string
  status: string
  message?: string
  assertionResults: Test[]
}

const MANY = 4

function read(file: string): TestFile[] | undefined {
  try {
    return (JSON.parse(readFileSync(file, 'utf8')) as { testResults: TestFile[] }).testResults
  } catch {
    return undefined
  }
}

const short = (name: string) => relative(process.cwd(), name)
const firstLine = (text = '') => text.replace(/\n.*/s, '')

/** Failures of a file by test; a file that could not be loaded has no tests in it to count: it counts as one. */
function failures({ name, status, message, assertionResults }: TestFile): Map<string, string> {
  const failed = assertionResults.filter((test) => test.status === 'failed')
  const found = new Map(
    failed.map((test) => [`${short(name)} > ${test.fullName}`, firstLine(test.failureMessages?.[0])]),
  )
  if (status === 'failed' && found.size === 0) found.set(short(name), firstLine(message))
  return found
}

function summarise(reports: string[]): void {
  const count = { passed: 0, failed: 0, skipped: 0 }
  const say = (text: string) => process.stdout.write(`${text}\n`)
  for (const report of reports) {
    const first = read(report)
    const again = read(report.replace(/\.json$/, '.again.json')) ?? []
    if (first === undefined) {
      say(`${report}: the tests ended without a report`)
      count.failed += 1
    }
    for (const file of first ?? []) {
      const last = again.find(({ name }) => name === file.name) ?? file
      const failed = failures(last)
      for (const [name, why] of failed) say(`FAILED ${name}: ${why}`)
      for (const [name, why] of failures(file)) {
        if (!failed.has(name)) say(`PASSED ONLY WHEN RUN AGAIN ${name}: ${why}`)
      }
      count.failed += failed.size
      for (const { status } of last.assertionResults) {
        if (status === 'passed') count.passed += 1
        else if (status !== 'failed') count.skipped += 1
      }
    }
  }
  say(`${count.passed} passed, ${count.failed} failed, ${count.skipped} skipped`)
  process.exitCode = count.failed === 0 && count.passed > 0 ? 0 : 1
}

const [option, ...rest] = process.argv.slice(2)
if (option === '--failed') {
  const files = rest.flatMap((report) => read(report) ?? []).filter((file) => failures(file).size)
  if (files.length <= MANY) process.stdout.write(files.map(({ name }) => `${short(name)}\n`).join(''))
} else {
  summarise([option ?? '', ...rest])
}
