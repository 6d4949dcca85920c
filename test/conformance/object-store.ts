import { createHash, randomBytes } from 'node:crypto'
import { Readable } from 'node:stream'
import { buffer } from 'node:stream/consumers'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { parseOid } from '../../src/oid.ts'
import { objectKey } from '../../src/storage/object-key.ts'
import type { ObjectStore } from '../../src/storage/object-store.ts'

/** A store to put through the suite, with what the suite cannot do through the interface. */
export interface StoreUnderTest {
  store: ObjectStore
  /** Before every key, ends with a slash. */
  prefix: string
  /** Writes an object past the store, as a broken older tool would. */
  plant(key: string, bytes: Buffer): Promise<void>
  /** Names of what is left besides whole objects: temporary files, unfinished uploads. */
  leftovers(): Promise<string[]>
  /** The store reads an upload's bytes before it lets the object appear. */
  hashesUploads: boolean
  close(): Promise<void>
}

const MIB = 2 ** 20
/** The smallest part that S3 takes. */
const PART = 5 * MIB

/** What every driver must do, run on each. `makeStore` is called once. */
export function objectStoreConformance(name: string, makeStore: () => Promise<StoreUnderTest>): void {
  describe(`object store: ${name}`, () => {
    let under: StoreUnderTest
    let store: ObjectStore
    beforeAll(async () => {
      under = await makeStore()
      store = under.store
    }, 60_000)
    afterAll(() => under?.close())

    const sha256 = (bytes: Buffer): string => createHash('sha256').update(bytes).digest('hex')
    const keyOf = (hash: string): string => objectKey(`${under.prefix}org/repo/`, parseOid(hash))
    const make = (size: number): { bytes: Buffer; hash: string; key: string; size: number } => {
      const bytes = randomBytes(size)
      const hash = sha256(bytes)
      return { bytes, hash, key: keyOf(hash), size }
    }
    /** In chunks of an odd size, so that nothing falls on the borders that a store works with. */
    const stream = (bytes: Buffer): Readable =>
      Readable.from(
        (function* () {
          for (let at = 0; at < bytes.length; at += 65_537) yield bytes.subarray(at, at + 65_537)
        })(),
        { objectMode: false },
      )
    const put = (object: ReturnType<typeof make>, options: { replace?: boolean } = {}) =>
      store.put(object.key, stream(object.bytes), { size: object.size, sha256: object.hash, ...options })
    const read = async (key: string): Promise<Buffer> => buffer((await store.get(key)).body)
    /** The empty object has one key only, so tests of it must not find each other's. */
    const fresh = (size: number): ReturnType<typeof make> => {
      const object = make(size)
      return {
        ...object,
        key: `${under.prefix}${randomBytes(4).toString('hex')}/repo/${object.key.slice(-70)}`,
      }
    }

    describe('head', () => {
      test('is undefined for an object that is absent', async () => {
        expect(await store.head(make(10).key)).toBeUndefined()
      })

      test('gives size and a strong entity tag that stays', async () => {
        const object = make(12_345)
        await put(object)
        const found = await store.head(object.key)
        expect(found?.size).toBe(12_345)
        expect(found?.etag).toMatch(/^"[^"]+"$/)
        expect(await store.head(object.key)).toEqual(found)
      })

      test('answers 64 at once', async () => {
        const object = make(100)
        await put(object)
        const keys = Array.from({ length: 64 }, (_, i) => (i % 2 === 0 ? object.key : make(5).key))
        const found = await Promise.all(keys.map((key) => store.head(key)))
        expect(found.map((info) => info?.size)).toEqual(keys.map((_, i) => (i % 2 === 0 ? 100 : undefined)))
      })
    })

    describe('put and get', () => {
      test.each([0, 1, 3, 65_536, MIB, MIB + 1, PART + 1])('brings %i bytes back', async (size) => {
        const object = fresh(size)
        expect(await put(object)).toBe('created')
        const { body, ...info } = await store.get(object.key)
        expect((await buffer(body)).equals(object.bytes)).toBe(true)
        expect(info).toEqual(await store.head(object.key))
        expect(info.size).toBe(size)
      })

      test('a second put finds the object there and changes nothing', async () => {
        const object = make(2 * MIB)
        await put(object)
        const before = await store.head(object.key)
        expect(await put(object)).toBe('exists')
        expect(await store.head(object.key)).toEqual(before)
      })

      test('get of an absent object is not_found', async () => {
        await expect(store.get(make(3).key)).rejects.toMatchObject({ name: 'TimoneError', code: 'not_found' })
      })

      test.each([1_000, 2 * MIB])(
        '%i bytes with another hash are refused and nothing is visible',
        async (size) => {
          const object = make(size)
          const wrong = Buffer.from(object.bytes)
          wrong[size - 1] = (wrong[size - 1] as number) ^ 1
          const putting = store.put(object.key, stream(wrong), { size, sha256: object.hash })
          await expect(putting).rejects.toMatchObject({ name: 'TimoneError', code: 'hash_mismatch' })
          expect(await store.head(object.key)).toBeUndefined()
          expect(await under.leftovers()).toEqual([])
        },
      )

      test.each([
        ['one byte short', 1_000, -1],
        ['one byte long', 1_000, 1],
        ['short', 3 * MIB, -MIB],
        ['long', 3 * MIB, MIB],
        ['not empty', 0, 1],
      ])('a body that is %s is refused and nothing is visible', async (_, size, more) => {
        const object = fresh(size)
        const body =
          more < 0 ? object.bytes.subarray(0, size + more) : Buffer.concat([object.bytes, randomBytes(more)])
        const putting = store.put(object.key, stream(body), { size, sha256: object.hash })
        await expect(putting).rejects.toMatchObject({ name: 'TimoneError', code: 'size_mismatch' })
        expect(await store.head(object.key)).toBeUndefined()
        expect(await under.leftovers()).toEqual([])
      })

      test.each([1_000, 8 * MIB])('an abort in the middle of %i bytes leaves nothing', async (size) => {
        const object = make(size)
        const stop = new AbortController()
        const body = new Readable({ read() {} })
        const putting = store.put(object.key, body, { size, sha256: object.hash, signal: stop.signal })
        body.push(object.bytes.subarray(0, size / 2))
        body.once('pause', () => stop.abort())
        setImmediate(() => stop.abort())
        await expect(putting).rejects.toMatchObject({ name: 'TimoneError', code: 'cancelled' })
        expect(body.destroyed, 'the body is the caller’s').toBe(false)
        body.destroy()
        expect(await store.head(object.key)).toBeUndefined()
        expect(await under.leftovers()).toEqual([])
      })

      test.each([1_000, 8 * MIB])(
        'a client that goes away in the middle of %i bytes leaves nothing',
        async (size) => {
          const object = make(size)
          const body = Readable.from(
            (function* () {
              yield object.bytes.subarray(0, size / 2)
              throw new Error('connection reset')
            })(),
            { objectMode: false },
          )
          const putting = store.put(object.key, body, { size, sha256: object.hash })
          await expect(putting).rejects.toMatchObject({ name: 'TimoneError', code: 'connection' })
          expect(await store.head(object.key)).toBeUndefined()
          expect(await under.leftovers()).toEqual([])
        },
      )

      test('a damaged object is left alone, and replaced on demand', async () => {
        const object = make(20_000)
        await under.plant(object.key, object.bytes.subarray(0, 11_111))
        const before = await store.head(object.key)
        await expect(put(object)).rejects.toMatchObject({ name: 'TimoneError', code: 'conflict' })
        expect(await store.head(object.key)).toEqual(before)
        expect(await put(object, { replace: true })).toBe('created')
        expect((await read(object.key)).equals(object.bytes)).toBe(true)
        expect((await store.head(object.key))?.etag).not.toBe(before?.etag)
      })

      test('a replacement with a wrong hash leaves the object that is there', async () => {
        const object = make(5_000)
        const planted = randomBytes(4_000)
        await under.plant(object.key, planted)
        const putting = store.put(object.key, stream(randomBytes(5_000)), {
          size: 5_000,
          sha256: object.hash,
          replace: true,
        })
        await expect(putting).rejects.toMatchObject({ code: 'hash_mismatch' })
        expect((await read(object.key)).equals(planted)).toBe(true)
      })

      test.each([1_000, 2 * MIB])(
        'an object (%i bytes) that appears while another put is sending is left as it is',
        async (size) => {
          const object = make(size)
          const slow = new Readable({ read() {} })
          slow.push(object.bytes.subarray(0, size / 2))
          const losing = store.put(object.key, slow, { size, sha256: object.hash })
          await expect.poll(() => slow.readableLength).toBe(0)
          expect(await put(object)).toBe('created')
          const before = await store.head(object.key)
          slow.push(object.bytes.subarray(size / 2))
          slow.push(null)
          expect(await losing).toBe('exists')
          expect(await store.head(object.key)).toEqual(before)
          expect(await under.leftovers()).toEqual([])
        },
      )

      test('many at once for the same key all succeed, with one object', async () => {
        const object = make(1_500_000)
        const results = await Promise.all(Array.from({ length: 6 }, () => put(object)))
        expect(results).toContain('created')
        expect(new Set([...results, 'exists'])).toEqual(new Set(['created', 'exists']))
        expect((await read(object.key)).equals(object.bytes)).toBe(true)
        expect(await under.leftovers()).toEqual([])
      })
    })

    describe('ranges', () => {
      const size = 300_000
      let object: ReturnType<typeof make>
      beforeAll(async () => {
        object = make(size)
        await put(object)
      })

      test.each([
        ['first byte', 0, 0, 0, 1],
        ['beginning', 0, 99, 0, 100],
        ['middle', 100_001, 200_002, 100_001, 200_003],
        ['last byte', size - 1, size - 1, size - 1, size],
        ['rest', 250_000, size - 1, 250_000, size],
        ['beyond the end', 299_990, size + 1_000, 299_990, size],
        ['everything', 0, size - 1, 0, size],
      ])('%s', async (_, start, end, from, to) => {
        const { body, ...info } = await store.get(object.key, { range: { start, end } })
        expect((await buffer(body)).equals(object.bytes.subarray(from, to))).toBe(true)
        expect(info.size, 'the size of the whole object').toBe(size)
      })

      test.each([
        ['at the end', size, size + 1],
        ['far behind the end', 10 * size, 11 * size],
      ])('one that starts %s is invalid', async (_, start, end) => {
        await expect(store.get(object.key, { range: { start, end } })).rejects.toMatchObject({
          name: 'TimoneError',
          code: 'invalid',
        })
      })

      test('ifMatch lets the same version through and stops another', async () => {
        const { etag } = (await store.head(object.key)) as { etag: string }
        const range = { start: 5, end: 9 }
        const { body } = await store.get(object.key, { range, ifMatch: etag })
        expect((await buffer(body)).equals(object.bytes.subarray(5, 10))).toBe(true)
        await expect(store.get(object.key, { range, ifMatch: '"0123456789abcdef"' })).rejects.toMatchObject({
          name: 'TimoneError',
          code: 'precondition_failed',
        })
      })

      test('an abort in the middle of reading ends the body with an error', async () => {
        const large = make(8 * MIB)
        await put(large)
        const stop = new AbortController()
        const { body } = await store.get(large.key, { signal: stop.signal })
        const reading = buffer(body)
        stop.abort()
        await expect(reading).rejects.toMatchObject({ name: 'TimoneError', code: 'cancelled' })
      })

      test('what is not read to its end can be dropped', async () => {
        const { body } = await store.get(object.key)
        const closed = new Promise((resolve) => body.once('close', resolve))
        body.destroy()
        await closed
        expect((await read(object.key)).equals(object.bytes)).toBe(true)
      })
    })

    describe('uploads in parts', () => {
      /** Three parts, the last one short. */
      const multipart = async () => {
        const object = make(2 * PART + 70_003)
        const id = await store.createUpload(object.key, { size: object.size, partSize: PART })
        const slice = (number: number): Buffer => object.bytes.subarray((number - 1) * PART, number * PART)
        const send = (number: number, bytes = slice(number)) =>
          store.putPart(object.key, id, number, stream(bytes), { size: slice(number).length })
        const complete = (options: { replace?: boolean } = {}) =>
          store.completeUpload(object.key, id, { size: object.size, sha256: object.hash, ...options })
        return { ...object, id, slice, send, complete }
      }

      test('out of order, one part twice: nothing is visible before the end, then everything', async () => {
        const upload = await multipart()
        expect(await store.listParts(upload.key, upload.id)).toEqual([])
        await upload.send(3)
        await upload.send(1)
        await upload.send(3)
        const listed = await store.listParts(upload.key, upload.id)
        expect(listed.map(({ number, size }) => [number, size])).toEqual([
          [1, PART],
          [3, 70_003],
        ])
        const sent = await upload.send(2)
        expect(sent).toMatchObject({ number: 2, size: PART })
        expect(await store.listParts(upload.key, upload.id)).toContainEqual(sent)
        expect(await store.head(upload.key)).toBeUndefined()
        expect(await upload.complete()).toBe('created')
        expect((await read(upload.key)).equals(upload.bytes)).toBe(true)
        expect(await under.leftovers()).toEqual([])
      })

      test('the same part twice at the same time', async () => {
        const upload = await multipart()
        await Promise.all([upload.send(1), upload.send(2), upload.send(1), upload.send(3), upload.send(2)])
        expect(await upload.complete()).toBe('created')
        expect((await read(upload.key)).equals(upload.bytes)).toBe(true)
      })

      test('a part that was sent wrong can be sent again', async () => {
        const upload = await multipart()
        await upload.send(1, randomBytes(PART))
        await Promise.all([upload.send(1), upload.send(2), upload.send(3)])
        expect(await upload.complete()).toBe('created')
        expect((await read(upload.key)).equals(upload.bytes)).toBe(true)
      })

      test('an object of one part', async () => {
        const object = fresh(77)
        const id = await store.createUpload(object.key, { size: 77, partSize: PART })
        await store.putPart(object.key, id, 1, stream(object.bytes), { size: 77 })
        expect(await store.completeUpload(object.key, id, { size: 77, sha256: object.hash })).toBe('created')
        expect((await read(object.key)).equals(object.bytes)).toBe(true)
      })

      test.each([
        ['short', -1],
        ['long', 1],
      ])('a part whose body is too %s does not count', async (_, more) => {
        const upload = await multipart()
        const bytes =
          more < 0 ? upload.slice(3).subarray(0, more) : Buffer.concat([upload.slice(3), randomBytes(more)])
        await expect(upload.send(3, bytes)).rejects.toMatchObject({
          name: 'TimoneError',
          code: 'size_mismatch',
        })
        expect(await store.listParts(upload.key, upload.id)).toEqual([])
        await store.abortUpload(upload.key, upload.id)
      })

      test('a part whose client goes away does not count, and can be sent again', async () => {
        const upload = await multipart()
        const body = Readable.from(
          (function* () {
            yield upload.slice(1).subarray(0, 2 * MIB)
            throw new Error('connection reset')
          })(),
          { objectMode: false },
        )
        const sending = store.putPart(upload.key, upload.id, 1, body, { size: PART })
        await expect(sending).rejects.toMatchObject({ name: 'TimoneError', code: 'connection' })
        expect(await store.listParts(upload.key, upload.id)).toEqual([])
        await Promise.all([upload.send(1), upload.send(2), upload.send(3)])
        expect(await upload.complete()).toBe('created')
      })

      test('an aborted part does not count', async () => {
        const upload = await multipart()
        const stop = new AbortController()
        const body = new Readable({ read() {} })
        body.push(upload.slice(1).subarray(0, MIB))
        const sending = store.putPart(upload.key, upload.id, 1, body, { size: PART, signal: stop.signal })
        setImmediate(() => stop.abort())
        await expect(sending).rejects.toMatchObject({ name: 'TimoneError', code: 'cancelled' })
        body.destroy()
        expect(await store.listParts(upload.key, upload.id)).toEqual([])
        await store.abortUpload(upload.key, upload.id)
      })

      test.each([
        ['the first', [2, 3]],
        ['a middle one', [1, 3]],
        ['the last', [1, 2]],
        ['every', []],
      ])('is not completed with %s part missing, and goes on afterwards', async (_, numbers) => {
        const upload = await multipart()
        await Promise.all(numbers.map((number) => upload.send(number)))
        await expect(upload.complete()).rejects.toMatchObject({ name: 'TimoneError', code: 'size_mismatch' })
        expect(await store.head(upload.key)).toBeUndefined()
        await Promise.all([1, 2, 3].filter((n) => !numbers.includes(n)).map((number) => upload.send(number)))
        expect(await upload.complete()).toBe('created')
      })

      test('bytes of another hash: refused where the store reads them, else it says that it does not', async () => {
        const upload = await multipart()
        await Promise.all([upload.send(1), upload.send(2, randomBytes(PART)), upload.send(3)])
        if (!under.hashesUploads) {
          expect(await upload.complete()).toBe('created')
          return
        }
        await expect(upload.complete()).rejects.toMatchObject({ name: 'TimoneError', code: 'hash_mismatch' })
        expect(await store.head(upload.key)).toBeUndefined()
        await expect(store.listParts(upload.key, upload.id)).rejects.toMatchObject({ code: 'no_such_upload' })
        expect(await under.leftovers()).toEqual([])
      })

      test('aborted: no part is left, and aborting once more is no error', async () => {
        const upload = await multipart()
        await upload.send(1)
        await store.abortUpload(upload.key, upload.id)
        await expect(store.listParts(upload.key, upload.id)).rejects.toMatchObject({
          name: 'TimoneError',
          code: 'no_such_upload',
        })
        await expect(upload.send(2)).rejects.toMatchObject({ name: 'TimoneError', code: 'no_such_upload' })
        await expect(upload.complete()).rejects.toMatchObject({ name: 'TimoneError', code: 'no_such_upload' })
        await store.abortUpload(upload.key, upload.id)
        expect(await under.leftovers()).toEqual([])
      })

      test('completed twice, one after the other and at the same time', async () => {
        const upload = await multipart()
        await Promise.all([upload.send(1), upload.send(2), upload.send(3)])
        const results = await Promise.all([upload.complete(), upload.complete()])
        expect(results).toContain('created')
        expect(await upload.complete()).toBe('exists')
        await expect(store.listParts(upload.key, upload.id)).rejects.toMatchObject({ code: 'no_such_upload' })
        expect((await read(upload.key)).equals(upload.bytes)).toBe(true)
      })

      test('an object that another upload stored first is left alone, and the upload goes', async () => {
        const upload = await multipart()
        await Promise.all([upload.send(1), upload.send(2), upload.send(3)])
        await put(upload)
        const before = await store.head(upload.key)
        expect(await upload.complete()).toBe('exists')
        expect(await store.head(upload.key)).toEqual(before)
        await expect(store.listParts(upload.key, upload.id)).rejects.toMatchObject({ code: 'no_such_upload' })
        expect(await under.leftovers()).toEqual([])
      })

      test('a damaged object is replaced on demand only', async () => {
        const upload = await multipart()
        await under.plant(upload.key, upload.bytes.subarray(0, 999))
        await Promise.all([upload.send(1), upload.send(2), upload.send(3)])
        await expect(upload.complete()).rejects.toMatchObject({ name: 'TimoneError', code: 'conflict' })
        expect((await store.head(upload.key))?.size).toBe(999)
        expect(await upload.complete({ replace: true })).toBe('created')
        expect((await read(upload.key)).equals(upload.bytes)).toBe(true)
      })
    })

    test('lists the objects under a prefix, with their sizes', async () => {
      const sizes = new Map<string, number>()
      for (const [at, size] of [10, 0, 300].entries()) {
        const bytes = Buffer.alloc(size, at)
        const oid = createHash('sha256').update(bytes).digest('hex')
        const key = `${under.prefix}listed/repo${at}/${oid.slice(0, 2)}/${oid.slice(2, 4)}/${oid}`
        await store.put(key, Readable.from([bytes]), { size, sha256: oid })
        sizes.set(key, size)
      }
      const list = async (folder: string): Promise<Map<string, number>> => {
        const found = new Map<string, number>()
        for await (const { key, size } of store.listObjects(folder)) found.set(key, size)
        return found
      }
      expect(await list(`${under.prefix}listed/`)).toEqual(sizes)
      const [first = ''] = [...sizes.keys()]
      expect([...(await list(`${under.prefix}listed/repo0/`)).keys()]).toEqual([first])
      expect(await list(`${under.prefix}nobody/`)).toEqual(new Map())
    })

    test('removes one object and no other; one that is not there is no error', async () => {
      const [gone, kept] = [make(300), make(300)]
      await put(gone)
      await put(kept)
      await store.remove(gone.key)
      await store.remove(gone.key)
      expect(await store.head(gone.key)).toBeUndefined()
      expect((await read(kept.key)).equals(kept.bytes)).toBe(true)
      expect(await put(gone)).toBe('created')
      expect((await read(gone.key)).equals(gone.bytes)).toBe(true)
    })

    test('check passes', async () => {
      await store.check()
    })
  })
}
