import { createHash, randomBytes } from 'node:crypto'
import { mkdir, readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { AgentProcess, type BatchObject, batch } from './agent.ts'
import { type FaultProxy, faultProxy } from './fault-proxy.ts'
import { testS3 } from './s3.ts'
import { type Backend, backendSettings, lfsObject, type RunningServer, startServer, World } from './world.ts'

/** A server, a repository and an agent in front of it, with a proxy for faults between the agent and the bytes. */
export interface AgentWorld {
  world: World
  server: RunningServer
  /** Between everybody and the S3 server; for the file store, between the agent and the server. */
  proxy: FaultProxy
  token: string
  work: string
  /** What the server was started with about its storage, for commands that its operator runs. */
  storage: NodeJS.ProcessEnv
  /** Puts an object into the LFS storage as git-lfs would, without git. */
  addObject(size: number): Promise<{ oid: string; size: number; path: string; content: Buffer }>
  batch(operation: 'upload' | 'download', objects: { oid: string; size: number }[]): Promise<BatchObject[]>
  agent(env?: NodeJS.ProcessEnv): AgentProcess
  /** Uploads an object without faults. */
  upload(object: { oid: string; size: number; path: string }): Promise<void>
  close(): Promise<void>
}

/** Settings in git's configuration that make failures quick: a few tries, short pauses. */
const QUICK = [
  ['lfs.transfer.maxretries', '4'],
  ['lfs.transfer.maxretrydelay', '1'],
] as const

export async function agentWorld(backend: Backend, settings: NodeJS.ProcessEnv = {}): Promise<AgentWorld> {
  const world = await World.create()
  const data = world.path('data')
  const storage = backendSettings(backend, data)
  let proxy: FaultProxy
  let server: RunningServer
  if (backend === 'file') {
    // The server must name the proxy as its public address, and the proxy needs the server's port first.
    const { freePort } = await import('./world.ts')
    const port = await freePort()
    proxy = await faultProxy(`http://127.0.0.1:${port}`)
    server = await startServer(data, { ...storage, TIMONE_ENDPOINT_URL: proxy.url, ...settings }, { port })
  } else {
    proxy = await faultProxy(testS3().url)
    server = await startServer(data, {
      ...storage,
      TIMONE_STORAGE_S3_URL: proxy.url,
      TIMONE_STORAGE_S3_STS_URL: testS3().url,
      ...settings,
    })
  }
  const work = world.path('work')
  await world.git(world.folder, 'init', '-q', work)
  for (const [name, value] of QUICK) await world.git(work, 'config', name, value)
  const token = await world.signIn(server)
  const agents: AgentProcess[] = []
  const self: AgentWorld = {
    world,
    server,
    proxy,
    token,
    work,
    storage,
    addObject: async (size) => {
      const content = randomBytes(size)
      const oid = createHash('sha256').update(content).digest('hex')
      const path = lfsObject(work, oid)
      await mkdir(join(path, '..'), { recursive: true })
      await writeFile(path, content)
      return { oid, size, path, content }
    },
    batch: (operation, objects) => batch(server, token, operation, objects),
    agent: (env = {}) => {
      const agent = new AgentProcess(work, { ...world.env, ...env })
      agents.push(agent)
      return agent
    },
    upload: async (object) => {
      const agent = self.agent()
      await agent.init('upload')
      const [asked] = await self.batch('upload', [object])
      const answer = await agent.transfer('upload', asked as BatchObject, object.path)
      if (answer.error !== undefined) throw new Error(answer.error.message)
      await agent.terminate()
    },
    close: async () => {
      for (const agent of agents) await agent.kill('SIGKILL')
      await server.stop()
      await proxy.close()
      await world.remove()
    },
  }
  return self
}

/** SHA-256 of a file. */
export async function sha256Of(path: string): Promise<string> {
  return createHash('sha256')
    .update(await readFile(path))
    .digest('hex')
}
