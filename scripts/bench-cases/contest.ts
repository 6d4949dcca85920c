import { figure, pairs, type Row } from './bench-case.ts'
import type { Measured } from './stage.ts'

/** One way to do the job that is measured. */
export interface Contestant {
  /** As it is named in the table. */
  name: string
  /** Does the job from the agreed start and cleans up; only what it measures counts. `round` -1 is the warm-up. */
  run(round: number): Promise<Measured>
}

/** What must hold for one of ours. */
export interface Must {
  /** Ratio of times, at least. */
  ratio?: number
  /** CPU seconds of all our processes together, at most. */
  cpu?: number
  /** MiB of memory of all our processes together, at most. */
  memory?: number
}

export interface Contest {
  case: string
  /** What is done, e.g. `push`. */
  job: string
  ours: { contestant: Contestant; must: Must }[]
  rival: Contestant
  runs: number
}

/**
 * Measures ours and the rival in turn, after one round to warm up; every other round in reverse order, so that neither
 * always finds what the other has left behind.
 */
export async function contest({ case: name, job, ours, rival, runs }: Contest): Promise<Row[]> {
  const all = [...ours.map(({ contestant }) => contestant), rival]
  const measured = new Map<Contestant, Measured[]>(all.map((one) => [one, []]))
  for (let round = -1; round < runs; round++) {
    for (const one of round % 2 === 0 ? all : all.toReversed()) {
      const figures = await one.run(round)
      process.stderr.write(
        `  ${round < 0 ? 'warm-up' : `round ${round + 1} of ${runs}`}: ${one.name} ${figures.seconds.toFixed(2)} s\n`,
      )
      if (round >= 0) measured.get(one)?.push(figures)
    }
  }
  const of = (one: Contestant, key: keyof Measured): number[] =>
    (measured.get(one) as Measured[]).map((figures) => figures[key])
  return ours.flatMap(({ contestant, must }) => {
    const title = `${job} by ${contestant.name}`
    const time = pairs(name, title, 's', of(contestant, 'seconds'), of(rival, 'seconds'), rival.name)
    if (must.ratio !== undefined) time.atLeast = must.ratio
    const detail = (metric: string, unit: string, key: keyof Measured, limit?: number): Row => ({
      ...figure(name, `${title}: ${metric}`, unit, of(contestant, key)),
      ...(limit === undefined ? {} : { limit, otherName: 'limit' }),
      detail: true,
    })
    return [
      time,
      detail('CPU of our processes', 's', 'cpu', must.cpu),
      detail('peak memory of our processes (PSS)', 'MiB', 'pss', must.memory),
      detail('peak memory of our processes (RSS)', 'MiB', 'rss', must.memory),
      {
        ...pairs(
          name,
          `${title}: CPU of the whole client`,
          's',
          of(contestant, 'client'),
          of(rival, 'client'),
          rival.name,
        ),
        detail: true,
      },
    ]
  })
}
