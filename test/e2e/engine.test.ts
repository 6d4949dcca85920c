import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { readdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { ListMultipartUploadsCommand, S3Client } from '@aws-sdk/client-s3'
import { afterAll, afterEach, beforeAll, describe, expect, test, vi } from 'vitest'
import type { BatchObject } from '../helpers/agent.ts'
import { type AgentWorld, agentWorld } from '../helpers/agent-world.ts'
import type { SeenRequest } from '../helpers/fault-proxy.ts'
import { gitLfsVersions } from '../helpers/git-lfs.ts'
import { agentsOf, enginesOf, processesOf } from '../helpers/processes.ts'
import { testS3 } from '../helpers/s3.ts'
import { type Backend, hashTree, World, writeRandom } from '../helpers/world.ts'

const MIB = 2 ** 20
/** An engine may outlive its git command by so long, milliseconds. */
const SOON = 2000

const isPut = ({ method }: SeenRequest): boolean => method === 'PUT'
const isGet = ({ method, url }: SeenRequest): boolean =>
  method === 'GET' && /\/[0-9a-f]{64}(\?|$)/.test(url) && !url.includes('uploadId')

for (const gitLfs of gitLfsVersions()) {
  describe.skipIf(gitLfs.missing !== undefined)(`one engine, ${gitLfs.name}`, () => {
    let here: AgentWorld
    let world: World
    let count = 0
    beforeAll(async () => {
      here = await agentWorld('s3-sts')
      world = await World.create(gitLfs.folder === undefined ? {} : { gitLfs: gitLfs.folder })
      await world.install()
      await world.signIn(here.server)
      Object.assign(world.env, { XDG_RUNTIME_DIR: world.folder })
    })
    afterEach(async () => {
      here.proxy.fault = () => undefined
      await vi.waitUntil(async () => (await agentsOf(world)).length === 0, { timeout: SOON, interval: 20 })
      // No socket is left where the agents met.
      expect(await readdir(world.path(`timone-${process.getuid?.()}`))).toEqual([])
    })
    afterAll(async () => {
      await world?.remove()
      await here?.close()
    })

    /** A clone with `files` of `size` bytes committed, ready to be pushed. */
    async function repository(files: number, size: number): Promise<{ work: string; origin: string }> {
      const name = `r${++count}`
      const { origin, work } = await world.repository(here.server, `org/${name}`, name)
      for (let number = 0; number < files; number++) await writeRandom(join(work, `${number}.bin`), size)
      await world.commit(work)
      return { work, origin }
    }

    function start(cwd: string, ...args: string[]): { git: ChildProcess; stderr: () => string } {
      const git = spawn('git', args, { cwd, env: world.env, stdio: ['ignore', 'ignore', 'pipe'] })
      let stderr = ''
      git.stderr.on('data', (data: Buffer) => {
        stderr += data.toString()
      })
      return { git, stderr: () => stderr }
    }

    async function expectPulled(work: string, origin: string): Promise<void> {
      const clone = world.path(`clone-${++count}`)
      await world.git(world.folder, 'clone', '-q', origin, clone)
      expect(await hashTree(clone)).toEqual(await hashTree(work))
      expect(await readdir(join(clone, '.git/lfs/timone')).catch(() => [])).toEqual([])
      await world.git(clone, 'lfs', 'fsck')
    }

    /** Stops bytes at the proxy until `open` is called. */
    function gate(matches: (request: SeenRequest) => boolean): { held: () => number; open: () => void } {
      let held = 0
      let isOpen = false
      here.proxy.fault = (request) => {
        if (isOpen || !matches(request)) return undefined
        held++
        return { kind: 'wait', until: () => isOpen }
      }
      return {
        held: () => held,
        open: () => {
          isOpen = true
        },
      }
    }

    test('one agent and one engine are left of all that git-lfs starts, and many objects are on their way at once', async () => {
      const { work, origin } = await repository(100, 1000)
      const up = gate(isPut)
      const push = start(work, 'push', 'origin', 'main')
      const pushed = once(push.git, 'exit')
      // git-lfs asks for eight at a time.
      await vi.waitUntil(() => up.held() === 64, { timeout: 30_000, interval: 20 })
      expect((await agentsOf(world)).map(({ command }) => command.includes('--engine')).sort()).toEqual([
        false,
        true,
      ])
      up.open()
      expect(await pushed, push.stderr()).toEqual([0, null])

      const clone = world.path(`clone-${++count}`)
      const down = gate(isGet)
      const pull = start(world.folder, 'clone', origin, clone)
      const pulled = once(pull.git, 'exit')
      await vi.waitUntil(() => down.held() === 64, { timeout: 30_000, interval: 20 })
      expect(await agentsOf(world)).toHaveLength(2)
      down.open()
      expect(await pulled, pull.stderr()).toEqual([0, null])
      expect(await hashTree(clone)).toEqual(await hashTree(work))
      expect(await readdir(join(clone, '.git/lfs/timone')).catch(() => [])).toEqual([])
    })

    test('an engine that is killed in the middle is replaced, and git notices nothing', async () => {
      const { work, origin } = await repository(30, 100_000)
      const up = gate(isPut)
      const push = start(work, 'push', 'origin', 'main')
      const pushed = once(push.git, 'exit')
      await vi.waitUntil(() => up.held() >= 10, { timeout: 30_000, interval: 10 })
      const [engine] = await enginesOf(world)
      process.kill(engine?.pid as number, 'SIGKILL')
      up.open()
      expect(await pushed, push.stderr()).toEqual([0, null])
      await expectPulled(work, origin)
    })

    test('an engine that is killed again and again is told clearly, and the next push works', async () => {
      const { work, origin } = await repository(3, 100_000)
      const up = gate(isPut)
      const push = start(work, 'push', 'origin', 'main')
      const pushed = once(push.git, 'exit')
      let killed = 0
      while (push.git.exitCode === null && killed < 10) {
        const [engine] = await enginesOf(world)
        if (engine !== undefined && up.held() > killed) {
          process.kill(engine.pid, 'SIGKILL')
          killed++
        }
        await new Promise((resolve) => setTimeout(resolve, 20))
      }
      expect(await pushed).not.toEqual([0, null])
      expect(push.stderr()).toMatch(/the transfer engine ended with SIGKILL, 4 times: repeat the command/)
      up.open()
      await world.git(work, 'push', '-q', 'origin', 'main')
      await expectPulled(work, origin)
    })

    test.each(['the agent', 'git-lfs', 'git'])(
      'killing %s leaves no process, and the next push works',
      async (who) => {
        const { work, origin } = await repository(30, 100_000)
        const up = gate(isPut)
        const push = start(work, 'push', 'origin', 'main')
        const pushed = once(push.git, 'exit')
        await vi.waitUntil(() => up.held() >= 10, { timeout: 30_000, interval: 10 })
        if (who === 'git') push.git.kill('SIGKILL')
        else if (who === 'the agent') {
          const front = (await agentsOf(world)).find(({ command }) => !command.includes('--engine'))
          process.kill(front?.pid as number, 'SIGKILL')
        } else {
          const found = (await processesOf(world)).filter(({ name }) => name.startsWith('git-lfs'))
          for (const { pid } of found) process.kill(pid, 'SIGKILL')
        }
        if (who !== 'git') {
          await pushed
          await vi.waitUntil(async () => (await agentsOf(world)).length === 0, {
            timeout: SOON,
            interval: 20,
          })
        }
        up.open()
        // git-lfs may still be there, without git: its own push then ends by itself.
        await vi.waitUntil(async () => (await agentsOf(world)).length === 0, {
          timeout: 30_000,
          interval: 50,
        })
        await world.git(work, 'push', '-q', 'origin', 'main')
        await expectPulled(work, origin)
      },
    )
  })
}

describe.each(['s3-sts', 's3-url', 'file'] as Backend[])('work ahead of what is asked for, %s', (backend) => {
  let here: AgentWorld
  beforeAll(async () => {
    here = await agentWorld(backend)
    await here.world.git(here.work, 'config', 'timone.partSize', '5m')
  })
  afterEach(() => {
    here.proxy.fault = () => undefined
  })
  afterAll(() => here?.close())

  test('is in the plan of a batch of more than one object, in the URL of the first two', async () => {
    const objects = [await here.addObject(10), await here.addObject(20), await here.addObject(30)]
    const asked = await here.batch('upload', objects)
    const hrefs = asked.map(({ actions }) => actions?.upload?.href ?? '')
    expect(hrefs.map((href) => href.includes('#plan='))).toEqual([true, true, false])
    const [alone] = await here.batch('upload', [objects[0] as { oid: string; size: number }])
    expect(alone?.actions?.upload?.href).not.toContain('#')
  })

  test('downloads that nobody asks for leave nothing', async () => {
    const objects: Awaited<ReturnType<AgentWorld['addObject']>>[] = []
    for (const size of [1000, 2000, 12 * MIB]) objects.push(await here.addObject(size))
    for (const object of objects) await here.upload(object)
    const agent = here.agent()
    await agent.init('download')
    const asked = await here.batch('download', objects)
    here.proxy.requests.length = 0
    let held = 0
    let open = false
    // The large one is held in the middle, so that there is something to leave behind.
    here.proxy.fault = (request) => {
      if (!isGet(request) || !request.url.includes(objects[2]?.oid ?? '')) return undefined
      held++
      return open ? undefined : { kind: 'stall', after: MIB }
    }
    const answer = await agent.transfer('download', asked[0] as BatchObject)
    expect(answer.error).toBeUndefined()
    await vi.waitUntil(() => held > 0 && here.proxy.requests.filter(isGet).length >= 3, { timeout: 20_000 })
    const folder = join(here.work, '.git/lfs/timone')
    await vi.waitUntil(async () =>
      (await readdir(folder)).some((name) => name.startsWith(objects[2]?.oid ?? '')),
    )
    await agent.terminate()
    open = true
    await vi.waitUntil(
      async () => {
        const left = await readdir(folder)
        return left.every((name) => name.startsWith(objects[0]?.oid ?? ''))
      },
      { timeout: SOON, interval: 20 },
    )
  })

  test('uploads that nobody asks for leave no unfinished upload', async () => {
    const [first, second] = [await here.addObject(1000), await here.addObject(12 * MIB)]
    const agent = here.agent()
    await agent.init('upload')
    const asked = await here.batch('upload', [first, second])
    let parts = 0
    here.proxy.fault = (request) => {
      if (!isPut(request) || !request.url.includes(second.oid)) return undefined
      parts++
      return { kind: 'slow', rate: MIB / 4 }
    }
    const answer = await agent.transfer('upload', asked[0] as BatchObject, first.path)
    expect(answer.error).toBeUndefined()
    await vi.waitUntil(() => parts > 0, { timeout: 20_000 })
    await agent.terminate()
    here.proxy.fault = () => undefined
    const folder = join(here.work, '.git/lfs/timone')
    await vi.waitUntil(async () => (await readdir(folder)).every((name) => !name.startsWith(second.oid)), {
      timeout: SOON,
      interval: 20,
    })
    const [again] = await here.batch('upload', [second])
    expect(again?.actions?.upload).toBeDefined()
    if (backend === 's3-sts') {
      const { url, region, credentials, bucket } = testS3()
      const s3 = new S3Client({ endpoint: url, region, credentials, forcePathStyle: true })
      await vi.waitUntil(
        async () => {
          const { Uploads = [] } = await s3.send(new ListMultipartUploadsCommand({ Bucket: bucket }))
          return Uploads.every(({ Key = '' }) => !Key.includes(second.oid))
        },
        { timeout: SOON, interval: 50 },
      )
      s3.destroy()
    }
  })

  test('an upload whose file is damaged fails when it is asked for, and the others are there', async () => {
    const objects = [await here.addObject(1000), await here.addObject(2000), await here.addObject(3000)]
    await writeFile(objects[1]?.path ?? '', 'x'.repeat(2000))
    const agent = here.agent()
    await agent.init('upload')
    const asked = await here.batch('upload', objects)
    const answers = []
    for (const [at, { path }] of objects.entries())
      answers.push(await agent.transfer('upload', asked[at] as BatchObject, path))
    expect(answers.map(({ error }) => error?.code)).toEqual([undefined, 422, undefined])
    await agent.terminate()
    const left = await here.batch('upload', objects)
    expect(left.map(({ actions }) => actions !== undefined)).toEqual([false, true, false])
  })
})
