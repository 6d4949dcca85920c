import { createHash } from 'node:crypto'
import { createReadStream } from 'node:fs'
import { mkdir, open, rename } from 'node:fs/promises'
import { join } from 'node:path'
import { AgentProcess, type BatchObject, batch } from '../../test/helpers/agent.ts'
import {
  type Backend,
  backendSettings,
  lfsObject,
  type RunningServer,
  startServer,
  World,
} from '../../test/helpers/world.ts'
import { against, type BenchCase, emptyStore, peakMemory } from './bench-case.ts'

const GIB = 2 ** 30

/** A sparse object in the LFS storage of `work`: its bytes are read and sent like any other's. */
async function addObject(
  work: string,
  size: number,
  mark: string,
): Promise<{ oid: string; size: number; path: string }> {
  const temporary = join(work, `sparse-${mark}`)
  const file = await open(temporary, 'w')
  await file.truncate(size)
  await file.write(mark, size - mark.length)
  await file.close()
  const hash = createHash('sha256')
  for await (const chunk of createReadStream(temporary, { highWaterMark: 2 ** 20 }))
    hash.update(chunk as Buffer)
  const oid = hash.digest('hex')
  const path = lfsObject(work, oid)
  await mkdir(join(path, '..'), { recursive: true })
  await rename(temporary, path)
  return { oid, size, path }
}

async function withServer<T>(
  backend: Backend,
  use: (world: World, server: RunningServer, token: string) => Promise<T>,
): Promise<T> {
  const world = await World.create()
  const data = world.path('data')
  const server = await startServer(data, backendSettings(backend, data))
  try {
    await world.git(world.folder, 'init', '-q', world.path('work'))
    return await use(world, server, await world.signIn(server))
  } finally {
    await server.stop()
    await world.remove()
  }
}

/** Moves one object with an agent of its own; gives the agent's peak memory, MiB. */
async function move(
  operation: 'upload' | 'download',
  object: { oid: string; size: number; path: string },
  work: string,
  world: World,
  asked: BatchObject,
): Promise<number> {
  const agent = new AgentProcess(work, world.env)
  await agent.init(operation)
  agent.process.stderr.resume()
  const answer = await agent.transfer(
    operation,
    asked,
    operation === 'upload' ? object.path : undefined,
    600_000,
  )
  if (answer.error !== undefined) throw new Error(answer.error.message)
  const peak = peakMemory(agent.process.pid as number)
  await agent.terminate()
  return peak
}

/** Peak memory of one agent that moves a file of 5 GiB. */
export const agentMemory: BenchCase = async ({ runs = 1 }) => {
  const up: number[] = []
  const down: number[] = []
  for (let run = 0; run < runs; run++) {
    await emptyStore()
    await withServer('s3-sts', async (world, server, token) => {
      const work = world.path('work')
      const object = await addObject(work, 5 * GIB, `agent-${run}`)
      for (const [operation, peaks] of [
        ['upload', up],
        ['download', down],
      ] as const) {
        const [asked] = await batch(server, token, operation, [object])
        peaks.push(await move(operation, object, work, world, asked as BatchObject))
      }
    })
  }
  await emptyStore()
  return [
    against('agent-memory', 'peak while it uploads 5 GiB', 'MiB', up, 150),
    against('agent-memory', 'peak while it downloads 5 GiB', 'MiB', down, 150),
  ]
}

/** Peak memory of the server while 8 clients move 1 GiB each through its file store, up and down. */
export const serverMemory: BenchCase = async ({ runs = 1 }) => {
  const peaks: number[] = []
  for (let run = 0; run < runs; run++) {
    await withServer('file', async (world, server, token) => {
      const work = world.path('work')
      const objects: { oid: string; size: number; path: string }[] = []
      for (let client = 0; client < 8; client++) objects.push(await addObject(work, GIB, `client-${client}`))
      for (const operation of ['upload', 'download'] as const) {
        const asked = await batch(server, token, operation, objects)
        await Promise.all(
          objects.map((object, index) => move(operation, object, work, world, asked[index] as BatchObject)),
        )
      }
      peaks.push(peakMemory(server.process.pid as number))
    })
  }
  return [against('server-memory', 'peak while 8 clients move 1 GiB each, up and down', 'MiB', peaks, 200)]
}
