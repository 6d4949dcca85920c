import { spawnSync } from 'node:child_process'
import { createHash, randomBytes } from 'node:crypto'
import { existsSync } from 'node:fs'
import { mkdir, readdir, readFile, rm, stat, truncate, utimes, writeFile } from 'node:fs/promises'
import { hostname } from 'node:os'
import { join } from 'node:path'
import {
  AbortMultipartUploadCommand,
  ListMultipartUploadsCommand,
  ListPartsCommand,
  S3Client,
} from '@aws-sdk/client-s3'
import { afterAll, afterEach, beforeAll, describe, expect, test, vi } from 'vitest'
import type { AgentProcess, Answer, BatchObject } from '../helpers/agent.ts'
import { type AgentWorld, agentWorld, sha256Of } from '../helpers/agent-world.ts'
import type { Fault, SeenRequest } from '../helpers/fault-proxy.ts'
import { testS3 } from '../helpers/s3.ts'
import { type Backend, lfsObject } from '../helpers/world.ts'

const MIB = 2 ** 20
const PART = 5 * MIB
/** JSON and XML around the bytes. */
const TALK = 64 * 1024
const DAY = 24 * 3600

interface LocalObject {
  oid: string
  size: number
  path: string
  content: Buffer
}

interface UnfinishedUpload {
  /** Bytes of each part that is stored. */
  parts: number[]
  drop(): Promise<void>
}

const isPart = ({ method, url }: SeenRequest): boolean =>
  method === 'PUT' && /[?&](partNumber|part)=\d+/.test(url)
const isPartNumber =
  (number: number) =>
  ({ method, url }: SeenRequest): boolean =>
    method === 'PUT' && new RegExp(`[?&](partNumber|part)=${number}(&|$)`).test(url)
const isComplete = ({ method, url }: SeenRequest): boolean =>
  method === 'POST' && /[?&]uploadId=|\/transfers\/complete\?/.test(url)
const isGet = ({ method, url }: SeenRequest): boolean =>
  method === 'GET' && /\/[0-9a-f]{64}(\?|$)/.test(url) && !url.includes('uploadId')

/** The fault for the first `times` requests that match. */
function first(times: number, matches: (request: SeenRequest) => boolean, fault: Fault) {
  let left = times
  return (request: SeenRequest): Fault | undefined => (matches(request) && left-- > 0 ? fault : undefined)
}

const s3Answer = (status: number, code: string): Fault => ({
  kind: 'answer',
  status,
  headers: { 'content-type': 'application/xml' },
  body: `<?xml version="1.0"?><Error><Code>${code}</Code><Message>told so</Message></Error>`,
})

