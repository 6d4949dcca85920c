import { batch } from '../../test/helpers/agent.ts'
import { type BenchCase, figure } from './bench-case.ts'
import type { Contestant } from './contest.ts'
import { contest } from './contest.ts'
import { processCpu } from './process-watch.ts'
import { commandOf, type Way } from './transfer.ts'

const BATCHES = 40

/** What no transfer can do without: a push with nothing to move, a Batch call of 100 objects, a verify call. */
export const overhead: BenchCase = async ({ runs = 5, stage: open }) => {
  const name = 'overhead'
  const stage = await open()
  const repository = await stage.seed('small')
  const { work, files } = await stage.dataSet('small')
  const idle = (way: Way, title: string): Contestant => ({
    name: title,
    run: async () => {
      await stage.point(work, 'loopback', repository)
      return stage.measure(
        ...commandOf(way, 'push'),
        work,
        way === 'basic' ? stage.env.plain : stage.env.agent,
      )
    },
  })
  const ours = [{ contestant: idle('agent', 'git lfs push with the agent'), must: {} }]
  if (await stage.hasCommand('push')) ours.push({ contestant: idle('command', 'timone push'), must: {} })
  const rows = await contest({
    case: name,
    job: '2000 objects that are there already, push',
    ours,
    rival: idle('basic', 'git lfs push (basic)'),
    runs,
  })

  const server = stage.servers.loopback
  const pid = server.process.pid as number
  const asked = files.slice(0, 100)
  const times: Record<'upload' | 'download' | 'verify', { wall: number[]; cpu: number[] }> = {
    upload: { wall: [], cpu: [] },
    download: { wall: [], cpu: [] },
    verify: { wall: [], cpu: [] },
  }
  const timed = async (kind: keyof typeof times, count: number, one: (at: number) => Promise<unknown>) => {
    const cpu = processCpu(pid)
    const started = performance.now()
    for (let at = 0; at < count; at++) await one(at)
    times[kind].wall.push((performance.now() - started) / count)
    times[kind].cpu.push(((processCpu(pid) - cpu) * 1000) / count)
  }
  for (let run = 0; run < runs; run++) {
    // A repository without objects, so that each upload is asked for anew.
    for (const [operation, from] of [
      ['upload', 'run/nothing'],
      ['download', repository],
    ] as const)
      await timed(operation, BATCHES, () => batch(server, stage.token, operation, asked, from))
    const [object] = await batch(server, stage.token, 'upload', asked.slice(0, 1), 'run/nothing')
    const verify = object?.actions?.verify
    if (verify === undefined) throw new Error('the server gives no verify action')
    // The token opens one repository, so what is verified is an object that it lacks: the same look-up, answered with 404.
    await timed('verify', 10 * BATCHES, async (at) => {
      const { oid, size } = files[at % files.length] as (typeof files)[number]
      const answer = await fetch(verify.href, {
        method: 'POST',
        headers: { ...verify.header, 'content-type': 'application/vnd.git-lfs+json' },
        body: JSON.stringify({ oid, size }),
      })
      await answer.text()
    })
  }
  for (const [kind, { wall, cpu }] of Object.entries(times)) {
    const what = kind === 'verify' ? 'one verify call' : `Batch call of 100 objects, ${kind}`
    rows.push(
      figure(name, `${what}: time`, 'ms', wall),
      figure(name, `${what}: CPU of the server`, 'ms', cpu),
    )
  }
  return rows
}
