import { createHash, randomBytes } from 'node:crypto'
import { Readable } from 'node:stream'
import { buffer } from 'node:stream/consumers'
import { ListMultipartUploadsCommand, PutObjectCommand } from '@aws-sdk/client-s3'
import { describe, expect, test } from 'vitest'
import { createS3Client } from '../../src/storage/s3-client.ts'
import { objectUrl, s3Location } from '../../src/storage/s3-location.ts'
import { createS3Store, type S3StoreOptions } from '../../src/storage/s3-store.ts'
import { EMPTY_SHA256, presign, type SigningContext, signHeaders } from '../../src/storage/sigv4.ts'
import { objectStoreConformance } from '../conformance/object-store.ts'
import { testS3 } from '../helpers/s3.ts'

const optionsOf = (s3: ReturnType<typeof testS3>): S3StoreOptions => ({
  url: s3.url,
  region: s3.region,
  bucket: s3.bucket,
  credentials: s3.credentials,
  forcePathStyle: true,
  checksums: 'when_required',
})

for (const checksums of ['when_required', 'when_supported'] as const) {
  objectStoreConformance(`s3, checksums ${checksums}`, async () => {
    const s3 = testS3()
    const options = { ...optionsOf(s3), checksums }
    const client = createS3Client(s3Location(options), options)
    const known = new Set<string>()
    return {
      store: createS3Store(options),
      prefix: s3.prefix,
      hashesUploads: false,
      async plant(key, bytes) {
        await client.send(new PutObjectCommand({ Bucket: s3.bucket, Key: key, Body: bytes }))
      },
      async leftovers() {
        const { Uploads = [] } = await client.send(
          new ListMultipartUploadsCommand({ Bucket: s3.bucket, Prefix: s3.prefix }),
        )
        // Uploads that a test left open on purpose are reported once only.
        const ids = Uploads.map((upload) => upload.UploadId ?? '').filter((id) => !known.has(id))
        for (const id of ids) known.add(id)
        return ids
      },
      close: async () => client.destroy(),
    }
  })
}

describe('s3 store at a real server', () => {
  const make = (prefix: string, size: number) => {
    const bytes = randomBytes(size)
    const sha256 = createHash('sha256').update(bytes).digest('hex')
    return { bytes, size, sha256, key: `${prefix}org/repo/${sha256}` }
  }

  test('a wrong secret is denied, on every call', async () => {
    const s3 = testS3()
    const credentials = { ...s3.credentials, secretAccessKey: 'wrong' }
    const store = createS3Store({ ...optionsOf(s3), credentials })
    const object = make(s3.prefix, 10)
    const denied = { name: 'TimoneError', code: 'denied', status: 403 }
    await expect(store.check()).rejects.toMatchObject(denied)
    await expect(store.head(object.key)).rejects.toMatchObject(denied)
    await expect(store.get(object.key)).rejects.toMatchObject(denied)
    await expect(store.put(object.key, Readable.from([object.bytes]), object)).rejects.toMatchObject(denied)
    await expect(store.createUpload(object.key, { size: 10, partSize: 10 })).rejects.toMatchObject(denied)
    const message = await store.check().catch((error: Error) => error.message)
    expect(message).toContain('check key, secret')
    expect(message).not.toContain(s3.credentials.accessKeyId)
  })

  test('a bucket that does not exist is no_such_bucket, never "absent"', async () => {
    const s3 = testS3()
    const store = createS3Store({ ...optionsOf(s3), bucket: 'timone-no-such-bucket' })
    const object = make(s3.prefix, 10)
    const expected = { name: 'TimoneError', code: 'no_such_bucket' }
    await expect(store.check()).rejects.toMatchObject(expected)
    await expect(store.head(object.key)).rejects.toMatchObject(expected)
    await expect(store.get(object.key)).rejects.toMatchObject(expected)
    await expect(store.put(object.key, Readable.from([object.bytes]), object)).rejects.toMatchObject(expected)
  })

  test.each([1_000, 3_000_000])(
    'the server itself refuses other bytes than those that were signed (%i)',
    async (size) => {
      const s3 = testS3()
      const client = createS3Client(s3Location(optionsOf(s3)), optionsOf(s3))
      // Behind the signature, as a broken memory or a proxy would.
      client.middlewareStack.add(
        (next) => (args) => {
          const request = args.request as { method: string; body?: unknown }
          if (request.method === 'PUT') request.body = Readable.from([Buffer.alloc(size, 1)])
          return next(args)
        },
        { step: 'finalizeRequest', priority: 'low', name: 'spoilBody' },
      )
      const store = createS3Store({ ...optionsOf(s3), client })
      const object = make(s3.prefix, size)
      const putting = store.put(object.key, Readable.from([object.bytes]), object)
      await expect(putting).rejects.toMatchObject({ code: 'hash_mismatch', status: 400 })
      expect(await store.head(object.key)).toBeUndefined()
    },
  )

  test('lists what is under a prefix, in the order of the keys, from behind a key on', async () => {
    const s3 = testS3()
    const store = createS3Store(optionsOf(s3))
    const objects = [10, 20, 30].map((size) => make(s3.prefix, size))
    for (const { key, bytes, size, sha256 } of objects)
      await store.put(key, Readable.from([bytes]), { size, sha256 })
    const sorted = objects.map(({ key, size }) => ({ key, size })).sort((a, b) => (a.key < b.key ? -1 : 1))
    const prefix = `${s3.prefix}org/repo/`
    expect(await store.list?.(prefix, {})).toEqual({ objects: sorted, more: false })
    const after = sorted[0]?.key as string
    expect(await store.list?.(prefix, { after })).toEqual({ objects: sorted.slice(1), more: false })
    expect(await store.list?.(`${prefix}nothing/`, {})).toEqual({ objects: [], more: false })
  })

  test('never overwrites, even where it did not look first', async () => {
    const s3 = testS3()
    const store = createS3Store(optionsOf(s3))
    const object = make(s3.prefix, 1_000)
    await store.put(object.key, Readable.from([object.bytes]), object)
    const other = make(s3.prefix, 1_000)
    expect(await store.put(object.key, Readable.from([other.bytes]), other)).toBe('exists')
    expect((await buffer((await store.get(object.key)).body)).equals(object.bytes)).toBe(true)
  })

  test('bytes come from where location and objectUrl say', async () => {
    const s3 = testS3()
    const store = createS3Store(optionsOf(s3))
    const object = make(s3.prefix, 1_000)
    await store.put(object.key, Readable.from([object.bytes]), object)
    const context = { keys: s3.credentials, region: s3.region, date: new Date() }
    const response = await fetch(presign('GET', objectUrl(store.location, object.key), {}, 60, context))
    expect(Buffer.from(await response.arrayBuffer()).equals(object.bytes)).toBe(true)
  })
})

