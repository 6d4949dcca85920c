import { buffer } from 'node:stream/consumers'
import {
  AbortMultipartUploadCommand,
  CompleteMultipartUploadCommand,
  CreateMultipartUploadCommand,
  DeleteObjectCommand,
  GetObjectCommand,
  HeadObjectCommand,
  ListObjectsV2Command,
  ListPartsCommand,
  PutObjectCommand,
  S3Client,
  UploadPartCommand,
} from '@aws-sdk/client-s3'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import type { S3Credentials, UploadTransfer } from '../../src/access/credentials.ts'
import { keyOf } from '../../src/access/object-location.ts'
import { createAssumeRole, createStsClient } from '../../src/access/sts.ts'
import type { Oid } from '../../src/oid.ts'
import type { S3Store } from '../../src/storage/s3-store.ts'
import { testS3 } from '../helpers/s3.ts'
import { batchFaults } from '../lfs/batch-schema.ts'
import { post, type Running, type Sample, sample, startOnS3 } from './harness.ts'

type OnS3 = Running & { store: S3Store; prefix: string }
const MIB = 2 ** 20
const repository = { org: 'foo', repo: 'bar' }
let sts: OnS3
let plain: OnS3
let owner: S3Client

beforeAll(async () => {
  sts = await startOnS3('sts')
  plain = await startOnS3('url')
  const { url, region, credentials } = testS3()
  owner = new S3Client({ endpoint: url, region, credentials, forcePathStyle: true })
})
afterAll(async () => {
  owner.destroy()
  await sts.stop()
  await plain.stop()
})

const key = (on: OnS3, object: Sample, name = repository) =>
  keyOf(on.prefix, { repository: name, oid: object.oid as Oid })

async function own(on: OnS3, object: Sample, bytes = object.bytes): Promise<void> {
  const { bucket } = on.store.location
  await owner.send(new PutObjectCommand({ Bucket: bucket, Key: key(on, object), Body: bytes }))
}

async function batch(on: OnS3, operation: 'upload' | 'download', transfer: string, ...objects: Sample[]) {
  const body = { operation, transfers: [transfer], objects: objects.map(({ oid, size }) => ({ oid, size })) }
  const { status, json } = await post(
    `${on.url}/foo/bar/info/lfs/objects/batch`,
    body,
    await on.as('ada', 'lfs:foo/bar:rw'),
  )
  expect(status).toBe(200)
  expect(batchFaults(json)).toEqual([])
  return json
}

const put = (action: { href: string; header?: Record<string, string> }, bytes: Buffer) =>
  fetch(action.href, { method: 'PUT', headers: action.header ?? {}, body: new Uint8Array(bytes) })

