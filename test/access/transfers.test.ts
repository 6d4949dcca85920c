import { Readable } from 'node:stream'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import type { UploadTransfer } from '../../src/access/credentials.ts'
import { keyOf } from '../../src/access/object-location.ts'
import { Transfers } from '../../src/access/transfers.ts'
import type { Oid } from '../../src/oid.ts'
import { failureFaults } from '../lfs/batch-schema.ts'
import {
  fakeStore,
  filesIn,
  post,
  type Running,
  type Sample,
  sample,
  startOnFiles,
} from '../server/harness.ts'

const MIB = 2 ** 20
const repository = { org: 'foo', repo: 'bar' }
let running: Running & { root: string }

beforeAll(async () => {
  running = await startOnFiles()
})
afterAll(() => running.stop())

async function useToken(
  use: 'transfer' | 'renew' | 'verify',
  operation: 'upload' | 'download' = 'upload',
  options: { name?: typeof repository; authTime?: number } = {},
): Promise<string> {
  const { name = repository, authTime = Math.floor(Date.now() / 1000) } = options
  const token = await running.tokens.issueUse({
    use,
    subject: 'ada',
    repository: name,
    operation,
    expiresIn: 60,
    authTime,
  })
  return `Bearer ${token}`
}

const ask = async (body: object, authorization?: string) =>
  post(
    `${running.url}/foo/bar/info/lfs/transfers`,
    body,
    authorization ??
      (await useToken('transfer', 'operation' in body ? (body.operation as 'upload') : 'upload')),
  )

async function send(object: Sample, plan: UploadTransfer, only?: (number: number) => boolean): Promise<void> {
  for (const part of plan.parts.filter(({ number }) => only?.(number) ?? true)) {
    const body = new Uint8Array(object.bytes.subarray(part.offset, part.offset + part.size))
    const answer = await fetch(part.href, { method: 'PUT', headers: part.header, body })
    expect(answer.status).toBe(200)
  }
}

const complete = (plan: UploadTransfer) =>
  fetch(plan.complete.href, { method: 'POST', headers: plan.complete.header })

const head = (object: Sample) => running.store.head(keyOf('', { repository, oid: object.oid as Oid }))

async function download(object: Sample): Promise<Buffer> {
  const { status, json } = await ask({ operation: 'download', oid: object.oid, size: object.size })
  expect(status).toBe(200)
  const answer = await fetch(json.href, { headers: json.header })
  return Buffer.from(await answer.arrayBuffer())
}

