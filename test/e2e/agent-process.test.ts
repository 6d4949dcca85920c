import { type ChildProcess, spawn } from 'node:child_process'
import { createHash, randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { existsSync, writeFileSync } from 'node:fs'
import { mkdir, readdir, readFile, rm, stat, symlink, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { afterAll, afterEach, beforeAll, describe, expect, test, vi } from 'vitest'
import { AgentProcess, type Answer, type BatchObject } from '../helpers/agent.ts'
import { type AgentWorld, agentWorld, sha256Of } from '../helpers/agent-world.ts'
import type { Fault, SeenRequest } from '../helpers/fault-proxy.ts'
import { gitLfsVersions } from '../helpers/git-lfs.ts'
import { agentsOf, processesOf } from '../helpers/processes.ts'
import { testS3 } from '../helpers/s3.ts'
import { withTmpfs } from '../helpers/tmpfs.ts'
import {
  type Backend,
  backendSettings,
  hashTree,
  type Ran,
  type RunningServer,
  run,
  startServer,
  TIMONE,
  World,
  writeRandom,
} from '../helpers/world.ts'

const MIB = 2 ** 20
const PART = 5 * MIB
/** Whatever happens, an agent is gone by then, milliseconds. */
const SOON = 2000

const isPut = ({ method }: SeenRequest): boolean => method === 'PUT'
const isGet = ({ method, url }: SeenRequest): boolean =>
  method === 'GET' && /\/[0-9a-f]{64}(\?|$)/.test(url) && !url.includes('uploadId')

/** Exit code and signal of a process that must end soon. */
async function ending(child: ChildProcess, limit = SOON): Promise<[number | null, NodeJS.Signals | null]> {
  if (child.exitCode !== null || child.signalCode !== null) return [child.exitCode, child.signalCode]
  const ended = once(child, 'exit', { signal: AbortSignal.timeout(limit) })
  return (await ended.catch(() => {
    throw new Error(`process ${child.pid} did not end within ${limit} ms`)
  })) as [number | null, NodeJS.Signals | null]
}

function killIfThere(pid: number): void {
  try {
    process.kill(pid, 'SIGKILL')
  } catch {
    // It ended since it was listed.
  }
}

/** Lets the first `quick` PUTs through, and hardly anything of those that follow: `slow.rate` bytes a second each. */
function slowAfter(quick: number, slow: Slow): (request: SeenRequest) => Fault | undefined {
  let puts = 0
  return (request) => {
    if (!isPut(request)) return undefined
    return puts++ < quick ? { kind: 'slow', rate: 20 * MIB } : slow
  }
}

type Slow = Extract<Fault, { kind: 'slow' }>

/** An agent starts a transfer; its answer is not waited for. */
function ask(agent: AgentProcess, event: 'upload' | 'download', object: BatchObject, path?: string): void {
  agent.say({ event, oid: object.oid, size: object.size, path, action: object.actions?.[event] })
}

describe('the end of an agent', () => {
  let here: AgentWorld
  beforeAll(async () => {
    here = await agentWorld('s3-sts')
    await here.world.git(here.work, 'config', 'timone.partSize', '5m')
    await here.world.git(here.work, 'config', 'timone.parallelParts', '2')
  })
  afterEach(() => {
    here.proxy.fault = () => undefined
  })
  afterAll(() => here.close())

  const folder = (): string => join(here.work, '.git/lfs/timone')

  /** An agent in the middle of a multi-part upload that has stored a part. */
  async function uploading(rate = MIB / 2) {
    const object = await here.addObject(4 * PART)
    const agent = here.agent()
    await agent.init('upload')
    const [asked] = await here.batch('upload', [object])
    here.proxy.fault = slowAfter(2, { kind: 'slow', rate })
    here.proxy.requests.length = 0
    ask(agent, 'upload', asked as BatchObject, object.path)
    // The third part begins when one of the first two is stored.
    await vi.waitUntil(() => here.proxy.requests.filter(isPut).length >= 3, { timeout: 30_000, interval: 5 })
    return { object, agent }
  }

  /** Fails unless the next run only sends what is missing. */
  async function expectContinued(object: { oid: string; size: number; path: string }): Promise<void> {
    here.proxy.fault = () => undefined
    expect(existsSync(join(folder(), `${object.oid}.upload.json`))).toBe(true)
    here.proxy.requests.length = 0
    await here.upload(object)
    const parts = here.proxy.requests.filter(isPut).length
    expect(parts).toBeGreaterThan(0)
    expect(parts).toBeLessThan(4)
    expect((await readdir(folder())).filter((name) => name.startsWith(object.oid))).toEqual([])
  }

  test.each([
    ['SIGINT', 130],
    ['SIGTERM', 143],
    ['SIGHUP', 129],
  ] as const)('%s in the middle of an upload: exit %i, and the upload can go on', async (signal, code) => {
    const { object, agent } = await uploading()
    agent.process.kill(signal)
    expect(await ending(agent.process)).toEqual([code, null])
    await expectContinued(object)
  })

  test('SIGINT in the middle of a download: its bytes are kept', async () => {
    const object = await here.addObject(20 * MIB)
    await here.upload(object)
    const agent = here.agent()
    await agent.init('download')
    const [asked] = await here.batch('download', [object])
    here.proxy.fault = (request) => (isGet(request) ? { kind: 'stall', after: 15 * MIB } : undefined)
    const before = here.proxy.sent
    ask(agent, 'download', asked as BatchObject)
    await vi.waitUntil(() => here.proxy.sent - before >= 15 * MIB, { timeout: 30_000, interval: 5 })
    agent.process.kill('SIGINT')
    expect(await ending(agent.process)).toEqual([130, null])
    const left = (await readdir(folder())).filter((name) => name.startsWith(object.oid))
    expect(left.map((name) => name.replace(/^.*\.part/, '.part')).sort()).toEqual(['.part', '.part.json'])
    here.proxy.fault = () => undefined
    const again = here.agent()
    await again.init('download')
    const middle = here.proxy.sent
    const answer = await again.transfer('download', asked as BatchObject)
    expect(await sha256Of(answer.path as string)).toBe(object.oid)
    // What was on its way to the disk may come twice.
    expect(here.proxy.sent - middle).toBeLessThan(12 * MIB)
    expect(await again.terminate()).toBe(0)
  })

  test.each([
    ['SIGINT', 130],
    ['SIGTERM', 143],
  ] as const)('%s with nothing to do, and with stdin left open', async (signal, code) => {
    const agent = here.agent()
    await agent.init('upload')
    agent.process.kill(signal)
    expect(await ending(agent.process, 1000)).toEqual([code, null])
  })

  test('end of file in the middle of an upload', async () => {
    const { object, agent } = await uploading()
    agent.process.stdin.end()
    expect(await ending(agent.process)).toEqual([0, null])
    await expectContinued(object)
  })

  test('end of file after a request that is quick: it is answered', async () => {
    const object = await here.addObject(1000)
    const agent = here.agent()
    await agent.init('upload')
    const [asked] = await here.batch('upload', [object])
    ask(agent, 'upload', asked as BatchObject, object.path)
    agent.process.stdin.end()
    expect(await ending(agent.process, 5000)).toEqual([0, null])
    expect(agent.answers.at(-1)).toEqual({ event: 'complete', oid: object.oid })
  })

  test('stdout closed early (EPIPE), stdin left open', async () => {
    // It is noticed at the next line of progress.
    const { object, agent } = await uploading(3 * MIB)
    agent.process.stdout.destroy()
    expect(await ending(agent.process)).toEqual([0, null])
    expect(agent.stderr).not.toMatch(/unexpected|EPIPE/)
    await expectContinued(object)
  })

  test('all three pipes closed at once, as when git-lfs is killed', async () => {
    const { object, agent } = await uploading()
    agent.process.stderr.destroy()
    agent.process.stdout.destroy()
    agent.process.stdin.destroy()
    expect(await ending(agent.process)).toEqual([0, null])
    await expectContinued(object)
  })

  test('terminate: exit 0, also when stdin is left open', async () => {
    const agent = here.agent()
    await agent.init('upload')
    agent.say({ event: 'terminate' })
    expect(await ending(agent.process, 1000)).toEqual([0, null])
    const other = here.agent()
    await other.init('download')
    expect(await other.terminate()).toBe(0)
  })
})

describe('how an agent is started', () => {
  let here: AgentWorld
  beforeAll(async () => {
    here = await agentWorld('file')
  })
  afterAll(() => here.close())

  const INIT = {
    event: 'init',
    operation: 'download',
    remote: 'origin',
    concurrent: true,
    concurrenttransfers: 8,
  }
  const input = (...messages: unknown[]): string =>
    messages.map((message) => `${JSON.stringify(message)}\n`).join('')

  test('without arguments, stdin no terminal', async () => {
    const { code, stdout } = await run(TIMONE, [], {
      cwd: here.work,
      env: here.world.env,
      input: input(INIT, { event: 'terminate' }),
    })
    expect({ code, stdout }).toEqual({ code: 0, stdout: '{}\n' })
    const nothing = await run(TIMONE, [], { cwd: here.work, env: here.world.env })
    expect(nothing).toMatchObject({ code: 0, stdout: '' })
  })

  /** A stored object, asked for by an agent with this environment in this folder. */
  async function fetchWith(options: {
    env?: NodeJS.ProcessEnv
    cwd?: string
  }): Promise<{ answer: Answer; agent: AgentProcess; oid: string }> {
    const object = await here.addObject(50_000)
    await here.upload(object)
    const agent = new AgentProcess(options.cwd ?? here.work, options.env ?? here.world.env)
    try {
      await agent.init('download')
      const [asked] = await here.batch('download', [object])
      const answer = await agent.transfer('download', asked as BatchObject)
      expect(await agent.terminate()).toBe(0)
      return { answer, agent, oid: object.oid }
    } finally {
      await agent.kill('SIGKILL')
    }
  }

  test('without HOME', async () => {
    const env = { ...here.world.env }
    delete env.HOME
    delete env.XDG_CONFIG_HOME
    const { answer, oid } = await fetchWith({ env })
    expect(await sha256Of(answer.path as string)).toBe(oid)
  })

  test('HOME that nobody can write', async () => {
    await withTmpfs('1m', async (home, remount) => {
      await writeFile(join(home, '.gitconfig'), '[user]\n\tname = Ada\n')
      remount('ro')
      const { answer, oid, agent } = await fetchWith({
        env: { ...here.world.env, HOME: home, XDG_CONFIG_HOME: join(home, '.config') },
      })
      expect(await sha256Of(answer.path as string)).toBe(oid)
      expect(agent.stderr).not.toContain('EROFS')
    })
  })

  test('a PATH without git: a clear error for each object, exit 0', async () => {
    const bin = here.world.path('bin')
    await mkdir(bin)
    await symlink(process.execPath, join(bin, 'node'))
    for (let time = 0; time < 2; time++) {
      const { answer, oid } = await fetchWith({ env: { ...here.world.env, PATH: bin } })
      expect(answer.error).toEqual({
        code: 400,
        message: `download of ${oid}: git was not found on PATH: install git, or mend PATH`,
      })
    }
  })

  test('outside a repository: an error of git’s words, exit 0', async () => {
    const { answer } = await fetchWith({ cwd: here.world.folder })
    expect(answer.error).toMatchObject({ code: 400, message: expect.stringMatching(/not a git repository/) })
  })

  test('a setting that is no good: told with its name, exit 0', async () => {
    const { answer } = await fetchWith({
      env: { ...here.world.env, GIT_CONFIG_PARAMETERS: "'timone.partSize=huge'" },
    })
    expect(answer.error).toMatchObject({ code: 400, message: expect.stringMatching(/timone\.partSize/) })
  })

  test('a log file that cannot be written does not stop it', async () => {
    const { answer, agent } = await fetchWith({
      env: { ...here.world.env, TIMONE_LOG: '/nowhere/agent.log' },
    })
    expect(answer.error).toBeUndefined()
    expect(agent.stderr).toMatch(/cannot write the log file TIMONE_LOG=\/nowhere\/agent\.log/)
  })

  test('in a folder with spaces, quotes and other letters', async () => {
    const odd = here.world.path('wörk "dir" \'x\' $HOME `id` é\n☃')
    await here.world.git(here.world.folder, 'init', '-q', odd)
    await mkdir(join(odd, 'below'))
    const { answer, oid } = await fetchWith({ cwd: join(odd, 'below') })
    expect(answer.path).toMatch(/☃\/\.git\/lfs\/timone\//)
    expect(await sha256Of(answer.path as string)).toBe(oid)
  })
})

describe('what an agent survives', () => {
  let here: AgentWorld
  beforeAll(async () => {
    here = await agentWorld('file')
  })
  afterAll(() => here.close())

  test('garbage, a line of 10 MB and one cut anywhere, between two good transfers', async () => {
    const objects = [await here.addObject(1000), await here.addObject(2000)]
    const asked = await here.batch('upload', objects)
    const agent = here.agent()
    await agent.init('upload')
    const first = await agent.transfer('upload', asked[0] as BatchObject, objects[0]?.path)
    expect(first.error).toBeUndefined()
    const before = agent.answers.length
    agent.process.stdin.write('not json\n[1,2,3]\n"text"\n{}\n{"event":"dance"}\n\0\xff\xfe\n\r\n\n')
    agent.say({ event: 'init', operation: 'upload' })

    const [, object] = asked
    const header = { ...object?.actions?.upload?.header, 'X-Long': 'ä'.repeat(5 * MIB) }
    const action = { href: object?.actions?.upload?.href, header: object?.actions?.upload?.header }
    const line = Buffer.from(
      `${JSON.stringify({ event: 'upload', oid: object?.oid, size: 2000, path: objects[1]?.path, action, padding: header })}\r\n`,
    )
    expect(line.length).toBeGreaterThan(10_000_000)
    for (let at = 0; at < line.length; at += 999_983) {
      if (!agent.process.stdin.write(line.subarray(at, at + 999_983)))
        await once(agent.process.stdin, 'drain')
    }
    expect(await agent.answer(({ oid, event }) => event === 'complete' && oid === object?.oid)).toEqual({
      event: 'complete',
      oid: object?.oid,
    })
    // Nothing else was said: a stray line would be taken for the answer to the next object.
    expect(agent.answers.slice(before).every(({ oid }) => oid === object?.oid)).toBe(true)
    expect(await agent.terminate()).toBe(0)
  })

  test('40 objects of which some fail, each in another way: each has one answer, in order', async () => {
    const objects = []
    for (let number = 0; number < 40; number++) objects.push(await here.addObject(500 + number))
    const asked = await here.batch('upload', objects)
    const expected = new Map<number, number>()
    for (const [number, object] of objects.entries()) {
      if (number % 5 === 1) {
        await rm(object.path)
        expected.set(number, 404)
      } else if (number % 5 === 2) {
        await writeFile(object.path, randomBytes(object.size))
        expected.set(number, 422)
      } else if (number % 5 === 3) {
        await writeFile(object.path, 'short')
        expected.set(number, 422)
      }
    }
    const agent = here.agent()
    await agent.init('upload')
    for (const [number, object] of objects.entries()) {
      const answer = await agent.transfer('upload', asked[number] as BatchObject, object.path)
      expect(answer.error?.code, `object ${number}`).toBe(expected.get(number))
      if (answer.error !== undefined) expect(answer.error.message).toContain(object.oid)
    }
    const completed = agent.answers.filter(({ event }) => event === 'complete').map(({ oid }) => oid)
    expect(completed).toEqual(objects.map(({ oid }) => oid))
    expect(await agent.terminate()).toBe(0)
    const there = await here.batch('download', objects)
    expect(there.map(({ error }) => error === undefined)).toEqual(
      objects.map((_, number) => !expected.has(number)),
    )
  })

  test('requests that are strange: no action, no path, a folder as path, an href that leads nowhere', async () => {
    const object = await here.addObject(700)
    const [asked] = await here.batch('upload', [object])
    const action = asked?.actions?.upload
    const agent = here.agent()
    await agent.init('upload')
    const strange: [object, number][] = [
      // First, while there are no credentials yet that would do.
      [{ path: object.path, action: { ...action, header: { ...action?.header, 'Bad\nName': 'x' } } }, 500],
      [{ path: object.path, action: null }, 400],
      [{ path: object.path }, 400],
      [{ action }, 422],
      [{ path: here.work, action }, 422],
      [{ path: object.path, action: { href: 'gopher://x', header: {} } }, 422],
      [{ path: object.path, action: { href: 'not a url' } }, 422],
    ]
    for (const [message, code] of strange) {
      const before = agent.answers.length
      agent.say({ event: 'upload', oid: object.oid, size: object.size, ...message })
      await vi.waitUntil(() => agent.answers.length > before, { timeout: 20_000, interval: 5 })
      expect(agent.answers.at(-1)?.error?.code, JSON.stringify(message)).toBe(code)
    }
    const before = agent.answers.length
    ask(agent, 'upload', asked as BatchObject, object.path)
    await vi.waitUntil(() => agent.answers.slice(before).some(({ event }) => event === 'complete'), {
      timeout: 20_000,
    })
    expect(agent.answers.at(-1)).toEqual({ event: 'complete', oid: object.oid })
    expect(await agent.terminate()).toBe(0)
  })
})

describe('disks', () => {
  let here: AgentWorld
  beforeAll(async () => {
    here = await agentWorld('file')
  })
  afterEach(() => {
    here.proxy.fault = () => undefined
  })
  afterAll(() => here.close())

  /** Objects of these sizes in the store, and an agent in a repository on `disk`. */
  async function onDisk(disk: string, sizes: number[]) {
    const objects = []
    for (const size of sizes) {
      const object = await here.addObject(size)
      await here.upload(object)
      objects.push(object)
    }
    await here.world.git(here.world.folder, 'init', '-q', '--template=', join(disk, 'repo'))
    const agent = new AgentProcess(join(disk, 'repo'), here.world.env)
    await agent.init('download')
    const asked = await here.batch('download', objects)
    return {
      agent,
      asked: asked as [BatchObject, ...BatchObject[]],
      storage: join(disk, 'repo/.git/lfs/timone'),
    }
  }

  test('full from the start: 507 with the folder and the need, nothing left, smaller objects go on', async () => {
    await withTmpfs('4m', async (disk) => {
      const { agent, asked, storage } = await onDisk(disk, [6 * MIB, 50_000])
      const answer = await agent.transfer('download', asked[0])
      expect(answer.error?.code).toBe(507)
      expect(answer.error?.message).toContain(storage)
      expect(answer.error?.message).toContain(String(6 * MIB))
      expect((await readdir(storage)).filter((name) => name.startsWith(asked[0].oid))).toEqual([])
      const small = await agent.transfer('download', asked[1] as BatchObject)
      expect(await sha256Of(small.path as string)).toBe(asked[1]?.oid)
      expect(await agent.terminate()).toBe(0)
    })
  })

  test('full in the middle: the same', async () => {
    await withTmpfs('8m', async (disk) => {
      const { agent, asked, storage } = await onDisk(disk, [6 * MIB, 50_000])
      let gets = 0
      // Between two tries somebody else takes the room.
      here.proxy.fault = (request) => {
        if (!isGet(request)) return undefined
        if (++gets === 1) return { kind: 'cut', after: 2 * MIB }
        if (gets === 2) writeFileSync(join(disk, 'filler'), Buffer.alloc(4 * MIB))
        return undefined
      }
      const answer = await agent.transfer('download', asked[0])
      expect(answer.error?.code).toBe(507)
      expect(answer.error?.message).toMatch(/ENOSPC/)
      expect(answer.error?.message).toContain(storage)
      expect(gets).toBe(2)
      expect((await readdir(storage)).filter((name) => name.startsWith(asked[0].oid))).toEqual([])
      const small = await agent.transfer('download', asked[1] as BatchObject)
      expect(await sha256Of(small.path as string)).toBe(asked[1]?.oid)
      expect(await agent.terminate()).toBe(0)
    })
  })

  test('read-only: a clear error for each object, and uploads from there work', async () => {
    await withTmpfs('32m', async (disk, remount) => {
      const { agent, asked, storage } = await onDisk(disk, [50_000, 60_000])
      const content = randomBytes(6 * MIB)
      const oid = createHash('sha256').update(content).digest('hex')
      const path = join(disk, 'repo/.git/lfs/objects', oid.slice(0, 2), oid.slice(2, 4), oid)
      await mkdir(join(path, '..'), { recursive: true })
      await writeFile(path, content)
      remount('ro')
      for (const object of asked) {
        const answer = await agent.transfer('download', object)
        expect(answer.error?.code).toBe(507)
        expect(answer.error?.message).toContain(`cannot write in ${storage} (EROFS)`)
      }
      expect(await agent.terminate()).toBe(0)
      const up = new AgentProcess(join(disk, 'repo'), {
        ...here.world.env,
        GIT_CONFIG_PARAMETERS: "'timone.partSize=5m'",
      })
      await up.init('upload')
      const [upload] = await here.batch('upload', [{ oid, size: content.length }])
      expect(await up.transfer('upload', upload as BatchObject, path)).toEqual({ event: 'complete', oid })
      expect(await up.terminate()).toBe(0)
    })
  })

  test('lfs.storage on another device: git-lfs can rename what it is given', async () => {
    await withTmpfs('8m', async (disk) => {
      const user = await pusher(here, here.proxy.url)
      try {
        await writeRandom(join(user.work, 'a.bin'), 300_000)
        await user.world.commit(user.work)
        await user.world.git(user.work, 'push', '-q', 'origin', 'main')
        const clone = user.world.path('clone')
        await user.world.git(
          user.world.folder,
          '-c',
          `lfs.storage=${disk}`,
          'clone',
          '-q',
          user.origin,
          clone,
        )
        expect(await hashTree(clone)).toEqual(await hashTree(user.work))
        expect(await readdir(join(disk, 'objects'))).toHaveLength(1)
        expect(await readdir(join(disk, 'timone'))).toEqual([])
      } finally {
        await user.world.remove()
      }
    })
  })
})

interface Pusher {
  world: World
  origin: string
  work: string
  token: string
}

/** A user with the agent installed, and a repository of its own whose objects go to `url`. */
async function pusher(here: AgentWorld, url: string, gitLfs?: string): Promise<Pusher> {
  const world = await World.create(gitLfs === undefined ? {} : { gitLfs })
  const server: RunningServer = { ...here.server, url, port: Number(new URL(url).port) }
  const token = await world.signIn(server)
  await world.install()
  for (const [name, value] of [
    ['timone.partSize', '5m'],
    ['timone.parallelParts', '2'],
    ['lfs.transfer.maxretries', '2'],
    ['lfs.transfer.maxretrydelay', '1'],
  ] as const)
    await world.git(world.folder, 'config', '--global', name, value)
  const { origin, work } = await world.repository(server, `org/r${randomBytes(4).toString('hex')}`)
  return { world, origin, work, token }
}

for (const gitLfs of gitLfsVersions()) {
  describe.skipIf(gitLfs.missing !== undefined)(`a real git push with ${gitLfs.name}`, () => {
    let here: AgentWorld
    let user: Pusher
    let slow: Slow
    beforeAll(async () => {
      here = await agentWorld('file')
    })
    afterEach(async () => {
      here.proxy.fault = () => undefined
      for (const { pid } of await processesOf(user.world)) killIfThere(pid)
      await user.world.remove()
    })
    afterAll(() => here.close())

    /** A push of three objects that is under way: two parts are stored, and no object. */
    async function pushing(): Promise<{ push: ChildProcess; ended: Promise<Ran>; oids: string[] }> {
      user = await pusher(here, here.proxy.url, gitLfs.folder)
      const oids: string[] = []
      for (const name of ['a.bin', 'b.bin', 'c.bin'])
        oids.push(await writeRandom(join(user.work, name), 3 * PART))
      await user.world.commit(user.work)
      slow = { kind: 'slow', rate: MIB / 2 }
      here.proxy.fault = slowAfter(2, slow)
      here.proxy.requests.length = 0
      // A process group of its own, as a shell makes one for each command.
      const push = spawn('git', ['push', 'origin', 'main'], {
        cwd: user.work,
        env: user.world.env,
        detached: true,
        stdio: ['ignore', 'pipe', 'pipe'],
      })
      const said = { stdout: '', stderr: '' }
      push.stdout.setEncoding('utf8').on('data', (text: string) => {
        said.stdout += text
      })
      push.stderr.setEncoding('utf8').on('data', (text: string) => {
        said.stderr += text
      })
      const ended = once(push, 'close').then(([code]): Ran => ({ code, ...said }))
      // Two parts are stored, and a third is on its way.
      await vi.waitUntil(() => here.proxy.requests.filter(isPut).length >= 3, {
        timeout: 30_000,
        interval: 5,
      })
      return { push, ended, oids }
    }

    /** Fails unless nothing is visible, no process is left, and the next push sends what is missing. */
    async function expectContinued(oids: string[]): Promise<void> {
      const objects = here.world.path('data', 'objects', 'org')
      const names = await readdir(objects, { recursive: true }).catch(() => [])
      for (const oid of oids) expect(names.filter((name) => name.endsWith(oid))).toEqual([])
      here.proxy.fault = () => undefined
      // What the dead had handed to their kernel still arrives; it need not take its time now.
      slow.rate = Number.POSITIVE_INFINITY
      here.proxy.requests.length = 0
      await user.world.git(user.work, 'push', '-q', 'origin', 'main')
      expect(here.proxy.requests.filter(isPut).length).toBeLessThan(9)
      const clone = user.world.path('clone')
      await user.world.git(user.world.folder, 'clone', '-q', user.origin, clone)
      expect(await hashTree(clone)).toEqual(await hashTree(user.work))
      expect(await readdir(join(user.work, '.git/lfs/timone'))).toEqual([])
    }

    test('kill -9 of git-lfs: its agents are gone within 2 s', async () => {
      const { ended, oids } = await pushing()
      const agents = await agentsOf(user.world)
      // The front and its engine: the other agents have handed their pipes over.
      expect(agents).toHaveLength(2)
      for (const { pid, name } of await processesOf(user.world))
        if (name.startsWith('git-lfs')) killIfThere(pid)
      await vi.waitUntil(async () => (await agentsOf(user.world)).length === 0, {
        timeout: SOON,
        interval: 20,
      })
      expect((await ended).code).not.toBe(0)
      await expectContinued(oids)
    })

    test('Ctrl-C: everything is gone within 2 s', async () => {
      const { push, ended, oids } = await pushing()
      process.kill(-(push.pid as number), 'SIGINT')
      await vi.waitUntil(async () => (await processesOf(user.world)).length === 0, {
        timeout: SOON,
        interval: 20,
      })
      expect((await ended).code).not.toBe(0)
      await expectContinued(oids)
    })

    test('no process has a secret in its command line', async () => {
      const { push, ended } = await pushing()
      const commands = (await processesOf(user.world)).map(({ command }) => command)
      expect(commands.some((command) => command.includes(TIMONE))).toBe(true)
      for (const command of commands) {
        expect(command).not.toContain(user.token)
        expect(command).not.toMatch(/eyJ|Bearer|signature/i)
      }
      process.kill(-(push.pid as number), 'SIGINT')
      await ended
    })
  })
}

test('a server that stops in the middle of a push: told with its host within a bound, and well after a restart', async () => {
  const here = await agentWorld('file')
  const user = await pusher(here, here.proxy.url)
  let again: RunningServer | undefined
  try {
    await writeRandom(join(user.work, 'a.bin'), 4 * PART)
    await writeRandom(join(user.work, 'b.bin'), 1000)
    await user.world.commit(user.work)
    here.proxy.fault = (request) => (isPut(request) ? { kind: 'slow', rate: 4 * MIB } : undefined)
    const pushed = run('git', ['push', 'origin', 'main'], {
      cwd: user.work,
      env: user.world.env,
      timeout: 60_000,
    })
    await vi.waitUntil(() => here.proxy.received > 2 * MIB, { timeout: 30_000, interval: 5 })
    await here.server.stop('SIGKILL')
    const { code, stderr } = await pushed
    expect(code).not.toBe(0)
    expect(stderr).toContain(new URL(here.proxy.url).host)
    expect(stderr).toMatch(/\[503\].*upload of [0-9a-f]{64}/)

    here.proxy.fault = () => undefined
    const data = here.world.path('data')
    again = await startServer(
      data,
      { ...backendSettings('file', data), TIMONE_ENDPOINT_URL: here.proxy.url },
      { port: here.server.port },
    )
    await user.world.git(user.work, 'push', '-q', 'origin', 'main')
    const clone = user.world.path('clone')
    await user.world.git(user.world.folder, 'clone', '-q', user.origin, clone)
    expect(await hashTree(clone)).toEqual(await hashTree(user.work))
  } finally {
    await again?.stop()
    await user.world.remove()
    await here.close()
  }
})

describe('secrets', () => {
  test.each(['s3-sts', 's3-url', 'file'] as Backend[])(
    'are in no log of a push and a pull, %s',
    async (backend) => {
      const here = await agentWorld(backend)
      const user = await pusher(here, backend === 'file' ? here.proxy.url : here.server.url)
      try {
        const log = user.world.path('agent.log')
        Object.assign(user.world.env, {
          TIMONE_LOG: log,
          TIMONE_LOG_LEVEL: 'debug',
          GIT_TRACE: '1',
          GIT_TRANSFER_TRACE: '1',
        })
        const oid = await writeRandom(join(user.work, 'small.bin'), 1000)
        await writeRandom(join(user.work, 'large.bin'), PART + 1)
        await user.world.commit(user.work)
        // One answer that is an error, since those tempt to print what was asked.
        let failed = false
        here.proxy.fault = (request) => {
          if (failed || !isPut(request)) return undefined
          failed = true
          return { kind: 'answer', status: 500, body: '<Error><Code>InternalError</Code></Error>' }
        }
        const push = await user.world.tryGit(user.work, 'push', 'origin', 'main')
        expect(push.code, push.stderr).toBe(0)
        const clone = user.world.path('clone')
        const pull = await user.world.tryGit(user.world.folder, 'clone', user.origin, clone)
        expect(pull.code, pull.stderr).toBe(0)
        expect(await hashTree(clone)).toEqual(await hashTree(user.work))

        expect((await stat(log)).mode & 0o777).toBe(0o600)
        const logged = await readFile(log, 'utf8')
        expect(logged).toContain('upload complete')
        expect(logged).toContain('download complete')
        expect(logged).not.toMatch(/eyJ|Bearer|Authorization|X-Amz-|signature=/i)

        const trace = push.stderr + pull.stderr
        expect(trace).toContain(oid)
        const secrets = [user.token, testS3().credentials.secretAccessKey, ...(await sessionSecrets(user))]
        for (const secret of secrets) expect((trace + logged).includes(secret)).toBe(false)
        expect(trace).not.toMatch(/X-Amz-(Signature|Security-Token)=|[?&]signature=/i)
        // git-lfs logs the answer to Batch and each message that it sends us: the tokens of the actions are in there, and
        // nowhere else.
        const withToken = trace.split('\n').filter((line) => line.includes('eyJ'))
        for (const line of withToken) expect(line).toMatch(/ trace git-lfs: (HTTP: |xfer: .*sending message)/)
        // Those that reach an agent open one repository, for an hour at most.
        const sent = withToken.filter((line) => line.includes('sending message')).join('\n')
        const tokens = sent.match(/eyJ[\w-]+\.eyJ[\w-]+\.[\w-]+/g) ?? []
        expect(tokens.length).toBeGreaterThanOrEqual(4)
        for (const token of tokens) {
          const claims = JSON.parse(Buffer.from(token.split('.')[1] as string, 'base64url').toString())
          expect(claims.exp - claims.iat).toBeLessThanOrEqual(3600)
          expect(claims.scope).toMatch(/^lfs:org\/r[0-9a-f]{8}:rw?$/)
        }
      } finally {
        await user.world.remove()
        await here.close()
      }
    },
  )

  /** The storage credentials that the agents of that user were given: the broker keeps them for a while. */
  async function sessionSecrets(user: Pusher): Promise<string[]> {
    const url = (await user.world.git(user.work, 'config', '-f', '.lfsconfig', 'lfs.url')).trim()
    const head = {
      'content-type': 'application/vnd.git-lfs+json',
      accept: 'application/vnd.git-lfs+json',
      authorization: `Basic ${Buffer.from(`ada:${user.token}`).toString('base64')}`,
    }
    const secrets: string[] = []
    for (const operation of ['upload', 'download']) {
      const object = { oid: createHash('sha256').update(randomBytes(8)).digest('hex'), size: 1 }
      if (operation === 'download') Object.assign(object, await anyObject(user))
      const batch = await fetch(`${url}/objects/batch`, {
        method: 'POST',
        headers: head,
        body: JSON.stringify({ operation, transfers: ['timone'], objects: [object] }),
      })
      const { objects } = (await batch.json()) as { objects: BatchObject[] }
      const action = objects[0]?.actions?.[operation]
      const answer = await fetch(action?.href as string, {
        method: 'POST',
        headers: { ...action?.header, 'content-type': 'application/json' },
        body: JSON.stringify({ operation }),
      })
      const credentials = (await answer.json()) as Record<string, unknown>
      for (const name of ['secret_access_key', 'session_token', 'token'])
        if (typeof credentials[name] === 'string') secrets.push(credentials[name])
    }
    expect(secrets.length).toBeGreaterThanOrEqual(2)
    return secrets
  }

  /** An object that the user has pushed. */
  async function anyObject(user: Pusher): Promise<{ oid: string; size: number }> {
    const pointer = await user.world.git(user.work, 'show', 'HEAD:small.bin')
    return {
      oid: /sha256:([0-9a-f]{64})/.exec(pointer)?.[1] as string,
      size: Number(/size (\d+)/.exec(pointer)?.[1]),
    }
  }
})
