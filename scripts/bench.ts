import { writeFile } from 'node:fs/promises'
import { parseArgs } from 'node:util'
import { type BenchCase, median, type Row } from './bench-cases/bench-case.ts'
import { client } from './bench-cases/client.ts'
import { agentMemory, serverMemory } from './bench-cases/memory.ts'
import { start } from './bench-cases/start.ts'

const CASES: Record<string, BenchCase> = {
  start,
  client,
  'agent-memory': agentMemory,
  'server-memory': serverMemory,
}

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: { runs: { type: 'string' }, json: { type: 'string' } },
})
const unknown = positionals.filter((name) => CASES[name] === undefined)
if (unknown.length > 0) {
  process.stderr.write(
    `scripts/bench: no case ${unknown.join(', ')}; there are ${Object.keys(CASES).join(', ')}\n`,
  )
  process.exit(2)
}

const rows: Row[] = []
for (const [name, run] of Object.entries(CASES)) {
  if (positionals.length > 0 && !positionals.includes(name)) continue
  process.stderr.write(`${name} …\n`)
  rows.push(...(await run({ runs: values.runs === undefined ? undefined : Number(values.runs) })))
}

const shown = (numbers: number[], unit: string): string => {
  const digits = unit === 'MiB' ? 0 : 3
  const [low, high] = [Math.min(...numbers), Math.max(...numbers)]
  return `${median(numbers).toFixed(digits)} (${low.toFixed(digits)}–${high.toFixed(digits)})`
}
process.stdout.write(
  '| case | metric | timone | other | | ratio | runs |\n| --- | --- | --- | --- | --- | --- | --- |\n',
)
for (const row of rows) {
  const other = row.other.length === 0 ? `${row.limit ?? ''}` : shown(row.other, row.unit)
  process.stdout.write(
    `| ${row.case} | ${row.metric}, ${row.unit} | ${shown(row.timone, row.unit)} | ${other} | ${row.otherName} | ${row.ratio.toFixed(2)} | ${row.timone.length} |\n`,
  )
}
if (values.json !== undefined) {
  const records = rows.map((row) => ({
    case: row.case,
    metric: row.metric,
    timone: median(row.timone),
    other: row.other.length === 0 ? row.limit : median(row.other),
    other_name: row.otherName,
    ratio: row.ratio,
    unit: row.unit,
    runs: row.timone.length,
  }))
  await writeFile(values.json, `${JSON.stringify(records, null, 2)}\n`)
}