describe('transfers on the file store', () => {
  test.each([0, 1, 100_000])('%i bytes: one request, complete, and back', async (size) => {
    const object = sample(size)
    const { status, headers, json } = await ask({ operation: 'upload', oid: object.oid, size })
    expect(status).toBe(200)
    expect(headers.get('cache-control')).toBe('no-store')
    expect(json).toMatchObject({ operation: 'upload', upload_id: 'single', part_size: 8 * MIB })
    expect(json.parts).toMatchObject([{ number: 1, offset: 0, size }])
    expect(Date.parse(json.expires_at)).toBeGreaterThan(Date.now() + 3_500_000)
    expect((await complete(json)).status).toBe(404)
    await send(object, json)
    expect((await complete(json)).status).toBe(200)
    expect((await complete(json)).status).toBe(200)
    expect((await download(object)).equals(object.bytes)).toBe(true)
  })

  test('in parts, interrupted, resumed with the missing ones only', async () => {
    const object = sample(13 * MIB)
    const first = await ask({ operation: 'upload', oid: object.oid, size: object.size, part_size: 5 * MIB })
    expect(first.json.parts.map(({ size }: Sample) => size)).toEqual([5 * MIB, 5 * MIB, 3 * MIB])
    await send(object, first.json, (number) => number === 2)
    const early = await complete(first.json)
    expect(early.status).toBe(422)
    expect(((await early.json()) as { code: string }).code).toBe('size_mismatch')
    // Another wish for the part size changes nothing: the upload goes on as it began.
    const { upload_id } = first.json
    const again = await ask({
      operation: 'upload',
      oid: object.oid,
      size: object.size,
      part_size: 6 * MIB,
      upload_id,
    })
    expect(again.json).toMatchObject({ upload_id, part_size: 5 * MIB })
    expect(again.json.parts.map(({ number }: { number: number }) => number)).toEqual([1, 3])
    expect(await head(object)).toBeUndefined()
    await send(object, again.json)
    expect((await complete(again.json)).status).toBe(200)
    expect((await complete(first.json)).status).toBe(200)
    expect((await download(object)).equals(object.bytes)).toBe(true)
    expect((await filesIn(running.root)).filter((path) => path.includes('.timone'))).toEqual([])
  })

  test('parts of other bytes never become the object', async () => {
    const object = sample(6 * MIB)
    const { json } = await ask({
      operation: 'upload',
      oid: object.oid,
      size: object.size,
      part_size: 5 * MIB,
    })
    await send(sample(object.size), json)
    const answer = await complete(json)
    expect(answer.status).toBe(422)
    expect(((await answer.json()) as { code: string }).code).toBe('hash_mismatch')
    expect(await head(object)).toBeUndefined()
  })

  test('an object that is there: no parts, complete at once', async () => {
    const object = sample(8 * MIB)
    const request = { operation: 'upload', oid: object.oid, size: object.size, part_size: 5 * MIB }
    const slow = await ask(request)
    await send(object, slow.json, (number) => number === 1)
    const fast = await ask({ operation: 'upload', oid: object.oid, size: object.size })
    await send(object, fast.json)
    expect((await complete(fast.json)).status).toBe(200)
    const third = await ask(request)
    expect(third.json).toMatchObject({ upload_id: 'single', parts: [] })
    expect((await complete(third.json)).status).toBe(200)
    // The slow one hears the same, and nothing of it stays behind.
    const resumed = await ask({ ...request, upload_id: slow.json.upload_id })
    expect(resumed.json).toMatchObject({ upload_id: 'single', parts: [] })
    expect((await complete(slow.json)).status).toBe(200)
    expect((await filesIn(running.root)).filter((path) => path.includes('uploads'))).toEqual([])
  })

  test.each([1000, 6 * MIB])('a damaged object of %i bytes is replaced', async (size) => {
    const object = sample(size)
    const damaged = object.bytes.subarray(0, 999)
    const { createHash } = await import('node:crypto')
    const sha256 = createHash('sha256').update(damaged).digest('hex')
    const key = keyOf('', { repository, oid: object.oid as Oid })
    await running.store.put(key, Readable.from([damaged]), { size: 999, sha256 })
    const refused = await ask({ operation: 'download', oid: object.oid, size })
    expect(refused.status).toBe(422)
    expect(refused.json.code).toBe('size_mismatch')
    const { json } = await ask({ operation: 'upload', oid: object.oid, size, part_size: 5 * MIB })
    await send(object, json)
    expect((await complete(json)).status).toBe(200)
    expect((await download(object)).equals(object.bytes)).toBe(true)
  })

  test.each(['16777216.unknown', '5242880.../../x', 'nonsense', '1.x', '99999999999.x'])(
    'upload id %s: begin again',
    async (upload_id) => {
      const object = sample(10)
      const body = { operation: 'upload', oid: object.oid, size: 20 * MIB, upload_id }
      const { status, json } = await ask(body)
      expect(status).toBe(404)
      expect(json.code).toBe('no_such_upload')
    },
  )

  test('10 000 parts in one answer', async () => {
    const size = 10_000 * 5 * MIB
    const { json } = await ask({ operation: 'upload', oid: sample(20).oid, size, part_size: 5 * MIB })
    expect(json.parts.length).toBe(10_000)
    expect(new Set(json.parts.map(({ href }: { href: string }) => href)).size).toBe(10_000)
  })

  test.each([
    [{ operation: 'delete', oid: 'a'.repeat(64), size: 1 }],
    [{ operation: 'upload', oid: 'A'.repeat(64), size: 1 }],
    [{ operation: 'upload', oid: '../x', size: 1 }],
    [{ operation: 'upload', oid: 'a'.repeat(64), size: -1 }],
    [{ operation: 'upload', oid: 'a'.repeat(64), size: 1.5 }],
    [{ operation: 'upload', oid: 'a'.repeat(64), size: 6 * 2 ** 40 }],
    [{ operation: 'upload', oid: 'a'.repeat(64), size: 1, part_size: 0.5 }],
    [{ operation: 'upload', oid: 'a'.repeat(64), size: 1, upload_id: 7 }],
    [{}],
  ])('%j is refused', async (body) => {
    const answer = await ask(body, await useToken('transfer'))
    expect(answer.status).toBe(422)
    expect(failureFaults(answer.json)).toEqual([])
  })

  test('a download of what is absent', async () => {
    const answer = await ask({ operation: 'download', oid: sample(20).oid, size: 1 })
    expect(answer.status).toBe(404)
    expect(answer.json.code).toBe('not_found')
  })

  test('who may', async () => {
    const upload = { operation: 'upload', oid: sample(20).oid, size: 1 }
    const download = { operation: 'download', oid: sample(20).oid, size: 1 }
    const other = { org: 'foo', repo: 'other' }
    expect((await post(`${running.url}/foo/bar/info/lfs/transfers`, upload)).status).toBe(401)
    expect((await ask(upload, await useToken('verify'))).status).toBe(401)
    expect((await ask(upload, await useToken('renew'))).status).toBe(401)
    expect((await ask(upload, await useToken('transfer', 'download'))).status).toBe(403)
    expect((await ask(download, await useToken('transfer', 'upload'))).status).toBe(403)
    expect((await ask(upload, await useToken('transfer', 'upload', { name: other }))).status).toBe(404)
    expect((await ask(upload, await running.as('bob', 'lfs:foo/bar:r'))).status).toBe(403)
    expect((await ask(upload, await running.as('bob'))).status).toBe(200)
    const { json } = await ask(upload)
    const completing = async (authorization: string) =>
      (await fetch(json.complete.href, { method: 'POST', headers: { authorization } })).status
    expect(await completing(await useToken('verify', 'download'))).toBe(403)
    expect(await completing(await useToken('verify', 'upload', { name: other }))).toBe(404)
    expect(await completing(await useToken('renew'))).toBe(401)
  })
})

