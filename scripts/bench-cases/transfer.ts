import { rm, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { lfsObject, TIMONE } from '../../test/helpers/world.ts'
import { type BenchCase, stored } from './bench-case.ts'
import { type Contestant, contest, type Must } from './contest.ts'
import type { DataSetName } from './data-set.ts'
import type { Measured, Net, PreparedSet, Stage } from './stage.ts'

export type Job = 'push' | 'fetch' | 'pull'

/** How a job is done: by git-lfs, with the agent or by itself, or by timone's own command. */
export type Way = 'agent' | 'command' | 'basic'

/** What the whole of timone's processes may take. */
const MEMORY = 300
const CPU_PER_GIB: Record<Job, number> = { push: 1.3, fetch: 2.5, pull: 2.5 }
/** Ratios that must hold, against git-lfs by itself. */
const RATIOS: Record<string, number> = {
  'wan-push-1gib': 6,
  'wan-fetch-1gib': 6,
  'wan-push-small': 4.5,
  'wan-fetch-small': 4,
  'wan-pull-small': 4,
  'loopback-push-small': 1.4,
  'loopback-fetch-small': 1.4,
  'loopback-push-1gib': 0.95,
  'loopback-fetch-1gib': 0.95,
  'loopback-push-8x128mib': 0.95,
  'loopback-fetch-8x128mib': 0.95,
  'loopback-pull-8x128mib': 2.3,
  'loopback-pull-1gib': 2.3,
  'loopback-pull-small': 1.4,
}

/** Runs one of the jobs over a data set, from the same state each time, and sees that it was done. */
export async function transfer(
  stage: Stage,
  way: Way,
  job: Job,
  net: Net,
  set: DataSetName,
  configure: (folder: string) => Promise<void> = async () => {},
): Promise<Measured> {
  const prepared = await stage.dataSet(set)
  const [command, args] = commandOf(way, job)
  const env = way === 'basic' ? stage.env.plain : stage.env.agent
  if (job === 'push') {
    const repository = stage.newRepository()
    await stage.point(prepared.work, net, repository)
    await configure(prepared.work)
    const measured = await stage.measure(command, args, prepared.work, env)
    await expectStored(stage, repository, prepared)
    await stage.drop(repository)
    return measured
  }
  const repository = await stage.seed(set)
  const folder = await stage.clone(prepared.origin)
  await stage.point(folder, net, repository)
  await configure(folder)
  const measured = await stage.measure(command, args, folder, env)
  await expectLoaded(folder, prepared, job === 'pull')
  await rm(folder, { recursive: true })
  return measured
}

export function commandOf(way: Way, job: Job): [string, string[]] {
  const args = job === 'pull' ? [] : ['origin', 'main']
  return way === 'command' ? [TIMONE, [job, ...args]] : ['git', ['lfs', job, ...args]]
}

/** @throws {Error} unless the repository has the whole data set. */
export async function expectStored(stage: Stage, repository: string, prepared: PreparedSet): Promise<void> {
  const { count, bytes } = await stored(stage.prefix(repository))
  if (count !== prepared.files.length || bytes !== prepared.bytes)
    throw new Error(
      `the store has ${count} objects of ${bytes} bytes, not ${prepared.files.length} of ${prepared.bytes}`,
    )
}

/** @throws {Error} unless the clone has every object (its hash is what git-lfs and timone see to), or file. */
export async function expectLoaded(folder: string, prepared: PreparedSet, files: boolean): Promise<void> {
  for (const { name, oid, size } of prepared.files) {
    for (const path of [lfsObject(folder, oid), ...(files ? [join(folder, name)] : [])]) {
      const found = await stat(path).catch(() => undefined)
      if (found?.size !== size) throw new Error(`${path} has ${found?.size ?? 'no'} bytes instead of ${size}`)
    }
  }
}

/** `way` as it stands in the table. */
export function contestant(stage: Stage, way: Way, job: Job, net: Net, set: DataSetName): Contestant {
  const name = {
    agent: `git lfs ${job} with the agent`,
    command: `timone ${job}`,
    basic: `git lfs ${job} (basic, 8 transfers)`,
  }[way]
  return {
    name,
    // Warming up means page cache, servers and their connections: the line adds nothing to that but minutes.
    run: (round) => transfer(stage, way, job, round < 0 ? 'loopback' : net, set),
  }
}

/** What must hold for our processes whatever the case. */
export function mustOf(job: Job, set: DataSetName): Must {
  return { memory: MEMORY, ...(set === '1gib' ? { cpu: CPU_PER_GIB[job] } : {}) }
}

/** Ours for a job: the agent and the command, if this timone has it. */
export async function oursFor(
  stage: Stage,
  job: Job,
  net: Net,
  set: DataSetName,
  must: Must,
): Promise<{ contestant: Contestant; must: Must }[]> {
  const ways: Way[] = []
  // git-lfs's own checkout takes most of a large pull, which no agent can change: minutes that say nothing new.
  if (job !== 'pull' || set === 'small' || set === 'mixed') ways.push('agent')
  if (await stage.hasCommand(job)) ways.push('command')
  else process.stderr.write(`  this timone has no command ${job} yet: it is left out\n`)
  return ways.map((way) => ({ contestant: contestant(stage, way, job, net, set), must }))
}

/** One job over one data set, ours against git-lfs by itself through the same server. */
export function transferCase(name: string, job: Job, net: Net, set: DataSetName): BenchCase {
  return async ({ runs = 5, stage: open }) => {
    const stage = await open()
    const ratio = RATIOS[name]
    const must = { ...mustOf(job, set), ...(ratio === undefined ? {} : { ratio }) }
    const ours = await oursFor(stage, job, net, set, must)
    if (ours.length === 0) return []
    return contest({ case: name, job, ours, rival: contestant(stage, 'basic', job, net, set), runs })
  }
}

/** Whether a ratio must hold there. */
export const isRequired = (name: string): boolean => RATIOS[name] !== undefined
