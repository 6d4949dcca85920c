import { existsSync } from 'node:fs'
import { readdir, readFile, rm, truncate, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest'
import type { BatchObject } from '../helpers/agent.ts'
import { type AgentWorld, agentWorld, sha256Of } from '../helpers/agent-world.ts'
import type { Fault, SeenRequest } from '../helpers/fault-proxy.ts'
import type { Backend } from '../helpers/world.ts'

const MIB = 2 ** 20

/** An answer as S3 gives it. */
const s3Answer = (status: number, code: string, headers: Record<string, string> = {}): Fault => ({
  kind: 'answer',
  status,
  headers: { 'content-type': 'application/xml', ...headers },
  body: `<?xml version="1.0"?><Error><Code>${code}</Code><Message>told so</Message><RequestId>tx-77</RequestId></Error>`,
})

/** The fault for the first `times` requests that match. */
function first(
  times: number,
  matches: (request: SeenRequest) => boolean,
  fault: Fault,
): (r: SeenRequest) => Fault | undefined {
  let left = times
  return (request) => (matches(request) && left-- > 0 ? fault : undefined)
}

const isGet = ({ method, url }: SeenRequest): boolean =>
  method === 'GET' && !url.includes('uploadId') && url.length > 90
const isPut = ({ method }: SeenRequest): boolean => method === 'PUT'
const isPart =
  (number: number) =>
  ({ method, url }: SeenRequest): boolean =>
    method === 'PUT' && new RegExp(`(partNumber|part)=${number}(&|$)`).test(url)

describe.each(['s3-sts', 's3-url', 'file'] as Backend[])('faults on %s', (backend) => {
  let here: AgentWorld
  beforeAll(async () => {
    here = await agentWorld(backend)
  })
  afterEach(() => {
    here.proxy.fault = () => undefined
  })
  afterAll(() => here.close())

  /** Uploads one object under the fault; gives the agent's answer. */
  async function upload(object: { oid: string; size: number; path: string }) {
    const agent = here.agent()
    await agent.init('upload')
    const [asked] = await here.batch('upload', [object])
    const answer = await agent.transfer('upload', asked as BatchObject, object.path)
    expect(await agent.terminate()).toBe(0)
    return { answer, agent }
  }

  async function download(object: { oid: string; size: number }, during?: () => void) {
    const agent = here.agent()
    await agent.init('download')
    const [asked] = await here.batch('download', [object])
    during?.()
    const answer = await agent.transfer('download', asked as BatchObject)
    expect(await agent.terminate()).toBe(0)
    return { answer, agent }
  }

  /** The bucket's view: is the object there, whole? */
  async function stored(object: { oid: string; size: number }): Promise<boolean> {
    here.proxy.fault = () => undefined
    const { answer } = await download(object)
    if (answer.path === undefined) return false
    expect(await sha256Of(answer.path)).toBe(object.oid)
    await rm(answer.path)
    return true
  }

  test.each([
    ['503 SlowDown', s3Answer(503, 'SlowDown')],
    ['429 with Retry-After', s3Answer(429, 'TooManyRequests', { 'retry-after': '1' })],
    ['500 InternalError', s3Answer(500, 'InternalError')],
    ['a reset connection', { kind: 'reset' } as Fault],
    ['a lost answer', { kind: 'lose-answer' } as Fault],
  ])('upload survives %s', async (_what, fault) => {
    const object = await here.addObject(100_000)
    here.proxy.fault = first(2, isPut, fault)
    const { answer } = await upload(object)
    expect(answer).toEqual({ event: 'complete', oid: object.oid })
    expect(await stored(object)).toBe(true)
  })

  test('a part that fails is sent again, the others are not', async () => {
    const object = await here.addObject(40 * MIB)
    here.proxy.fault = first(1, isPart(2), s3Answer(500, 'InternalError'))
    here.proxy.requests.length = 0
    const { answer } = await upload(object)
    expect(answer).toEqual({ event: 'complete', oid: object.oid })
    const parts = here.proxy.requests.filter(({ method }) => method === 'PUT')
    expect(parts).toHaveLength(6)
    expect(await stored(object)).toBe(true)
  })

  test('progress never falls and ends with the size, also when a part is sent again', async () => {
    const object = await here.addObject(40 * MIB)
    here.proxy.fault = first(2, isPart(1), { kind: 'lose-answer' })
    const { agent } = await upload(object)
    const lines = agent.answers.filter(({ event }) => event === 'progress')
    let before = 0
    for (const { bytesSoFar = 0, bytesSinceLast = 0 } of lines) {
      expect(bytesSoFar - before).toBe(bytesSinceLast)
      expect(bytesSinceLast).toBeGreaterThan(0)
      before = bytesSoFar
    }
    expect(before).toBe(object.size)
  })

  test.each([
    ['cut after half', { kind: 'cut', after: 1.5 * MIB } as Fault],
    ['503 SlowDown', s3Answer(503, 'SlowDown')],
    ['500 InternalError', s3Answer(500, 'InternalError')],
    ['a reset connection', { kind: 'reset' } as Fault],
  ])('download survives %s', async (_what, fault) => {
    const object = await here.addObject(3 * MIB)
    await here.upload(object)
    const { answer } = await download(object, () => {
      here.proxy.fault = first(2, isGet, fault)
    })
    expect(answer.error).toBeUndefined()
    expect(await sha256Of(answer.path as string)).toBe(object.oid)
  })

  test.each<[string, Fault]>([
    ['a cut connection', { kind: 'cut', after: 1.5 * MIB }],
    ['503 SlowDown', s3Answer(503, 'SlowDown')],
    ['500 InternalError', s3Answer(500, 'InternalError')],
    ['a reset connection', { kind: 'reset' }],
  ])('a download on several streams survives %s', async (_what, fault) => {
    const object = await here.addObject(32 * MIB)
    await here.upload(object)
    let gets = 0
    const { answer, agent } = await download(object, () => {
      // Slow enough, each, for a second stream to be worth it: that one and the next meet the fault.
      here.proxy.fault = (request) => {
        if (!isGet(request)) return undefined
        gets++
        return gets === 2 || gets === 3 ? fault : { kind: 'pace', rate: 15 * MIB }
      }
    })
    expect(answer.error).toBeUndefined()
    expect(await sha256Of(answer.path as string)).toBe(object.oid)
    expect(gets).toBeGreaterThan(1)
    const lines = agent.answers.filter(({ event }) => event === 'progress')
    let before = 0
    for (const { bytesSoFar = 0, bytesSinceLast = 0 } of lines) {
      expect(bytesSoFar - before).toBe(bytesSinceLast)
      expect(bytesSinceLast).toBeGreaterThan(0)
      before = bytesSoFar
    }
    expect(before).toBe(object.size)
  })

  test('a download goes on when what opens it runs out in the middle', async () => {
    const object = await here.addObject(12 * MIB)
    await here.upload(object)
    const expired = backend === 's3-sts' ? s3Answer(400, 'ExpiredToken') : s3Answer(403, 'AccessDenied')
    let gets = 0
    const { answer } = await download(object, () => {
      here.proxy.sent = 0
      here.proxy.fault = (request) => {
        if (!isGet(request)) return undefined
        gets++
        return gets < 3 ? { kind: 'cut', after: 4 * MIB } : gets === 3 ? expired : undefined
      }
    })
    expect(answer.error).toBeUndefined()
    expect(await sha256Of(answer.path as string)).toBe(object.oid)
    expect(gets).toBe(4)
    expect(here.proxy.sent).toBeLessThan(12.5 * MIB)
  })

  test('a download that was cut goes on where it stopped', async () => {
    const object = await here.addObject(8 * MIB)
    await here.upload(object)
    const { answer } = await download(object, () => {
      here.proxy.sent = 0
      here.proxy.fault = first(3, isGet, { kind: 'cut', after: 2 * MIB })
    })
    expect(await sha256Of(answer.path as string)).toBe(object.oid)
    expect(here.proxy.sent).toBeLessThan(8.2 * MIB)
  })

  test('a turned bit is noticed and fetched again', async () => {
    const object = await here.addObject(2 * MIB)
    await here.upload(object)
    const { answer } = await download(object, () => {
      here.proxy.fault = first(1, isGet, { kind: 'flip', at: 1_000_000 })
    })
    expect(await sha256Of(answer.path as string)).toBe(object.oid)
  })

  test('a bit that is turned again and again is reported with both hashes, and nothing stays', async () => {
    const object = await here.addObject(300_000)
    await here.upload(object)
    const { answer } = await download(object, () => {
      here.proxy.fault = (request) => (isGet(request) ? { kind: 'flip', at: 1000 } : undefined)
    })
    expect(answer.path).toBeUndefined()
    expect(answer.error?.code).toBe(422)
    expect(answer.error?.message).toMatch(new RegExp(`SHA-256 is [0-9a-f]{64}, not ${object.oid}`))
    expect(
      (await readdir(join(here.work, '.git/lfs/timone'))).filter((name) => name.startsWith(object.oid)),
    ).toEqual([])
  })

  test('a store that stays away ends in an error within the bound, for this object only', async () => {
    const [one, two] = [await here.addObject(1000), await here.addObject(1000)]
    const agent = here.agent()
    await agent.init('upload')
    const asked = await here.batch('upload', [one, two])
    here.proxy.fault = (request) => (isPut(request) ? s3Answer(503, 'SlowDown') : undefined)
    const failed = await agent.transfer('upload', asked[0] as BatchObject, one.path)
    expect(failed.error?.code).toBe(503)
    expect(failed.error?.message).toContain(one.oid)
    expect(failed.error?.message).toContain('127.0.0.1')
    here.proxy.fault = () => undefined
    expect(await agent.transfer('upload', asked[1] as BatchObject, two.path)).toEqual({
      event: 'complete',
      oid: two.oid,
    })
    expect(await agent.terminate()).toBe(0)
  })

  test('a refusal is not tried again', async () => {
    const object = await here.addObject(1000)
    here.proxy.fault = (request) => (isPut(request) ? s3Answer(403, 'AccessDenied') : undefined)
    here.proxy.requests.length = 0
    const { answer } = await upload(object)
    expect(answer.error?.code).toBe(403)
    expect(answer.error?.message).toMatch(/AccessDenied/)
    expect(here.proxy.requests.filter(isPut)).toHaveLength(1)
  })

  test('a file that differs from its oid is refused, small and large, and the right one works afterwards', async () => {
    for (const size of [50_000, 36 * MIB]) {
      const object = await here.addObject(size)
      const wrong = Buffer.from(object.content)
      wrong[size - 1] = (wrong[size - 1] as number) ^ 1
      await writeFile(object.path, wrong)
      const { answer } = await upload(object)
      expect(answer.error?.code).toBe(422)
      expect(answer.error?.message).toContain(object.oid)
      const [asked] = await here.batch('download', [object])
      expect(asked?.error?.code).toBe(404)
      await writeFile(object.path, object.content)
      expect((await upload(object)).answer).toEqual({ event: 'complete', oid: object.oid })
      expect(await stored(object)).toBe(true)
    }
  })

  test('a file that is shorter or longer than announced is refused', async () => {
    const object = await here.addObject(50_000)
    await truncate(object.path, 49_999)
    expect((await upload(object)).answer.error).toMatchObject({
      code: 422,
      message: expect.stringMatching(/49999 bytes, not 50000/),
    })
    await truncate(object.path, 50_001)
    expect((await upload(object)).answer.error).toMatchObject({ code: 422 })
  })

  test('a file that is missing is told', async () => {
    const object = await here.addObject(10)
    await rm(object.path)
    expect((await upload(object)).answer.error).toMatchObject({
      code: 404,
      message: expect.stringMatching(/ENOENT/),
    })
  })

  test('an object of no bytes goes both ways', async () => {
    const object = await here.addObject(0)
    expect((await upload(object)).answer).toEqual({ event: 'complete', oid: object.oid })
    expect(await stored(object)).toBe(true)
  })

  test('an object that is not there', async () => {
    const object = await here.addObject(10)
    const agent = here.agent()
    await agent.init('download')
    // Batch would not give an action for it: take one of an object that is there.
    const other = await here.addObject(11)
    await here.upload(other)
    const [asked] = await here.batch('download', [other])
    const answer = await agent.transfer('download', { ...(asked as BatchObject), oid: object.oid, size: 10 })
    expect(answer.error?.code).toBe(404)
    await agent.terminate()
  })

  test('two agents with the same object at once: both succeed', async () => {
    for (const size of [200_000, 36 * MIB]) {
      const object = await here.addObject(size)
      const agents = [here.agent(), here.agent()]
      const asked = await Promise.all(agents.map(() => here.batch('upload', [object])))
      await Promise.all(agents.map((agent) => agent.init('upload')))
      const answers = await Promise.all(
        agents.map((agent, index) => agent.transfer('upload', asked[index]?.[0] as BatchObject, object.path)),
      )
      for (const answer of answers) expect(answer).toEqual({ event: 'complete', oid: object.oid })
      for (const agent of agents) await agent.terminate()
      expect(await stored(object)).toBe(true)
    }
  })

  test.each([
    '../../etc/passwd',
    'A'.repeat(64),
    'a'.repeat(63),
    'a'.repeat(65),
    `..%2f${'a'.repeat(59)}`,
    '',
  ])('the oid %j is refused before disk or network is touched', async (oid) => {
    const agent = here.agent()
    await agent.init('download')
    here.proxy.requests.length = 0
    agent.say({ event: 'download', oid, size: 1, action: { href: `${here.proxy.url}/x`, header: {} } })
    const answer = await agent.answer(({ event }) => event === 'complete')
    expect(answer.oid).toBe(oid)
    expect(answer.error?.code).toBe(422)
    expect(here.proxy.requests).toHaveLength(0)
    await agent.terminate()
  })

  test.each([-1, 1.5, 2 ** 53, 6 * 2 ** 40, '7', null])('the size %j is refused', async (size) => {
    const agent = here.agent()
    await agent.init('upload')
    agent.say({
      event: 'upload',
      oid: 'a'.repeat(64),
      size,
      path: '/dev/null',
      action: { href: here.proxy.url },
    })
    expect((await agent.answer(({ event }) => event === 'complete')).error?.code).toBe(422)
    await agent.terminate()
  })

  test('a damaged object in the bucket is reported on download and healed by the next push', async () => {
    if (backend !== 'file') return expect(await healOnS3()).toBe(true)
    const object = await here.addObject(60_000)
    await here.upload(object)
    const at = join(
      here.world.path('data', 'objects', 'org', 'repo'),
      object.oid.slice(0, 2),
      object.oid.slice(2, 4),
      object.oid,
    )
    expect(existsSync(at)).toBe(true)
    await truncate(at, 30_000)
    const agent = here.agent()
    await agent.init('upload')
    const [asked] = await here.batch('upload', [object])
    expect(asked?.actions?.upload).toBeDefined()
    expect((await agent.transfer('upload', asked as BatchObject, object.path)).error).toBeUndefined()
    expect((await readFile(at)).equals(object.content)).toBe(true)
  })

  async function healOnS3(): Promise<boolean> {
    const { ListObjectsV2Command, PutObjectCommand, S3Client } = await import('@aws-sdk/client-s3')
    const { testS3 } = await import('../helpers/s3.ts')
    const { url, region, credentials, bucket } = testS3()
    const client = new S3Client({ endpoint: url, region, credentials, forcePathStyle: true })
    const object = await here.addObject(60_000)
    // Write a truncated object where this server keeps it; another upload shows where that is.
    const witness = await here.addObject(61)
    await here.upload(witness)
    let key: string | undefined
    let token: string | undefined
    do {
      const page = await client.send(
        new ListObjectsV2Command({
          Bucket: bucket,
          ...(token === undefined ? {} : { ContinuationToken: token }),
        }),
      )
      key ??= page.Contents?.find((entry) => entry.Key?.endsWith(witness.oid))?.Key
      token = page.NextContinuationToken
    } while (key === undefined && token !== undefined)
    const damaged = (key as string).slice(0, -witness.oid.length - 6)
    const Key = `${damaged}${object.oid.slice(0, 2)}/${object.oid.slice(2, 4)}/${object.oid}`
    await client.send(new PutObjectCommand({ Bucket: bucket, Key, Body: object.content.subarray(0, 30_000) }))
    const [missing] = await here.batch('download', [object])
    expect(missing?.error?.code).toBe(422)
    expect((await upload(object)).answer.error).toBeUndefined()
    client.destroy()
    return stored(object)
  }
})

describe('credentials', () => {
  test('that expire in the middle are renewed once, and only the refused part is sent again', async () => {
    const here = await agentWorld('s3-sts')
    try {
      const object = await here.addObject(60 * MIB)
      const agent = here.agent()
      await agent.init('upload')
      const [asked] = await here.batch('upload', [object])
      here.proxy.fault = first(1, isPart(3), s3Answer(400, 'ExpiredToken'))
      here.proxy.requests.length = 0
      const answer = await agent.transfer('upload', asked as BatchObject, object.path)
      expect(answer).toEqual({ event: 'complete', oid: object.oid })
      expect(here.proxy.requests.filter(isPut)).toHaveLength(9)
      await agent.terminate()
      expect(agent.stderr.split('got storage credentials').length - 1).toBe(2)
    } finally {
      await here.close()
    }
  })

  test('that the store never takes end in one clear error', async () => {
    const here = await agentWorld('s3-sts')
    try {
      const object = await here.addObject(1000)
      const agent = here.agent()
      await agent.init('upload')
      const [asked] = await here.batch('upload', [object])
      here.proxy.fault = (request) => (isPut(request) ? s3Answer(403, 'ExpiredToken') : undefined)
      const answer = await agent.transfer('upload', asked as BatchObject, object.path)
      expect(answer.error).toMatchObject({ code: 401, message: expect.stringMatching(/expired/) })
      expect(here.proxy.requests.filter(isPut)).toHaveLength(2)
    } finally {
      await here.close()
    }
  })

  test('an action whose token is no longer good says to sign in, once, and leaks nothing', async () => {
    const here = await agentWorld('file')
    try {
      const object = await here.addObject(1000)
      const agent = here.agent()
      await agent.init('upload')
      const [asked] = await here.batch('upload', [object])
      const broken = structuredClone(asked) as BatchObject
      const header = (broken.actions?.upload?.header ?? {}) as Record<string, string>
      const secret = header.Authorization as string
      header.Authorization = `${secret.slice(0, -4)}AAAA`
      here.proxy.requests.length = 0
      const answer = await agent.transfer('upload', broken, object.path)
      expect(answer.error).toMatchObject({ code: 401, message: expect.stringMatching(/sign in again/) })
      expect(here.proxy.requests).toHaveLength(1)
      expect(agent.stderr + JSON.stringify(answer)).not.toContain(secret.slice(10, 60))
    } finally {
      await here.close()
    }
  })
})