describe('an object in a bucket that has another size than asked', () => {
  const object = sample(6 * MIB)
  const name = { repository, oid: object.oid as Oid, size: 7 * MIB }

  /** A bucket that holds `bytes`; tells how often they were read and what was completed. */
  function bucket(bytes: Buffer) {
    const seen = { reads: 0, completed: [] as unknown[], aborted: 0 }
    const info = { size: bytes.length, etag: '"1"' }
    const store = fakeStore({
      driver: 's3',
      head: async () => info,
      get: async () => {
        seen.reads++
        return { ...info, body: Readable.from([bytes.subarray(0, 1000), bytes.subarray(1000)]) }
      },
      completeUpload: async (_key, _id, options) => {
        seen.completed.push(options)
        return 'created'
      },
      abortUpload: async () => void seen.aborted++,
    })
    const { tokens } = running
    const prepareSigner = () => Promise.reject(new Error('nothing is signed here'))
    return { seen, transfers: new Transfers({ store, prefix: '', prepareSigner, tokens, url: 'http://x' }) }
  }

  test('is left alone when its hash is right, and read only once to know that', async () => {
    const { seen, transfers } = bucket(object.bytes)
    for (let turn = 1; turn <= 3; turn++) {
      await expect(transfers.complete(name, `${5 * MIB}.id`)).rejects.toMatchObject({ code: 'size_mismatch' })
      expect(seen).toEqual({ reads: 1, completed: [], aborted: turn })
    }
  })

  test('is replaced when its hash is not', async () => {
    const { seen, transfers } = bucket(object.bytes.subarray(1))
    await transfers.complete(name, `${5 * MIB}.id`)
    expect(seen.completed).toEqual([{ size: 7 * MIB, sha256: object.oid, replace: true }])
  })
})

describe('credentials on the file store', () => {
  const credentials = async (body: unknown, authorization?: string) =>
    post(`${running.url}/foo/bar/info/lfs/credentials`, body, authorization)

  test('a token for transfers, from the token of the action, and again from the renewal', async () => {
    const first = await credentials({ operation: 'upload' }, await useToken('transfer'))
    expect(first.status).toBe(200)
    expect(first.headers.get('cache-control')).toBe('no-store')
    expect(first.json).toMatchObject({
      driver: 'url',
      transfers: `${running.url}/foo/bar/info/lfs/transfers`,
    })
    const second = await credentials({ operation: 'upload' }, `Bearer ${first.json.renew.token}`)
    expect(second.status).toBe(200)
    const object = sample(20)
    const answer = await ask({ operation: 'upload', oid: object.oid, size: 1 }, `Bearer ${second.json.token}`)
    expect(answer.status).toBe(200)
  })

  test('who may', async () => {
    const other = { org: 'foo', repo: 'other' }
    const upload = { operation: 'upload' }
    expect((await credentials(upload)).status).toBe(401)
    expect((await credentials(upload, await useToken('verify'))).status).toBe(401)
    expect((await credentials(upload, await useToken('transfer', 'download'))).status).toBe(403)
    expect((await credentials({ operation: 'download' }, await useToken('renew'))).status).toBe(403)
    expect((await credentials(upload, await useToken('transfer', 'upload', { name: other }))).status).toBe(
      404,
    )
    expect((await credentials(upload, await running.as('bob'))).status).toBe(200)
    expect((await credentials(upload, await running.as('bob', 'lfs:foo/bar:r'))).status).toBe(403)
    const old = Math.floor(Date.now() / 1000) - 12 * 3600 - 1
    expect((await credentials(upload, await useToken('renew', 'upload', { authTime: old }))).status).toBe(401)
  })

  test.each([{}, { operation: 'delete' }, [], 'null', '{'])('%j is refused', async (body) => {
    expect((await credentials(body, await useToken('transfer'))).status).toBe(422)
  })
})
