import { createHash, randomBytes } from 'node:crypto'
import { truncateSync } from 'node:fs'
import { mkdtemp, readdir, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import {
  GetObjectCommand,
  HeadObjectCommand,
  ListMultipartUploadsCommand,
  ListPartsCommand,
  S3Client,
} from '@aws-sdk/client-s3'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test, vi } from 'vitest'
import type { HeldCredentials } from '../../src/access/client.ts'
import type { S3Credentials } from '../../src/access/credentials.ts'
import { HttpClient } from '../../src/access/http-client.ts'
import { MAX_PARTS, partSizeFor, planParts } from '../../src/access/part-plan.ts'
import { Retrier } from '../../src/access/retry.ts'
import { Throttle } from '../../src/access/throttle.ts'
import type { ObjectAccess } from '../../src/agent/object-access.ts'
import { PartBuffers } from '../../src/agent/part-buffers.ts'
import { PartLanes } from '../../src/agent/part-lanes.ts'
import { Progress } from '../../src/agent/progress.ts'
import { ResumeStore } from '../../src/agent/resume-store.ts'
import { S3Access } from '../../src/agent/s3-access.ts'
import { type UploadContext, uploadObject } from '../../src/agent/upload.ts'
import { TimoneError } from '../../src/errors.ts'
import { nullLogger } from '../../src/log.ts'
import { type Oid, parseOid } from '../../src/oid.ts'
import { objectKey } from '../../src/storage/object-key.ts'
import { type Fault, type FaultProxy, faultProxy, type SeenRequest } from '../helpers/fault-proxy.ts'
import { testS3 } from '../helpers/s3.ts'

const MIB = 2 ** 20
const PART = 5 * MIB

const isPart = ({ method, url }: SeenRequest): boolean => method === 'PUT' && url.includes('partNumber=')
const isPut = ({ method }: SeenRequest): boolean => method === 'PUT'
const isPartNumber =
  (number: number) =>
  (request: SeenRequest): boolean =>
    isPart(request) && new RegExp(`partNumber=${number}(&|$)`).test(request.url)

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