describe('signatures at a real server', () => {
  const keys = [
    'plain',
    'a b',
    'a+b',
    '100%',
    '%2F',
    'Grüße/日本語',
    "it's (a) *star*!",
    'a$b&c=d;e:f@g,h?i#j[k]',
    'a~b\\c|d',
  ]
  const setUp = () => {
    const s3 = testS3()
    const location = s3Location(optionsOf(s3))
    const context: SigningContext = { keys: s3.credentials, region: s3.region, date: new Date() }
    return { s3, context, urlOf: (key: string) => objectUrl(location, s3.prefix + key) }
  }

  test.each(keys)('PUT with signed headers, GET by signed URL: %j', async (key) => {
    const { context, urlOf } = setUp()
    const bytes = Buffer.from(`the bytes of ${key}`)
    const sha256 = createHash('sha256').update(bytes).digest('hex')
    const url = urlOf(key)
    const { host: _, ...headers } = signHeaders('PUT', url, { 'if-none-match': '*' }, sha256, context)
    const stored = await fetch(url, { method: 'PUT', headers, body: bytes })
    expect(stored.status).toBe(200)
    const read = await fetch(presign('GET', url, {}, 60, context))
    expect(read.status).toBe(200)
    expect(await read.text()).toBe(bytes.toString())
  })

  test('query parameters, with characters that need encoding', async () => {
    const { s3, context, urlOf } = setUp()
    const url = urlOf('list/a b+c')
    await fetch(presign('PUT', url, {}, 60, context), { method: 'PUT', body: 'x' })
    const list = new URL(`${s3.url}/${s3.bucket}`)
    for (const [name, value] of Object.entries({
      'list-type': '2',
      prefix: `${s3.prefix}list/a b+`,
      delimiter: '/',
    })) {
      list.searchParams.set(name, value)
    }
    const bySignedUrl = await (await fetch(presign('GET', list, {}, 60, context))).text()
    expect(bySignedUrl).toContain('list/a b+c</Key>')
    const { host: _, ...headers } = signHeaders('GET', list, {}, EMPTY_SHA256, context)
    expect(await (await fetch(list, { headers })).text()).toContain('list/a b+c</Key>')
  })

  test('a signed PUT that pins the hash takes those bytes only, and only with the header', async () => {
    const { context, urlOf } = setUp()
    const bytes = Buffer.from('pinned')
    const pinned = { 'x-amz-content-sha256': createHash('sha256').update(bytes).digest('hex') }
    const href = presign('PUT', urlOf('pinned'), pinned, 60, context)
    const put = async (body: string, headers: Record<string, string>) =>
      (await fetch(href, { method: 'PUT', body, headers })).status
    expect(await put('forged', pinned)).toBe(400)
    expect(await put('pinned', {})).toBe(403)
    expect((await fetch(presign('GET', urlOf('pinned'), {}, 60, context))).status).toBe(404)
    expect(await put('pinned', pinned)).toBe(200)
  })

  test('a signed URL is for one method, one key and its time', async () => {
    const { context, urlOf } = setUp()
    const url = urlOf('mine')
    await fetch(presign('PUT', url, {}, 60, context), { method: 'PUT', body: 'x' })
    const href = presign('GET', url, {}, 60, context)
    expect((await fetch(href)).status).toBe(200)
    expect((await fetch(href, { method: 'PUT', body: 'y' })).status).toBe(403)
    expect((await fetch(href.replace('/mine?', '/yours?'))).status).toBe(403)
    const past = { ...context, date: new Date(Date.now() - 120_000) }
    expect((await fetch(presign('GET', url, {}, 60, past))).status).toBe(403)
    expect((await fetch(presign('GET', url, {}, 180, past))).status).toBe(200)
  })
})