describe('credentials by STS', () => {
  const clients: S3Client[] = []
  afterAll(() => {
    for (const client of clients) client.destroy()
  })

  /** What the agent does: the action of a Batch answer, exchanged for credentials. */
  async function credentials(operation: 'upload' | 'download'): Promise<S3Credentials> {
    const object = sample(20)
    if (operation === 'download') await own(sts, object)
    const { objects } = await batch(sts, operation, 'timone', object)
    const { href, header } = objects[0].actions[operation]
    const answer = await post(href, { operation }, header.Authorization)
    expect(answer.status).toBe(200)
    expect(answer.headers.get('cache-control')).toBe('no-store')
    return answer.json
  }

  function clientOf(given: S3Credentials): S3Client {
    const client = new S3Client({
      endpoint: given.endpoint,
      region: given.region,
      forcePathStyle: given.force_path_style,
      credentials: {
        accessKeyId: given.access_key_id,
        secretAccessKey: given.secret_access_key,
        sessionToken: given.session_token,
      },
    })
    clients.push(client)
    return client
  }

  const denied = expect.objectContaining({ $metadata: expect.objectContaining({ httpStatusCode: 403 }) })

  test('upload: puts and multipart inside the prefix; the store refuses everything else', async () => {
    const given = await credentials('upload')
    expect(given).toMatchObject({ driver: 's3', prefix: `${sts.prefix}foo/bar/`, force_path_style: true })
    expect(Date.parse(given.expires_at)).toBeGreaterThan(Date.now() + 15 * 60_000)
    const client = clientOf(given)
    const at = (object: Sample, name = repository) => ({ Bucket: given.bucket, Key: key(sts, object, name) })
    const object = sample(1000)
    await client.send(new PutObjectCommand({ ...at(object), Body: object.bytes }))
    expect(await sts.store.head(key(sts, object))).toMatchObject({ size: 1000 })

    const large = sample(5 * MIB)
    const { UploadId } = await client.send(new CreateMultipartUploadCommand(at(large)))
    const part = { ...at(large), UploadId, PartNumber: 1, Body: large.bytes }
    const { ETag } = await client.send(new UploadPartCommand(part))
    const listed = await client.send(new ListPartsCommand({ ...at(large), UploadId }))
    expect(listed.Parts?.length).toBe(1)
    const MultipartUpload = { Parts: [{ PartNumber: 1, ETag }] }
    await client.send(new CompleteMultipartUploadCommand({ ...at(large), UploadId, MultipartUpload }))
    expect(await sts.store.head(key(sts, large))).toMatchObject({ size: 5 * MIB })
    const dropped = await client.send(new CreateMultipartUploadCommand(at(sample(20))))
    await client.send(
      new AbortMultipartUploadCommand({ Bucket: given.bucket, Key: dropped.Key, UploadId: dropped.UploadId }),
    )

    const body = { Body: object.bytes }
    const foreign = [
      { org: 'foo', repo: 'bar2' },
      { org: 'foo', repo: 'ba' },
      { org: 'other', repo: 'bar' },
    ]
    for (const name of foreign) {
      await expect(client.send(new PutObjectCommand({ ...at(object, name), ...body }))).rejects.toEqual(
        denied,
      )
      await expect(client.send(new CreateMultipartUploadCommand(at(object, name)))).rejects.toEqual(denied)
    }
    await expect(
      client.send(new PutObjectCommand({ Bucket: given.bucket, Key: 'x', ...body })),
    ).rejects.toEqual(denied)
    await expect(client.send(new GetObjectCommand(at(object)))).rejects.toEqual(denied)
    await expect(client.send(new HeadObjectCommand(at(object)))).rejects.toEqual(denied)
    await expect(client.send(new DeleteObjectCommand(at(object)))).rejects.toEqual(denied)
    const list = new ListObjectsV2Command({ Bucket: given.bucket, Prefix: given.prefix })
    await expect(client.send(list)).rejects.toEqual(denied)
  })

  test('download: gets inside the prefix; the store refuses everything else', async () => {
    const given = await credentials('download')
    const client = clientOf(given)
    const object = sample(1000)
    await own(sts, object)
    const at = { Bucket: given.bucket, Key: key(sts, object) }
    const got = await client.send(new GetObjectCommand(at))
    expect(Buffer.from((await got.Body?.transformToByteArray()) ?? []).equals(object.bytes)).toBe(true)
    await expect(client.send(new PutObjectCommand({ ...at, Body: 'x' }))).rejects.toEqual(denied)
    await expect(client.send(new CreateMultipartUploadCommand(at))).rejects.toEqual(denied)
    await expect(client.send(new DeleteObjectCommand(at))).rejects.toEqual(denied)
    const other = { org: 'foo', repo: 'other' }
    const foreign = { Bucket: given.bucket, Key: key(sts, object, other) }
    await owner.send(new PutObjectCommand({ ...foreign, Body: 'secret' }))
    await expect(client.send(new GetObjectCommand(foreign))).rejects.toEqual(denied)
    const list = new ListObjectsV2Command({ Bucket: given.bucket, Prefix: given.prefix })
    await expect(client.send(list)).rejects.toEqual(denied)
  })

  test('forged ones are refused', async () => {
    const given = await credentials('download')
    const object = sample(10)
    await own(sts, object)
    const get = () => new GetObjectCommand({ Bucket: given.bucket, Key: key(sts, object) })
    const forgeries: Partial<S3Credentials>[] = [
      { secret_access_key: `${given.secret_access_key.slice(0, -1)}_` },
      // Another character than the one that is there.
      { session_token: `${given.session_token.startsWith('A') ? 'B' : 'A'}${given.session_token.slice(1)}` },
      { access_key_id: 'AKIAFORGED' },
    ]
    for (const change of forgeries) {
      const refusal = clientOf({ ...given, ...change }).send(get())
      await expect(refusal, Object.keys(change).join()).rejects.toMatchObject({
        $metadata: { httpStatusCode: expect.toSatisfy((status: number) => status === 403 || status === 400) },
      })
    }
  })

  test('one session while many ask, another for the other direction', async () => {
    const answers = await Promise.all([1, 2, 3, 4].map(() => credentials('upload')))
    expect(new Set(answers.map(({ access_key_id }) => access_key_id)).size).toBe(1)
    const renewed = await post(
      answers[0]?.renew.href ?? '',
      { operation: 'upload' },
      `Bearer ${answers[0]?.renew.token}`,
    )
    expect(renewed.json.access_key_id).toBe(answers[0]?.access_key_id)
    expect((await credentials('download')).access_key_id).not.toBe(answers[0]?.access_key_id)
  })

  test('a role that does not exist, and an STS that is not there', async () => {
    const { url, region, credentials: keys } = testS3()
    const request = { policy: '{}', duration: 900, sessionName: 'ada' }
    const wrong = createAssumeRole(
      'arn:aws:iam:::role/nobody',
      createStsClient({ region, url, credentials: keys }),
    )
    await expect(wrong(request)).rejects.toMatchObject({ code: expect.stringMatching(/^(config|denied)$/) })
    const away = createStsClient({ region, url: 'http://127.0.0.1:1', credentials: keys })
    const failed = createAssumeRole('arn:aws:iam:::role/x', away)(request)
    await expect(failed).rejects.toMatchObject({ retryable: true })
  })
})