describe('uploadObject on a real store', () => {
  const { url, region, bucket, credentials } = testS3()
  let proxy: FaultProxy
  let s3: S3Client
  let http: HttpClient
  let throttle: Throttle
  let folder: string
  let prefix: string
  let given: (HeldCredentials | undefined)[]
  let buffers: PartBuffers
  let access: ObjectAccess

  beforeAll(async () => {
    proxy = await faultProxy(url)
    s3 = new S3Client({ endpoint: url, region, credentials, forcePathStyle: true })
  })
  afterAll(async () => {
    s3.destroy()
    await proxy.close()
  })
  beforeEach(async () => {
    folder = await mkdtemp(join(tmpdir(), 'timone-upload-'))
    prefix = `${testS3().prefix}org/repo/`
    given = []
    buffers = new PartBuffers(40 * MIB)
    throttle = new Throttle()
    connect()
  })
  afterEach(async () => {
    proxy.fault = () => undefined
    await http.close()
    await rm(folder, { recursive: true })
  })

  function connect(timeouts: ConstructorParameters<typeof HttpClient>[1] = {}): void {
    http = new HttpClient(async () => ({}), timeouts)
    const answer: S3Credentials = {
      driver: 's3',
      endpoint: proxy.url,
      region,
      bucket,
      prefix,
      force_path_style: true,
      access_key_id: credentials.accessKeyId,
      secret_access_key: credentials.secretAccessKey,
      session_token: '',
      expires_at: '',
      renew: { href: '', token: '', expires_at: '' },
    }
    access = new S3Access({
      send: throttle.around(http.send),
      retrier: new Retrier({ retries: 4, maxDelay: 0.2 }),
      credentials: async (stale) => {
        given.push(stale)
        return { answer: { ...answer }, expiresAt: Date.now() + 3_600_000, clockOffset: 0 }
      },
      endpoint: proxy.url,
      isPresent: async () => false,
      log: nullLogger,
    })
  }

  interface Sample {
    oid: Oid
    size: number
    path: string
    content: Buffer
  }
  async function sample(size: number): Promise<Sample> {
    const content = randomBytes(size)
    const oid = parseOid(createHash('sha256').update(content).digest('hex'))
    const path = join(folder, oid)
    await writeFile(path, content)
    return { oid, size, path, content }
  }
  const storage = (): ResumeStore => new ResumeStore(join(folder, 'lfs'))
  const context = (more: Partial<UploadContext> = {}): UploadContext => ({
    access,
    resume: storage(),
    target: 'here',
    partSize: PART,
    buffers,
    lanes: new PartLanes(4),
    replace: false,
    log: nullLogger,
    ...more,
  })
  const upload = (
    object: Sample,
    more: Partial<UploadContext> = {},
    signal: AbortSignal = new AbortController().signal,
  ): Promise<boolean> =>
    uploadObject(
      object.oid,
      object.size,
      object.path,
      context(more),
      new Progress(object.size, () => true),
      signal,
    )
  const at = (oid: Oid) => ({ Bucket: bucket, Key: objectKey(prefix, oid) })
  async function expectWhole(object: Sample): Promise<void> {
    const { Body } = await s3.send(new GetObjectCommand(at(object.oid)))
    const bytes = Buffer.from((await Body?.transformToByteArray()) ?? [])
    expect(bytes.equals(object.content)).toBe(true)
    expect(buffers.used).toBe(0)
    expect(await left()).toEqual([])
  }
  async function expectAbsent({ oid }: Sample): Promise<void> {
    await expect(s3.send(new HeadObjectCommand(at(oid)))).rejects.toMatchObject({ name: 'NotFound' })
    expect(buffers.used).toBe(0)
  }
  const left = async (): Promise<string[]> => readdir(join(folder, 'lfs', 'timone')).catch(() => [])
  /** Bytes of the parts of each unfinished upload of this test. */
  async function unfinished(): Promise<number[][]> {
    const found = await s3.send(new ListMultipartUploadsCommand({ Bucket: bucket, Prefix: prefix }))
    return Promise.all(
      (found.Uploads ?? []).map(async ({ Key, UploadId }) => {
        const { Parts = [] } = await s3.send(new ListPartsCommand({ Bucket: bucket, Key, UploadId }))
        return Parts.map(({ Size = 0 }) => Size)
      }),
    )
  }

  test.each([0, 1, 100_000, PART, PART + 1, 3 * PART, 4 * PART - 1])('%i bytes arrive', async (size) => {
    const object = await sample(size)
    await upload(object)
    await expectWhole(object)
  })

  test('many objects of all sizes at once stay within one budget', async () => {
    const objects = await Promise.all(
      [12 * MIB, 11 * MIB, 10 * MIB, ...Array.from({ length: 30 }, (_, i) => 1 + i * 100_003)].map(sample),
    )
    buffers = new PartBuffers(20 * MIB)
    const lanes = new PartLanes(4)
    let most = 0
    const timer = setInterval(() => {
      most = Math.max(most, buffers.used)
    }, 1)
    await Promise.all(objects.map((object) => upload(object, { lanes, buffers })))
    clearInterval(timer)
    expect(most).toBeGreaterThan(0)
    expect(most).toBeLessThanOrEqual(20 * MIB)
    for (const object of objects) await expectWhole(object)
  })

  test('a part that is larger than the budget allows is streamed', async () => {
    const object = await sample(3 * PART)
    buffers = new PartBuffers(16 * MIB)
    await upload(object, { buffers })
    await expectWhole(object)
  })

  test('a file that becomes shorter while it is sent: an error that says so, and nothing left', async () => {
    const object = await sample(6 * PART)
    proxy.fault = (request) => {
      if (isPartNumber(1)(request)) truncateSync(object.path, 3 * PART)
      return undefined
    }
    await expect(upload(object, { lanes: new PartLanes(1) })).rejects.toMatchObject({ code: 'size_mismatch' })
    await expectAbsent(object)
    expect(await unfinished()).toEqual([])
    expect(await left()).toEqual([])
  })

  test('a file that is changed while it is sent never becomes visible', async () => {
    const object = await sample(4 * PART)
    proxy.fault = first(1, isPartNumber(1), { kind: 'wait', until: () => true })
    await writeFile(object.path, Buffer.concat([object.content.subarray(0, -1), Buffer.from('?')]))
    await expect(upload(object)).rejects.toMatchObject({ code: 'hash_mismatch' })
    await expectAbsent(object)
    expect(await unfinished()).toEqual([])
  })

  test('500, a reset and a lost answer in the middle: tried again', async () => {
    const object = await sample(4 * PART)
    const faults = [
      first(1, isPartNumber(1), s3Answer(500, 'InternalError')),
      first(1, isPartNumber(2), { kind: 'reset' }),
      first(1, isPartNumber(3), { kind: 'lose-answer' }),
    ]
    proxy.fault = (request) => faults.map((fault) => fault(request)).find((fault) => fault !== undefined)
    await upload(object)
    await expectWhole(object)
  })

  test('403 in the middle: an error, the parts stay, and the next run sends the rest only', async () => {
    const object = await sample(4 * PART)
    proxy.fault = (request) => (isPartNumber(4)(request) ? s3Answer(403, 'AccessDenied') : undefined)
    await expect(upload(object, { lanes: new PartLanes(1) })).rejects.toMatchObject({ code: 'denied' })
    expect(await unfinished()).toEqual([[PART, PART, PART]])
    expect(await left()).toHaveLength(1)
    proxy.fault = () => undefined
    const before = proxy.received
    await upload(object)
    expect(proxy.received - before).toBeLessThan(PART + 64 * 1024)
    await expectWhole(object)
  })

  test('credentials that expire in the middle of an object are renewed, once for each part at most', async () => {
    const object = await sample(4 * PART)
    const faults = [2, 3].map((number) => first(1, isPartNumber(number), s3Answer(400, 'ExpiredToken')))
    proxy.fault = (request) => faults.map((fault) => fault(request)).find((fault) => fault !== undefined)
    await upload(object)
    expect(given.filter((stale) => stale !== undefined)).toHaveLength(2)
    await expectWhole(object)
  })

  test('a connection that swallows bytes and says nothing is replaced, and only its part is sent again', async () => {
    await http.close()
    connect({ idle: 700 })
    const object = await sample(4 * PART)
    // Part 2 stands still in its middle; the kernel takes all of part 3, and nobody answers.
    const faults = [
      first(1, isPartNumber(2), { kind: 'swallow', after: 100_000 }),
      first(1, isPartNumber(3), { kind: 'swallow', after: PART }),
    ]
    proxy.fault = (request) => faults.map((fault) => fault(request)).find((fault) => fault !== undefined)
    proxy.requests.length = 0
    await upload(object)
    for (const [number, times] of [
      [2, 2],
      [3, 2],
    ] as const) {
      expect(proxy.requests.filter(isPartNumber(number)).length).toBeGreaterThanOrEqual(times)
    }
    await expectWhole(object)
  })

  test('a storm of 503 halves the requests in flight, and none is lost', async () => {
    const objects = await Promise.all(Array.from({ length: 60 }, (_, i) => sample(10_000 + i)))
    throttle = new Throttle(16)
    await http.close()
    connect()
    let most = 0
    let stormy = 16
    proxy.fault = (request) => {
      most = Math.max(most, proxy.inFlight)
      return isPut(request) && stormy-- > 0 ? s3Answer(503, 'SlowDown') : undefined
    }
    await Promise.all(objects.map((object) => upload(object)))
    expect(most).toBeLessThanOrEqual(16)
    const { host } = new URL(proxy.url)
    // Halved once or twice by 16 refusals, restored by one for each 8 of the 60 that arrived.
    expect(throttle.limitOf(host)).toBeGreaterThanOrEqual(8)
    for (const object of objects) await expectWhole(object)

    // While the storm lasts, the number in flight is seen to fall at the store itself.
    const more = await Promise.all(Array.from({ length: 12 }, () => sample(5000)))
    const inFlight: number[] = []
    let refusals = 200
    proxy.fault = (request) => {
      if (!isPut(request) || refusals-- <= 0) return undefined
      inFlight.push(proxy.inFlight)
      return s3Answer(503, 'SlowDown')
    }
    const outcomes = await Promise.allSettled(more.map((object) => upload(object)))
    expect(outcomes.every(({ status }) => status === 'rejected')).toBe(true)
    expect(throttle.limitOf(host)).toBe(1)
    expect(Math.max(...inFlight.slice(-5))).toBeLessThanOrEqual(2)
  })

  describe('an upload that is stopped', () => {
    async function stopped(
      leaveNothing: UploadContext['leaveNothing'],
      when: (request: SeenRequest) => boolean,
    ) {
      const object = await sample(4 * PART)
      const stop = new AbortController()
      proxy.fault = (request) => {
        if (when(request)) stop.abort(new TimoneError('cancelled', 'not wanted'))
        return undefined
      }
      const work = upload(object, { lanes: new PartLanes(1), leaveNothing }, stop.signal)
      await expect(work).rejects.toMatchObject({ code: 'cancelled' })
      await expectAbsent(object)
      proxy.fault = () => undefined
      return object
    }

    test('stays for the next run', async () => {
      const object = await stopped(undefined, isPartNumber(3))
      expect((await unfinished())[0]?.slice(0, 2)).toEqual([PART, PART])
      expect(await left()).toHaveLength(1)
      await upload(object)
      await expectWhole(object)
    })

    test.each([
      ['while a part goes up', isPartNumber(3)],
      ['while it is being opened', ({ url }: SeenRequest) => url.endsWith('?uploads=')],
    ])('%s leaves no trace when nobody asked for it', async (_when, when) => {
      await stopped(() => true, when)
      await vi.waitFor(async () => expect(await unfinished()).toEqual([]), { timeout: 10_000 })
      expect(await left()).toEqual([])
    })

    test('stays when it was asked for meanwhile', async () => {
      let asked = false
      await stopped(
        () => !asked,
        (request) => {
          asked = true
          return isPartNumber(3)(request)
        },
      )
      expect(await unfinished()).toHaveLength(1)
      expect(await left()).toHaveLength(1)
    })
  })

  test('a state that names another object’s upload is not trusted', async () => {
    const [mine, other] = [await sample(2 * PART), await sample(2 * PART)]
    proxy.fault = (request) => (isPartNumber(2)(request) ? s3Answer(403, 'AccessDenied') : undefined)
    await expect(upload(other, { lanes: new PartLanes(1) })).rejects.toMatchObject({ code: 'denied' })
    proxy.fault = () => undefined
    const [remembered] = await storage().listUploads()
    expect(remembered?.oid).toBe(other.oid)
    const { mtimeMs } = await import('node:fs/promises').then(({ stat }) => stat(mine.path))
    await storage().writeUpload(mine.oid, { ...(remembered?.state as never as object), mtimeMs } as never)
    await upload(mine)
    const { Body } = await s3.send(new GetObjectCommand(at(mine.oid)))
    expect(Buffer.from((await Body?.transformToByteArray()) ?? []).equals(mine.content)).toBe(true)
  })
})

describe('the plan of an enormous object', () => {
  test('20 GiB and 5 TiB: offsets beyond 32 bits, every byte once, within S3’s limits', () => {
    for (const size of [20 * 2 ** 30, 20 * 2 ** 30 + 1, 5 * 2 ** 40]) {
      const parts = planParts(size, partSizeFor(size))
      expect(parts.length).toBeLessThanOrEqual(MAX_PARTS)
      let offset = 0
      for (const [index, part] of parts.entries()) {
        expect(part.number).toBe(index + 1)
        expect(part.offset).toBe(offset)
        offset += part.size
      }
      expect(offset).toBe(size)
    }
    expect(planParts(20 * 2 ** 30, partSizeFor(20 * 2 ** 30))).toHaveLength(2560)
  })
})
