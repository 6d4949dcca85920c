import { holds, median, type Row } from './bench-case.ts'

const shown = (numbers: number[], unit: string): string => {
  const digits = unit === 'MiB' || unit === 'bytes' ? 0 : unit === 'ms' ? 1 : 2
  const [low, high] = [Math.min(...numbers), Math.max(...numbers)].map((number) => number.toFixed(digits))
  const middle = median(numbers).toFixed(digits)
  return numbers.length === 1 || low === high ? middle : `${middle} (${low}–${high})`
}

const answer = (row: Row): string => {
  const held = holds(row)
  return held === undefined ? '' : held ? 'yes' : '**no**'
}

/** The rows as Markdown: those that compare, then what the processes took. Figures are medians, lowest and highest. */
export function markdown(rows: Row[]): string {
  const lines = [
    '| case | what | timone | other |  | ratio | must | holds | runs |',
    '| --- | --- | --- | --- | --- | --- | --- | --- | --- |',
  ]
  for (const row of rows.filter(({ detail }) => !detail)) {
    const other = row.other.length > 0 ? shown(row.other, row.unit) : ''
    const must =
      row.limit !== undefined
        ? `≤ ${row.limit} ${row.unit}`
        : row.atLeast !== undefined
          ? `≥ ${row.atLeast.toFixed(2)}`
          : ''
    const ratio = Number.isFinite(row.ratio) ? row.ratio.toFixed(2) : ''
    const otherName = row.otherName === 'limit' ? '' : row.otherName
    lines.push(
      `| ${row.case} | ${row.metric}, ${row.unit} | ${shown(row.timone, row.unit)} | ${other} | ${otherName} | ${ratio} | ${must} | ${answer(row)} | ${row.timone.length} |`,
    )
  }
  const details = rows.filter(({ detail }) => detail)
  if (details.length > 0) {
    lines.push(
      '',
      '| case | what it took | timone | other | must | holds |',
      '| --- | --- | --- | --- | --- | --- |',
    )
  }
  for (const row of details) {
    const other = row.other.length > 0 ? shown(row.other, row.unit) : ''
    const must = row.limit === undefined ? '' : `≤ ${row.limit}`
    lines.push(
      `| ${row.case} | ${row.metric}, ${row.unit} | ${shown(row.timone, row.unit)} | ${other} | ${must} | ${answer(row)} |`,
    )
  }
  return `${lines.join('\n')}\n`
}

/** The rows as JSON: one record each, with medians. */
export function json(rows: Row[]): string {
  const records = rows.map((row) => ({
    case: row.case,
    metric: row.metric,
    timone: median(row.timone),
    other: row.other.length > 0 ? median(row.other) : (row.limit ?? null),
    other_name: row.otherName,
    ratio: Number.isFinite(row.ratio) ? row.ratio : null,
    unit: row.unit,
    runs: row.timone.length,
    ...(row.atLeast === undefined ? {} : { ratio_at_least: row.atLeast }),
    ...(holds(row) === undefined ? {} : { holds: holds(row) }),
  }))
  return `${JSON.stringify(records, null, 2)}\n`
}