describe('basic, on signed URLs', () => {
  test('the bytes of the oid go up, are verified, and come back', async () => {
    for (const size of [0, 1, 100_000]) {
      const object = sample(size)
      const { transfer, objects } = await batch(plain, 'upload', 'basic', object)
      expect(transfer).toBe('basic')
      const { upload, verify } = objects[0].actions
      const before = await post(verify.href, { oid: object.oid, size }, verify.header.Authorization)
      expect(before.status).toBe(404)
      expect((await put(upload, object.bytes)).status).toBe(200)
      const after = await post(verify.href, { oid: object.oid, size }, verify.header.Authorization)
      expect(after.status).toBe(200)
      const down = (await batch(plain, 'download', 'basic', object)).objects[0].actions.download
      const answer = await fetch(down.href, { headers: down.header ?? {} })
      expect(Buffer.from(await answer.arrayBuffer()).equals(object.bytes)).toBe(true)
      expect((await batch(plain, 'upload', 'basic', object)).objects[0].actions).toBeUndefined()
    }
  })

  test('with the content type that git-lfs finds by itself', async () => {
    const object = sample(100)
    const { upload } = (await batch(plain, 'upload', 'basic', object)).objects[0].actions
    const header = { ...upload.header, 'Content-Type': 'text/plain; charset=utf-8' }
    expect((await put({ href: upload.href, header }, object.bytes)).status).toBe(200)
  })

  test('the store refuses other bytes, another key, another method, and a link without its header', async () => {
    const object = sample(1000)
    const { upload } = (await batch(plain, 'upload', 'basic', object)).objects[0].actions
    expect((await put(upload, sample(1000).bytes)).status).toBe(400)
    expect((await put({ href: upload.href }, object.bytes)).status).toBe(403)
    const other = sample(1000)
    const header = { ...upload.header, 'x-amz-content-sha256': other.oid }
    expect((await put({ href: upload.href, header }, other.bytes)).status).toBe(403)
    const href = upload.href.replaceAll(object.oid, other.oid)
    expect((await put({ href, header: upload.header }, object.bytes)).status).toBe(403)
    expect((await fetch(upload.href)).status).toBe(403)
    expect(await plain.store.head(key(plain, object))).toBeUndefined()
    expect(await plain.store.head(key(plain, other))).toBeUndefined()
  })

  test('a truncated object is asked for again and healed', async () => {
    const object = sample(1000)
    await own(plain, object, object.bytes.subarray(0, 999))
    expect((await batch(plain, 'download', 'basic', object)).objects[0].error.code).toBe(422)
    const { upload } = (await batch(plain, 'upload', 'basic', object)).objects[0].actions
    expect((await put(upload, object.bytes)).status).toBe(200)
    expect(await plain.store.head(key(plain, object))).toMatchObject({ size: 1000 })
  })

  test('over 5 GiB: install timone', async () => {
    const huge = { ...sample(20), size: 5 * 2 ** 30 + 1 }
    const basic = await batch(plain, 'upload', 'basic', huge)
    expect(basic.objects[0].error).toMatchObject({
      code: 422,
      message: expect.stringContaining('timone install'),
    })
    expect((await batch(plain, 'upload', 'timone', huge)).objects[0].actions.upload).toBeDefined()
  })
})

