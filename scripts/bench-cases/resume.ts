import { rm } from 'node:fs/promises'
import { setTimeout as sleep } from 'node:timers/promises'
import { run } from '../../test/helpers/world.ts'
import { against, type BenchCase } from './bench-case.ts'
import { ProcessWatch } from './process-watch.ts'
import type { Stage } from './stage.ts'
import { commandOf, expectLoaded, expectStored } from './transfer.ts'

/** Share of the object that has arrived when everything of ours is killed. */
const KILL_AT = 0.5
/** Bytes that may pass in both runs together, of one transfer's. */
const LIMIT = 1.1

/** Kills the agents halfway, runs the same again, and gives the bytes that passed in both, of the object's size. */
async function interrupted(stage: Stage, job: 'push' | 'fetch'): Promise<number> {
  const prepared = await stage.dataSet('1gib')
  const repository = job === 'push' ? stage.newRepository() : await stage.seed('1gib')
  const folder = job === 'push' ? prepared.work : await stage.clone(prepared.origin)
  await stage.point(folder, 'wan', repository)
  const [command, args] = commandOf('agent', job)
  const passed = async (): Promise<number> => (await stage.wan.read())[job === 'push' ? 'up' : 'down']

  await stage.wan.reset()
  const watch = new ProcessWatch(stage.world.path('home'))
  watch.start()
  let ended = false
  const first = run(command, args, { cwd: folder, env: stage.env.agent }).finally(() => {
    ended = true
  })
  while (!ended && (await passed()) < KILL_AT * prepared.bytes) await sleep(10)
  if (ended) throw new Error(`the ${job} ended before it was to be killed:\n${(await first).stderr}`)
  for (const pid of watch.running()) {
    try {
      process.kill(pid, 'SIGKILL')
    } catch {
      // It was about to end by itself.
    }
  }
  if ((await first).code === 0) throw new Error(`the ${job} succeeded although it was killed`)
  await watch.stop()
  // What was under way still arrives.
  while ((await stage.wan.read()).open > 0) await sleep(20)
  process.stderr.write(
    `  killed; ${((await passed()) / prepared.bytes).toFixed(3)} of the bytes had passed\n`,
  )

  await stage.run(command, args, folder, stage.env.agent)
  if (job === 'push') {
    await expectStored(stage, repository, prepared)
    await stage.drop(repository)
  } else {
    await expectLoaded(folder, prepared, false)
    await rm(folder, { recursive: true })
  }
  const share = (await passed()) / prepared.bytes
  process.stderr.write(`  ${share.toFixed(3)} after the second run\n`)
  return share
}

/** A transfer of 1 GiB over the long line whose agents are killed (kill -9) at half, then done again. */
export function resumeCase(name: string, job: 'push' | 'fetch'): BenchCase {
  return async ({ runs = 5, stage: open }) => {
    const stage = await open()
    const shares: number[] = []
    for (let round = 0; round < runs; round++) shares.push(await interrupted(stage, job))
    return [against(name, `${job} killed at half and done again: bytes of one transfer`, '×', shares, LIMIT)]
  }
}
