import { rm } from 'node:fs/promises'
import { backendSettings, type RunningServer, startServer } from '../../test/helpers/world.ts'
import { against, type BenchCase, pairs, type Row } from './bench-case.ts'
import { writeSparse } from './data-set.ts'
import type { Measured, Stage } from './stage.ts'
import { commandOf, type Job, transfer } from './transfer.ts'

const GIB = 2 ** 30
const LIMIT = 300
/** The peak may be so many times that of the small set and still count as flat: page tables and garbage vary. */
const FLAT = 1.25

/** Rows for the peaks of small and large: each within the limit, and the large one no higher. */
function rows(name: string, job: Job, small: Measured[], large: Measured[], sizes: [string, string]): Row[] {
  const [small_, large_] = [small, large].map((list) => list.map(({ pss }) => pss)) as [number[], number[]]
  return [
    against(
      name,
      `${job} ${sizes[1]} through git-lfs, peak memory of our processes (PSS)`,
      'MiB',
      large_,
      LIMIT,
    ),
    {
      ...pairs(name, `${job} ${sizes[1]}, the same against ${sizes[0]}`, 'MiB', large_, small_, sizes[0]),
      atLeast: 1 / FLAT,
    },
  ]
}

/** Memory with 50 000 objects against 2 000. */
export const manyObjects: BenchCase = async ({ runs = 1, stage: open }) => {
  const stage = await open()
  const measured: Record<string, Measured[]> = {}
  for (let round = 0; round < runs; round++) {
    for (const set of ['small', '50k'] as const) {
      for (const job of ['push', 'fetch'] as const) {
        measured[`${job} ${set}`] ??= []
        const figures = await transfer(stage, 'agent', job, 'loopback', set)
        measured[`${job} ${set}`]?.push(figures)
        process.stderr.write(
          `  ${job} ${set}: ${figures.pss.toFixed(0)} MiB, ${figures.seconds.toFixed(1)} s\n`,
        )
      }
    }
  }
  return (['push', 'fetch'] as const).flatMap((job) =>
    rows('memory-50k', job, measured[`${job} small`] as Measured[], measured[`${job} 50k`] as Measured[], [
      '2 000 objects',
      '50 000 objects',
    ]),
  )
}

/** Memory with an object of 20 GiB against 1 GiB; on the server's file store, as Ceph keeps its objects in memory here. */
export const hugeObject: BenchCase = async ({ runs = 1, stage: open }) => {
  const stage = await open()
  const measured: Record<string, Measured[]> = {}
  for (let round = 0; round < runs; round++) {
    for (const size of [1, 20]) {
      const data = stage.world.path('data-file')
      const server = await startServer(data, { ...backendSettings('file', data), TIMONE_LOG_LEVEL: 'warn' })
      try {
        await moveSparse(stage, server, size, measured)
      } finally {
        await server.stop()
        await rm(data, { recursive: true, force: true })
      }
    }
  }
  return (['push', 'fetch'] as const).flatMap((job) =>
    rows('memory-20gib', job, measured[`${job} 1`] as Measured[], measured[`${job} 20`] as Measured[], [
      '1 GiB',
      '20 GiB (file store)',
    ]),
  )
}

async function moveSparse(
  stage: Stage,
  server: RunningServer,
  size: number,
  measured: Record<string, Measured[]>,
): Promise<void> {
  const name = `sparse-${size}`
  await stage.trust(server)
  try {
    const work = await stage.makeRepository(name)
    const file = await writeSparse(work, size * GIB, name)
    const clone = await stage.clone(await stage.commit(name, work, [file]))
    for (const [job, folder] of [
      ['push', work],
      ['fetch', clone],
    ] as const) {
      await stage.point(folder, server, 'run/sparse')
      const figures = await stage.measure(...commandOf('agent', job), folder, stage.env.agent)
      measured[`${job} ${size}`] ??= []
      measured[`${job} ${size}`]?.push(figures)
      process.stderr.write(
        `  ${job} ${size} GiB: ${figures.pss.toFixed(0)} MiB, ${figures.seconds.toFixed(1)} s\n`,
      )
    }
    await rm(clone, { recursive: true })
  } finally {
    await rm(stage.world.path(name), { recursive: true, force: true })
  }
}