describe.each(['s3-sts', 's3-url', 'file'] as Backend[])('after an end in the middle, %s', (backend) => {
  let here: AgentWorld
  let s3: S3Client
  beforeAll(async () => {
    here = await agentWorld(backend)
    await here.world.git(here.work, 'config', 'timone.partSize', '5m')
    await here.world.git(here.work, 'config', 'timone.parallelParts', '2')
    if (backend !== 'file') {
      const { url, region, credentials } = testS3()
      s3 = new S3Client({ endpoint: url, region, credentials, forcePathStyle: true })
    }
  })
  afterEach(() => {
    here.proxy.fault = () => undefined
  })
  afterAll(async () => {
    await here.close()
    s3?.destroy()
  })

  const folder = (): string => join(here.work, '.git/lfs/timone')
  const statePath = (oid: string): string => join(folder(), `${oid}.upload.json`)
  const left = async (oid: string): Promise<string[]> =>
    (await readdir(folder()).catch(() => [])).filter((name) => name.startsWith(oid))
  const readState = async (oid: string): Promise<Record<string, unknown>> =>
    JSON.parse(await readFile(statePath(oid), 'utf8'))

  /** Requests an object and does not wait. */
  function ask(agent: AgentProcess, event: 'upload' | 'download', object: BatchObject, path?: string): void {
    const action = object.actions?.[event]
    agent.say({ event, oid: object.oid, size: object.size, path, action })
  }

  /** Uploads an object, with these settings of git for this run. */
  async function upload(object: LocalObject, ...config: string[]): Promise<Answer> {
    const agent = here.agent({ GIT_CONFIG_PARAMETERS: config.map((pair) => `'${pair}'`).join(' ') })
    await agent.init('upload')
    const [asked] = await here.batch('upload', [object])
    const answer = await agent.transfer('upload', asked as BatchObject, object.path)
    expect(await agent.terminate()).toBe(0)
    return answer
  }

  async function download(object: { oid: string; size: number }): Promise<Answer> {
    const agent = here.agent()
    await agent.init('download')
    const [asked] = await here.batch('download', [object])
    const answer = await agent.transfer('download', asked as BatchObject)
    expect(await agent.terminate()).toBe(0)
    return answer
  }

  /** What the store itself knows of unfinished uploads of an object. */
  async function unfinished(oid: string): Promise<UnfinishedUpload[]> {
    if (backend === 'file') return unfinishedFiles(oid)
    const { bucket: Bucket } = testS3()
    const found: UnfinishedUpload[] = []
    let marker: { KeyMarker?: string; UploadIdMarker?: string } = {}
    for (;;) {
      const page = await s3.send(new ListMultipartUploadsCommand({ Bucket, ...marker }))
      for (const { Key = '', UploadId } of page.Uploads ?? []) {
        if (!Key.endsWith(oid)) continue
        const listed = await s3
          .send(new ListPartsCommand({ Bucket, Key, UploadId }))
          .catch((error: Error) => {
            if (error.name === 'NoSuchUpload') return undefined
            throw error
          })
        // It was completed since it was listed.
        if (listed === undefined) continue
        const { Parts = [] } = listed
        found.push({
          parts: Parts.map(({ Size = 0 }) => Size),
          drop: async () => {
            await s3.send(new AbortMultipartUploadCommand({ Bucket, Key, UploadId }))
          },
        })
      }
      if (page.IsTruncated !== true || page.NextKeyMarker === undefined) return found
      marker = {
        KeyMarker: page.NextKeyMarker,
        ...(page.NextUploadIdMarker === undefined ? {} : { UploadIdMarker: page.NextUploadIdMarker }),
      }
    }
  }

  async function unfinishedFiles(oid: string): Promise<UnfinishedUpload[]> {
    const uploads = here.world.path('data', 'objects', '.timone', 'uploads')
    const found: UnfinishedUpload[] = []
    for (const id of await readdir(uploads).catch(() => [])) {
      const at = join(uploads, id)
      const text = await readFile(join(at, 'meta.json'), 'utf8').catch(() => undefined)
      // It is just being made, or removed.
      if (text === undefined) continue
      const meta = JSON.parse(text) as { key: string; size: number; partSize: number }
      if (!meta.key.endsWith(oid)) continue
      found.push({
        parts: (await readdir(join(at, 'parts'))).map((number) =>
          Math.min(meta.partSize, meta.size - (Number(number) - 1) * meta.partSize),
        ),
        drop: () => rm(at, { recursive: true }),
      })
    }
    return found
  }

  /** Fails unless the object is stored whole, and nothing of its upload is left on either side. */
  async function expectWhole(object: LocalObject, options: { orphans?: number } = {}): Promise<void> {
    here.proxy.fault = () => undefined
    expect(await left(object.oid)).toEqual([])
    const answer = await download(object)
    expect(answer.error).toBeUndefined()
    expect(await sha256Of(answer.path as string)).toBe(object.oid)
    await rm(answer.path as string)
    expect(await unfinished(object.oid)).toHaveLength(options.orphans ?? 0)
  }

  /** An upload that ended after its first two parts of three. */
  async function interrupted(): Promise<LocalObject> {
    const object = await here.addObject(2 * PART + 1000)
    here.proxy.fault = (request) => (isPartNumber(3)(request) ? s3Answer(403, 'AccessDenied') : undefined)
    // One at a time: a refusal stops the others in their middle.
    expect((await upload(object, 'timone.parallelParts=1')).error?.code).toBe(403)
    here.proxy.fault = () => undefined
    expect((await unfinished(object.oid)).map(({ parts }) => parts)).toEqual([[PART, PART]])
    expect(existsSync(statePath(object.oid))).toBe(true)
    return object
  }

  /** Bytes that go up while `work` runs. */
  async function bytesSent(work: () => Promise<unknown>): Promise<number> {
    const before = here.proxy.received
    await work()
    return here.proxy.received - before
  }

  test('kill -9 at 60 % of an upload: the next run sends the missing parts only', async () => {
    const object = await here.addObject(8 * PART - 12_345)
    const agent = here.agent()
    await agent.init('upload')
    const [asked] = await here.batch('upload', [object])
    here.proxy.fault = (request) => (isPart(request) ? { kind: 'slow', rate: 10 * MIB } : undefined)
    here.proxy.requests.length = 0
    const before = here.proxy.received
    ask(agent, 'upload', asked as BatchObject, object.path)
    await vi.waitUntil(() => here.proxy.received - before > 0.6 * object.size, {
      timeout: 30_000,
      interval: 10,
    })
    await agent.kill('SIGKILL')
    here.proxy.fault = () => undefined

    expect((await here.batch('download', [object]))[0]?.error?.code).toBe(404)
    expect((await stat(statePath(object.oid))).mode & 0o777).toBe(0o600)
    const uploads = await unfinished(object.oid)
    expect(uploads).toHaveLength(1)
    const stored = uploads[0]?.parts.length ?? 0
    expect(stored).toBeGreaterThanOrEqual(3)

    // By requests, not bytes: what the dead agent had handed to its kernel still arrives now.
    const begun = here.proxy.requests.filter(isPart).length
    expect(await upload(object)).toEqual({ event: 'complete', oid: object.oid })
    expect(here.proxy.requests.filter(isPart).length - begun).toBeLessThanOrEqual(8 - stored)
    // What was on its way when it was killed counts twice: two parts at most.
    expect(here.proxy.received - before).toBeLessThanOrEqual(object.size + 2 * PART + TALK)
    await expectWhole(object)
  })

  test('an upload that was refused goes on where it stopped', async () => {
    const object = await interrupted()
    const sent = await bytesSent(async () => {
      expect(await upload(object)).toEqual({ event: 'complete', oid: object.oid })
    })
    expect(sent).toBeLessThan(1000 + TALK)
    await expectWhole(object)
  })

  test('without its state an upload begins anew', async () => {
    const object = await interrupted()
    await rm(statePath(object.oid))
    const sent = await bytesSent(() => upload(object))
    expect(sent).toBeGreaterThanOrEqual(object.size)
    // The parts of the first one are left to the store's own rule for abandoned uploads.
    await expectWhole(object, { orphans: 1 })
  })

  test('a file that was touched since is sent as a whole', async () => {
    const object = await interrupted()
    await utimes(object.path, 1_700_000_000, 1_700_000_000)
    const sent = await bytesSent(async () => {
      expect(await upload(object)).toEqual({ event: 'complete', oid: object.oid })
    })
    expect(sent).toBeGreaterThanOrEqual(object.size)
    await expectWhole(object, { orphans: 1 })
  })

  test('state that is damaged or hostile does no harm', async () => {
    const good = await readState((await interrupted()).oid)
    const outside = here.world.path('outside')
    await writeFile(outside, 'untouched')
    // What ResumeStore refuses by itself has its own tests; these reach the store.
    const states: [string, (state: Record<string, unknown>) => object | string][] = [
      ['cut', (state) => JSON.stringify(state).slice(0, -20)],
      ['another target', (state) => ({ ...state, target: 'https://evil.example/x#evil.example' })],
      ['a part size of 1', (state) => ({ ...state, partSize: 1 })],
      ['an absurd part size', (state) => ({ ...state, partSize: 2 ** 50 })],
      ['an upload id that climbs', (state) => ({ ...state, uploadId: '../../../../outside' })],
      ['an upload id of our form', (state) => ({ ...state, uploadId: `${PART}.../../outside` })],
      ['an upload id with a line end', (state) => ({ ...state, uploadId: 'x\r\nhost: evil' })],
      ['the upload of another object', (state) => state],
    ]
    const agent = here.agent()
    await agent.init('upload')
    for (const [what, write] of states) {
      const object = await here.addObject(PART + 1)
      const { mtimeMs } = await stat(object.path)
      const state = { ...good, size: object.size, mtimeMs }
      const written = write(state)
      await writeFile(statePath(object.oid), typeof written === 'string' ? written : JSON.stringify(written))
      const [asked] = await here.batch('upload', [object])
      const answer = await agent.transfer('upload', asked as BatchObject, object.path)
      expect(answer, what).toEqual({ event: 'complete', oid: object.oid })
      expect(await left(object.oid), what).toEqual([])
      const [there] = await here.batch('download', [object])
      expect(there?.error, what).toBeUndefined()
    }
    expect(await agent.terminate()).toBe(0)
    expect(await readFile(outside, 'utf8')).toBe('untouched')
  })

  test('an upload that the store has dropped meanwhile: a new one, and no error', async () => {
    const object = await interrupted()
    for (const { drop } of await unfinished(object.oid)) await drop()
    const sent = await bytesSent(async () => {
      expect(await upload(object)).toEqual({ event: 'complete', oid: object.oid })
    })
    expect(sent).toBeGreaterThanOrEqual(object.size)
    await expectWhole(object)
  })

  test('an upload that is dropped while it goes on: a new one, and no error', async () => {
    const object = await here.addObject(3 * PART)
    const agent = here.agent()
    await agent.init('upload')
    const [asked] = await here.batch('upload', [object])
    here.proxy.fault = (request) => (isPart(request) ? { kind: 'slow', rate: 10 * MIB } : undefined)
    ask(agent, 'upload', asked as BatchObject, object.path)
    await vi.waitUntil(() => existsSync(statePath(object.oid)), { timeout: 30_000, interval: 5 })
    for (const { drop } of await unfinished(object.oid)) await drop()
    here.proxy.fault = () => undefined
    const answer = await agent.answer(({ event }) => event === 'complete')
    expect(answer).toEqual({ event: 'complete', oid: object.oid })
    expect(await agent.terminate()).toBe(0)
    await expectWhole(object)
  })

  test('two agents go on with the same upload at once: both succeed', async () => {
    const object = await interrupted()
    const asked = await Promise.all([1, 2].map(() => here.batch('upload', [object])))
    const agents = [here.agent(), here.agent()]
    await Promise.all(agents.map((agent) => agent.init('upload')))
    here.proxy.fault = (request) => (isPart(request) ? { kind: 'slow', rate: 20 * MIB } : undefined)
    const sent = await bytesSent(async () => {
      const answers = await Promise.all(
        agents.map((agent, index) => agent.transfer('upload', asked[index]?.[0] as BatchObject, object.path)),
      )
      for (const answer of answers) expect(answer).toEqual({ event: 'complete', oid: object.oid })
    })
    // One has gone on, the other has begun one of its own.
    expect(sent).toBeLessThan(object.size + 1000 + 2 * TALK)
    for (const agent of agents) expect(await agent.terminate()).toBe(0)
    await expectWhole(object)
  })

  test('what a live agent is sending is not touched by another', async () => {
    const object = await here.addObject(4 * PART)
    const asked = await Promise.all([1, 2].map(() => here.batch('upload', [object])))
    const [one, two] = [here.agent(), here.agent()]
    await Promise.all([one.init('upload'), two.init('upload')])
    here.proxy.fault = (request) => (isPart(request) ? { kind: 'slow', rate: 10 * MIB } : undefined)
    ask(one, 'upload', asked[0]?.[0] as BatchObject, object.path)
    await vi.waitUntil(() => existsSync(statePath(object.oid)), { timeout: 30_000, interval: 5 })
    const state = await readState(object.oid)
    expect(state.owner).toMatchObject({ pid: await one.enginePid() })
    ask(two, 'upload', asked[1]?.[0] as BatchObject, object.path)
    await vi.waitUntil(async () => (await unfinished(object.oid)).length === 2, {
      timeout: 10_000,
      interval: 20,
    })
    expect(await readState(object.oid)).toEqual(state)
    for (const agent of [one, two]) {
      const answer = await agent.answer(({ event }) => event === 'complete')
      expect(answer).toEqual({ event: 'complete', oid: object.oid })
      expect(await agent.terminate()).toBe(0)
    }
    await expectWhole(object)
  })

  test('a completion whose answer is lost is success, and no part is sent again', async () => {
    const object = await here.addObject(2 * PART + 1)
    here.proxy.requests.length = 0
    here.proxy.fault = first(1, isComplete, { kind: 'lose-answer' })
    expect(await upload(object)).toEqual({ event: 'complete', oid: object.oid })
    expect(here.proxy.requests.filter(isPart)).toHaveLength(3)
    expect(here.proxy.requests.filter(isComplete).length).toBeGreaterThanOrEqual(2)
    await expectWhole(object)
  })

  const onS3 = backend === 'file' ? () => {} : test
  onS3('a completion that fails under status 200 is tried again', async () => {
    const object = await here.addObject(PART + 1)
    here.proxy.requests.length = 0
    here.proxy.fault = first(1, isComplete, s3Answer(200, 'InternalError'))
    expect(await upload(object)).toEqual({ event: 'complete', oid: object.oid })
    expect(here.proxy.requests.filter(isPart)).toHaveLength(2)
    expect(here.proxy.requests.filter(isComplete).length).toBeGreaterThanOrEqual(2)
    await expectWhole(object)
  })

  onS3('a completion that fails under status 200 for ever is a failure', async () => {
    const object = await here.addObject(PART + 1)
    here.proxy.fault = (request) => (isComplete(request) ? s3Answer(200, 'InternalError') : undefined)
    // The server behind signed URLs asks for a pause before each further try.
    const answer = await upload(object, 'lfs.transfer.maxretries=1')
    expect(answer.error?.code).toBe(503)
    expect(answer.error?.message).toContain(object.oid)
    here.proxy.fault = () => undefined
    expect((await here.batch('download', [object]))[0]?.error?.code).toBe(404)
    // The parts are there still: the next run only completes.
    const sent = await bytesSent(async () => {
      expect(await upload(object)).toEqual({ event: 'complete', oid: object.oid })
    })
    expect(sent).toBeLessThan(TALK)
    await expectWhole(object)
  })

  describe('download', () => {
    const partial = (oid: string, pid: number, host = hostname().replace(/[^A-Za-z0-9-]/g, '_')): string =>
      join(folder(), `${oid}.${host}.${pid}.part`)
    /** The id of a process that has ended. */
    const deadPid = (): number => spawnSync('true').pid

    /** Waits until an agent's map says that so many bytes are in its file. */
    async function recorded(oid: string, agent: AgentProcess, bytes: number): Promise<void> {
      const map = `${partial(oid, await agent.enginePid())}.json`
      await vi.waitUntil(
        async () => {
          const text = await readFile(map, 'utf8').catch(() => '{"extents":[]}')
          const { extents } = JSON.parse(text) as { extents: [number, number][] }
          return extents.reduce((sum, [start, end]) => sum + end - start, 0) >= bytes
        },
        { timeout: 60_000, interval: 20 },
      )
    }

    /** An object that is stored, and gone from the LFS storage. */
    async function storedObject(content: Buffer): Promise<LocalObject> {
      const oid = createHash('sha256').update(content).digest('hex')
      const path = lfsObject(here.work, oid)
      await mkdir(join(path, '..'), { recursive: true })
      await writeFile(path, content)
      const object = { oid, size: content.length, path, content }
      await here.upload(object)
      await rm(path)
      return object
    }

    /** Downloads, checks the bytes, and gives how many came down. */
    async function fetched(
      object: LocalObject,
      fault?: (request: SeenRequest) => Fault | undefined,
    ): Promise<number> {
      if (fault !== undefined) here.proxy.fault = fault
      const before = here.proxy.sent
      const answer = await download(object)
      expect(answer.error).toBeUndefined()
      expect((await readFile(answer.path as string)).equals(object.content)).toBe(true)
      expect(await left(object.oid)).toEqual([(answer.path as string).split('/').pop()])
      await rm(answer.path as string)
      return here.proxy.sent - before
    }

    test('kill -9 at 60 %: the next run fetches the rest only', async () => {
      const object = await storedObject(randomBytes(10 * MIB))
      const agent = here.agent()
      await agent.init('download')
      const [asked] = await here.batch('download', [object])
      here.proxy.fault = first(1, isGet, { kind: 'stall', after: 6 * MIB })
      ask(agent, 'download', asked as BatchObject)
      await recorded(object.oid, agent, 6 * MIB)
      await agent.kill('SIGKILL')
      expect(existsSync(object.path)).toBe(false)
      here.proxy.requests.length = 0
      const down = await fetched(object, () => undefined)
      expect(down).toBeGreaterThanOrEqual(4 * MIB)
      expect(down).toBeLessThan(4 * MIB + TALK)
      expect(here.proxy.requests.filter(isGet)).toHaveLength(1)
    })

    test('kill -9 on several streams: both runs together fetch little more than the object', async () => {
      const object = await storedObject(randomBytes(40 * MIB))
      const pace: Fault = { kind: 'pace', rate: 10 * MIB }
      here.proxy.fault = (request) => (isGet(request) ? pace : undefined)
      here.proxy.requests.length = 0
      const before = here.proxy.sent
      const agent = here.agent()
      await agent.init('download')
      const [asked] = await here.batch('download', [object])
      ask(agent, 'download', asked as BatchObject)
      const under = (): number => here.proxy.requests.filter(isGet).length
      await vi.waitUntil(() => here.proxy.sent - before > 20 * MIB && under() > 1, {
        timeout: 60_000,
        interval: 5,
      })
      pace.rate = 0
      await recorded(object.oid, agent, here.proxy.sent - before - TALK)
      await agent.kill('SIGKILL')
      pace.rate = 100 * MIB
      await fetched(object, () => undefined)
      expect(here.proxy.sent - before).toBeLessThan(1.1 * object.size)
    })

    test('a partial file without a map, as an earlier release left it, is fetched anew', async () => {
      const object = await storedObject(randomBytes(MIB))
      await writeFile(partial(object.oid, deadPid()), object.content.subarray(0, 0.6 * MIB))
      expect(await fetched(object)).toBeLessThan(MIB + TALK)
    })

    test('two agents fetch the same object at once: both succeed, and neither touches the other’s file', async () => {
      for (const size of [200_000, 20 * MIB]) {
        const object = await storedObject(randomBytes(size))
        const agents = [here.agent(), here.agent()]
        const asked = await Promise.all(agents.map(() => here.batch('download', [object])))
        await Promise.all(agents.map((agent) => agent.init('download')))
        const answers = await Promise.all(
          agents.map((agent, index) => agent.transfer('download', asked[index]?.[0] as BatchObject)),
        )
        for (const [index, { path = '' }] of answers.entries()) {
          expect(path).toBe(partial(object.oid, (await agents[index]?.enginePid()) as number))
          expect(await sha256Of(path)).toBe(object.oid)
          await rm(path)
        }
        for (const agent of agents) expect(await agent.terminate()).toBe(0)
        expect(await left(object.oid)).toEqual([])
      }
    })

    test('a partial file of all the bytes, wrong or right', async () => {
      const object = await storedObject(randomBytes(MIB))
      await writeFile(partial(object.oid, deadPid()), randomBytes(MIB))
      expect(await fetched(object)).toBeGreaterThanOrEqual(MIB)
      await writeFile(partial(object.oid, deadPid()), object.content)
      expect(await fetched(object)).toBeLessThan(TALK)
    })

    test('a partial file that is longer than the object', async () => {
      const object = await storedObject(randomBytes(100_000))
      await writeFile(partial(object.oid, deadPid()), Buffer.concat([object.content, Buffer.alloc(100)]))
      expect(await fetched(object)).toBeGreaterThanOrEqual(100_000)
    })

    test('a store that answers with the whole object instead of the rest', async () => {
      const object = await storedObject(Buffer.from(randomBytes(100_000).toString('hex')))
      await writeFile(partial(object.oid, deadPid()), object.content.subarray(0, 150_000))
      const whole: Fault = { kind: 'answer', status: 200, body: object.content.toString() }
      here.proxy.requests.length = 0
      await fetched(object, first(1, isGet, whole))
      expect(here.proxy.requests.filter(isGet)).toHaveLength(1)
    })

    test('an object that was replaced in the middle (412): from the start', async () => {
      const object = await storedObject(randomBytes(2 * MIB))
      let gets = 0
      here.proxy.requests.length = 0
      const down = await fetched(object, (request) => {
        if (!isGet(request)) return undefined
        gets++
        if (gets === 1) return { kind: 'cut', after: MIB }
        return gets === 2 ? s3Answer(412, 'PreconditionFailed') : undefined
      })
      expect(gets).toBe(3)
      expect(down).toBeGreaterThanOrEqual(3 * MIB)
    })

    test('what a live process or another machine is fetching is not touched', async () => {
      const object = await storedObject(randomBytes(300_000))
      const mine = partial(object.oid, process.pid)
      const elsewhere = partial(object.oid, deadPid(), 'another-machine')
      for (const path of [mine, elsewhere]) await writeFile(path, object.content.subarray(0, 200_000))
      const answer = await download(object)
      expect((await readFile(answer.path as string)).equals(object.content)).toBe(true)
      await rm(answer.path as string)
      for (const path of [mine, elsewhere]) {
        expect((await readFile(path)).equals(object.content.subarray(0, 200_000))).toBe(true)
        await rm(path)
      }
    })

    test('a partial file whose object is shorter in the store says so', async () => {
      const object = await storedObject(randomBytes(90_000))
      await writeFile(partial(object.oid, deadPid()), object.content.subarray(0, 80_000))
      const agent = here.agent()
      await agent.init('download')
      const [asked] = await here.batch('download', [object])
      here.proxy.fault = (request) => (isGet(request) ? s3Answer(416, 'InvalidRange') : undefined)
      const answer = await agent.transfer('download', asked as BatchObject)
      expect(answer.error?.code).toBe(422)
      expect(await left(object.oid)).toEqual([])
    })

    test('what nobody came back for in 14 days is swept, and nothing else', async () => {
      const names = {
        old: [`${'1'.repeat(64)}.host.1.part`, `${'2'.repeat(64)}.upload.json`, 'x.tmp'],
        kept: [`${'3'.repeat(64)}.host.1.part`, `${'4'.repeat(64)}.upload.json`],
        foreign: ['notes.txt'],
      }
      await mkdir(folder(), { recursive: true })
      const age = async (name: string, days: number): Promise<void> => {
        await writeFile(join(folder(), name), 'x')
        const then = Date.now() / 1000 - days * DAY
        await utimes(join(folder(), name), then, then)
      }
      for (const name of [...names.old, ...names.foreign]) await age(name, 14.1)
      for (const name of names.kept) await age(name, 13.9)
      await fetched(await storedObject(randomBytes(10)))
      const there = await readdir(folder())
      expect(there).toEqual(expect.arrayContaining([...names.kept, ...names.foreign]))
      for (const name of names.old) expect(there).not.toContain(name)
      for (const name of [...names.kept, ...names.foreign]) await rm(join(folder(), name))
    })

    test('an object that is cut short in the store is not handed over', async () => {
      const object = await storedObject(randomBytes(200_000))
      if (backend === 'file') {
        const at = here.world.path(
          ...['data', 'objects', 'org', 'repo', object.oid.slice(0, 2), object.oid.slice(2, 4), object.oid],
        )
        const agent = here.agent()
        await agent.init('download')
        const [asked] = await here.batch('download', [object])
        await truncate(at, 150_000)
        const answer = await agent.transfer('download', asked as BatchObject)
        expect(answer.error?.code).toBe(422)
        expect(answer.path).toBeUndefined()
      } else {
        const agent = here.agent()
        await agent.init('download')
        const [asked] = await here.batch('download', [object])
        here.proxy.fault = (request) =>
          isGet(request)
            ? {
                kind: 'answer',
                status: 200,
                headers: { 'content-length': '150000' },
                body: 'x'.repeat(150_000),
              }
            : undefined
        const answer = await agent.transfer('download', asked as BatchObject)
        expect(answer.error).toMatchObject({
          code: 422,
          message: expect.stringMatching(/150000 bytes, not 200000/),
        })
        expect(answer.path).toBeUndefined()
      }
      expect(await left(object.oid)).toEqual([])
    })
  })
})
