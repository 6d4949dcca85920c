import { writeFile } from 'node:fs/promises'
import { parseArgs } from 'node:util'
import type { Row } from './bench-cases/bench-case.ts'
import { CASES, isDefault } from './bench-cases/cases.ts'
import { Stage } from './bench-cases/stage.ts'
import { json, markdown } from './bench-cases/table.ts'

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    runs: { type: 'string' },
    json: { type: 'string' },
    tls: { type: 'boolean', default: false },
    loss: { type: 'string', default: '0' },
    stall: { type: 'string', default: '0' },
    list: { type: 'boolean', default: false },
  },
})
const fail = (message: string): never => {
  process.stderr.write(`scripts/bench: ${message}\n`)
  process.exit(2)
}
const numberOf = (name: 'runs' | 'loss' | 'stall'): number | undefined => {
  const number = values[name] === undefined ? undefined : Number(values[name])
  if (number !== undefined && !(number >= (name === 'runs' ? 1 : 0)))
    return fail(`--${name} takes a number, not ${values[name]}`)
  return number
}
const runs = numberOf('runs')
const line = { tls: values.tls, loss: numberOf('loss') ?? 0, stall: numberOf('stall') ?? 0 }

const names = Object.keys(CASES)
if (values.list) {
  for (const name of names) process.stdout.write(`${isDefault(name) ? '*' : ' '} ${name}\n`)
  process.exit(0)
}
const chosen = new Set<string>()
for (const pattern of positionals) {
  const exact = pattern
    .replace(/[.+^${}()|[\]\\]/g, '\\$&')
    .replaceAll('*', '.*')
    .replaceAll('?', '.')
  const found = names.filter((name) => new RegExp(`^${exact}$`).test(name))
  if (found.length === 0) fail(`no case ${pattern}; scripts/bench --list shows them`)
  for (const name of found) chosen.add(name)
}

let opened: Promise<Stage> | undefined
let stopping = false
for (const [signal, code] of [
  ['SIGINT', 130],
  ['SIGTERM', 143],
] as const) {
  process.once(signal, async () => {
    stopping = true
    await (await opened)?.close()
    process.exit(code)
  })
}
const rows: Row[] = []
let failed = false
try {
  for (const name of names) {
    if (positionals.length > 0 ? !chosen.has(name) : !isDefault(name)) continue
    process.stderr.write(`${name} …\n`)
    const stage = (): Promise<Stage> => {
      opened ??= Stage.open(line)
      return opened
    }
    try {
      rows.push(...(await (CASES[name] as (typeof CASES)[string])({ runs, stage })))
    } catch (error) {
      if (stopping) break
      // The others' figures are still worth having.
      failed = true
      process.stderr.write(`${name} failed: ${error instanceof Error ? error.stack : error}\n`)
    }
  }
} finally {
  if (!stopping) await (await opened)?.close()
}
if (stopping) await new Promise(() => {})
process.stdout.write(markdown(rows))
if (values.json !== undefined) await writeFile(values.json, json(rows))
if (failed) process.exitCode = 1