describe('transfers, on signed URLs', () => {
  async function ask(object: Sample, more: object, operation: 'upload' | 'download' = 'upload') {
    const { oid, size } = object
    const body = { operation, oid, size, ...more }
    return post(`${plain.url}/foo/bar/info/lfs/transfers`, body, await plain.as('ada', 'lfs:foo/bar:rw'))
  }
  const complete = ({ complete: { href, header } }: UploadTransfer) =>
    fetch(href, { method: 'POST', headers: header })
  async function send(object: Sample, plan: UploadTransfer, only?: number): Promise<void> {
    for (const part of plan.parts.filter(({ number }) => only === undefined || only === number)) {
      const answer = await put(part, object.bytes.subarray(part.offset, part.offset + part.size))
      expect(answer.status).toBe(200)
    }
  }

  test('one request, pinned to the oid', async () => {
    const object = sample(1000)
    const { json } = await ask(object, {})
    expect(json).toMatchObject({ upload_id: 'single', parts: [{ number: 1, size: 1000 }] })
    expect((await put(json.parts[0], sample(1000).bytes)).status).toBe(400)
    expect((await complete(json)).status).toBe(404)
    await send(object, json)
    expect((await complete(json)).status).toBe(200)
    const down = await ask(object, {}, 'download')
    const answer = await fetch(down.json.href, { headers: { ...down.json.header, range: 'bytes=10-' } })
    expect(answer.status).toBe(206)
    expect(Buffer.from(await answer.arrayBuffer()).equals(object.bytes.subarray(10))).toBe(true)
  })

  test('parts, interrupted and resumed', async () => {
    const object = sample(11 * MIB)
    const first = await ask(object, { part_size: 5 * MIB })
    expect(first.json.parts.map(({ size }: Sample) => size)).toEqual([5 * MIB, 5 * MIB, MIB])
    await send(object, first.json, 2)
    const { upload_id } = first.json
    const resumed = await ask(object, { upload_id })
    expect(resumed.json).toMatchObject({ upload_id, part_size: 5 * MIB })
    expect(resumed.json.parts.map(({ number }: { number: number }) => number)).toEqual([1, 3])
    expect((await complete(resumed.json)).status).toBe(422)
    expect(await plain.store.head(key(plain, object))).toBeUndefined()
    await send(object, resumed.json)
    expect((await complete(resumed.json)).status).toBe(200)
    expect((await complete(first.json)).status).toBe(200)
    const down = await ask(object, {}, 'download')
    const answer = await fetch(down.json.href)
    expect(Buffer.from(await answer.arrayBuffer()).equals(object.bytes)).toBe(true)
    const again = await ask(object, { upload_id })
    expect(again.json).toMatchObject({ upload_id: 'single', parts: [] })
  })

  test('a part that arrived damaged is refused by its Content-MD5', async () => {
    const object = sample(6 * MIB)
    const { json } = await ask(object, { part_size: 5 * MIB })
    const [part] = json.parts
    const { createHash } = await import('node:crypto')
    const bytes = object.bytes.subarray(0, part.size)
    const md5 = createHash('md5').update(bytes).digest('base64')
    const header = { ...part.header, 'Content-MD5': md5 }
    const damaged = Buffer.from(bytes)
    damaged.writeUInt8((damaged.readUInt8(7) + 1) % 256, 7)
    expect((await put({ href: part.href, header }, damaged)).status).toBe(400)
    expect((await put({ href: part.href, header }, bytes)).status).toBe(200)
  })

  test('an upload that the store has forgotten', async () => {
    const object = sample(6 * MIB)
    const { json } = await ask(object, { part_size: 5 * MIB })
    const { upload_id } = json
    await plain.store.abortUpload(key(plain, object), upload_id.replace(/^\d+\./, ''))
    const answer = await ask(object, { upload_id })
    expect(answer.status).toBe(404)
    expect(answer.json.code).toBe('no_such_upload')
    const late = await complete(json)
    expect(late.status).toBe(404)
    expect(await late.json()).toMatchObject({ code: 'no_such_upload' })
  })

  test('a damaged object is replaced, in parts too', async () => {
    const object = sample(6 * MIB)
    await own(plain, object, object.bytes.subarray(1))
    const { json } = await ask(object, { part_size: 5 * MIB })
    await send(object, json)
    expect((await complete(json)).status).toBe(200)
    expect(await plain.store.head(key(plain, object))).toMatchObject({ size: 6 * MIB })
  })

  test('a good object is not replaced by who lies about its size', async () => {
    const good = sample(6 * MIB)
    await own(plain, good)
    const lie = { ...sample(6 * MIB + 1), oid: good.oid }
    for (let turn = 0; turn < 2; turn++) {
      const { json } = await ask(lie, { part_size: 5 * MIB })
      await send(lie, json)
      const answer = await complete(json)
      expect(answer.status).toBe(422)
      expect(await answer.json()).toMatchObject({ code: 'size_mismatch' })
      const id = json.upload_id.replace(/^\d+\./, '')
      await expect(plain.store.listParts(key(plain, good), id)).rejects.toMatchObject({
        code: 'no_such_upload',
      })
    }
    const { body } = await plain.store.get(key(plain, good))
    expect((await buffer(body)).equals(good.bytes)).toBe(true)
  })

  test('10 000 parts in one answer', async () => {
    const object = { ...sample(20), size: 10_000 * 5 * MIB }
    const { json } = await ask(object, { part_size: 5 * MIB })
    expect(json.parts.length).toBe(10_000)
    await plain.store.abortUpload(key(plain, object), json.upload_id.replace(/^\d+\./, ''))
  })
})

test('1000 signed URLs in one Batch answer', async () => {
  const objects = Array.from({ length: 1000 }, (_, index) => ({
    ...sample(0),
    oid: index.toString(16).padStart(64, '0'),
    size: 5 * 2 ** 30,
  }))
  const { objects: answers } = await batch(plain, 'upload', 'basic', ...objects)
  expect(answers.length).toBe(1000)
  expect(answers.every((answer: { actions?: object }) => answer.actions !== undefined)).toBe(true)
})
