import { Readable } from 'node:stream'
import fc from 'fast-check'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { keyOf } from '../../src/access/object-location.ts'
import { TimoneError } from '../../src/errors.ts'
import type { Oid } from '../../src/oid.ts'
import { fakeStore, post, type Running, type Sample, sample, startOnFiles } from '../server/harness.ts'
import { batchFaults, failureFaults } from './batch-schema.ts'

const REPOSITORY = { org: 'foo', repo: 'bar' }
const MEDIA_TYPE = 'application/vnd.git-lfs+json'
let running: Running
let authorization: string
let stored: Sample

async function store(object: Sample, size = object.size): Promise<void> {
  const key = keyOf('', { repository: REPOSITORY, oid: object.oid as Oid })
  const bytes = object.bytes.subarray(0, size)
  const { createHash } = await import('node:crypto')
  const sha256 = createHash('sha256').update(bytes).digest('hex')
  await running.store.put(key, Readable.from([bytes]), { size, sha256 })
}

const batch = (body: unknown, auth: string | undefined = authorization, repository = 'foo/bar') =>
  post(`${running.url}/${repository}/info/lfs/objects/batch`, body, auth)
const asked = ({ oid, size }: Sample) => ({ oid, size })

beforeAll(async () => {
  running = await startOnFiles()
  authorization = await running.as('ada')
  stored = sample(1000)
  await store(stored)
})
afterAll(() => running.stop())

describe('what an answer says', () => {
  test('an upload by basic: signed PUT, verify with its own token, whole seconds', async () => {
    const object = sample(10)
    const { status, headers, json } = await batch({ operation: 'upload', objects: [asked(object)] })
    expect(status).toBe(200)
    expect(headers.get('content-type')).toBe(MEDIA_TYPE)
    expect(headers.get('cache-control')).toBe('no-store')
    expect(headers.get('x-request-id')).toMatch(/.+/)
    expect(batchFaults(json)).toEqual([])
    expect(json.transfer).toBe('basic')
    const [answer] = json.objects
    expect(answer).toMatchObject({ ...asked(object), authenticated: true })
    expect(answer.actions.upload.href).toContain(`${running.url}/foo/bar/object/${object.oid}?`)
    expect(answer.actions.upload.expires_in).toBe(3600)
    expect(answer.actions.verify.href).toBe(`${running.url}/foo/bar/info/lfs/objects/verify`)
    const token = answer.actions.verify.header.Authorization.replace('Bearer ', '')
    expect(await running.tokens.verify(token)).toMatchObject({
      use: 'verify',
      operation: 'upload',
      subject: 'ada',
    })
  })

  test('an upload by timone: the credentials route and a short-lived token for it, nothing of the store', async () => {
    const object = sample(10)
    const { json } = await batch({
      operation: 'upload',
      transfers: ['ssh', 'timone', 'basic'],
      objects: [asked(object)],
    })
    expect(batchFaults(json)).toEqual([])
    expect(json.transfer).toBe('timone')
    const { upload, verify } = json.objects[0].actions
    expect(upload.href).toBe(`${running.url}/foo/bar/info/lfs/credentials`)
    expect(Object.keys(upload.header)).toEqual(['Authorization'])
    const principal = await running.tokens.verify(upload.header.Authorization.replace('Bearer ', ''))
    expect(principal).toMatchObject({ use: 'transfer', operation: 'upload', subject: 'ada' })
    expect(principal.scopes).toEqual([{ noun: 'lfs', resource: 'foo/bar', level: 'rw' }])
    expect(verify).toBeDefined()
  })

  test('a download: no verify', async () => {
    for (const transfers of [['basic'], ['timone']]) {
      const { json } = await batch({ operation: 'download', transfers, objects: [asked(stored)] })
      expect(batchFaults(json)).toEqual([])
      expect(json.transfer).toBe(transfers[0])
      expect(Object.keys(json.objects[0].actions)).toEqual(['download'])
    }
  })

  test('nothing to do: no actions, and basic, so that git-lfs starts no agent', async () => {
    const { json } = await batch({
      operation: 'upload',
      transfers: ['timone', 'basic'],
      objects: [asked(stored)],
    })
    expect(json).toEqual({
      transfer: 'basic',
      hash_algo: 'sha256',
      objects: [{ ...asked(stored), authenticated: true }],
    })
    const absent = sample(5)
    const download = await batch({ operation: 'download', transfers: ['timone'], objects: [asked(absent)] })
    expect(download.json.transfer).toBe('basic')
    expect(download.json.objects[0].error.code).toBe(404)
  })

  test('a truncated object is asked for again on upload and an error on download', async () => {
    const damaged = sample(500)
    await store(damaged, 499)
    const upload = await batch({
      operation: 'upload',
      transfers: ['timone'],
      objects: [asked(damaged), asked(stored)],
    })
    expect(upload.json.transfer).toBe('timone')
    expect(upload.json.objects[0].actions.upload.header['Timone-Replace']).toBe('1')
    expect(upload.json.objects[1].actions).toBeUndefined()
    const basic = await batch({ operation: 'upload', objects: [asked(damaged)] })
    expect(basic.json.objects[0].actions.upload.href).toContain('replace=1')
    const download = await batch({ operation: 'download', objects: [asked(damaged)] })
    expect(download.json.objects[0].error).toMatchObject({ code: 422 })
    expect(download.json.objects[0].error.message).toMatch(/499.*500/)
  })

  test('every oid once, in the order asked, spelled as asked, whatever it is', async () => {
    const fresh = sample(3)
    const objects = [
      { oid: fresh.oid.toUpperCase(), size: 3 },
      asked(fresh),
      { oid: '../../etc/passwd', size: 1 },
      asked(stored),
      asked(fresh),
      { oid: '', size: 1 },
    ]
    const { json } = await batch({ operation: 'upload', objects })
    expect(json.objects.map((object: { oid: string }) => object.oid)).toEqual([
      fresh.oid.toUpperCase(),
      fresh.oid,
      '../../etc/passwd',
      stored.oid,
      '',
    ])
    expect(json.objects.map((object: { error?: { code: number } }) => object.error?.code)).toEqual([
      422,
      undefined,
      422,
      undefined,
      422,
    ])
  })

  test.each([-1, 1.5, 2 ** 53, 5 * 2 ** 40 + 1, '10', null, undefined, true])(
    'size %s: 422 for that object alone',
    async (size) => {
      const { oid } = sample(20)
      const { status, json } = await batch({ operation: 'upload', objects: [{ oid, size }, asked(stored)] })
      expect(status).toBe(200)
      expect(batchFaults(json)).toEqual([])
      expect(json.objects[0]).toMatchObject({ oid, size: 0, error: { code: 422 } })
      expect(json.objects[1].error).toBeUndefined()
    },
  )

  test('fields that nobody knows, a null ref and an empty object do not matter', async () => {
    const empty = sample(0)
    const { json } = await batch({
      operation: 'upload',
      ref: null,
      future: { a: [1] },
      transfers: null,
      hash_algo: 'sha256',
      objects: [{ ...asked(empty), more: true }],
    })
    expect(batchFaults(json)).toEqual([])
    expect(json.objects[0]).toMatchObject(asked(empty))
    expect(json.objects[0].actions.upload).toBeDefined()
  })
})

describe('requests that are wrong as a whole', () => {
  const object = { oid: 'a'.repeat(64), size: 1 }
  test.each<[string, unknown, number]>([
    ['not JSON', '{"operation":', 422],
    ['no body', '', 422],
    ['a list', [], 422],
    ['null', 'null', 422],
    ['no operation', { objects: [object] }, 422],
    ['another operation', { operation: 'delete', objects: [object] }, 422],
    ['no objects', { operation: 'upload' }, 422],
    ['objects null', { operation: 'upload', objects: null }, 422],
    ['an object without oid', { operation: 'upload', objects: [{ size: 1 }] }, 422],
    ['an oid that is a number', { operation: 'upload', objects: [{ oid: 7, size: 1 }] }, 422],
    ['transfers that are a name', { operation: 'upload', transfers: 'basic', objects: [object] }, 422],
    ['another hash', { operation: 'upload', hash_algo: 'sha512', objects: [object] }, 409],
    ['a hash that is a number', { operation: 'upload', hash_algo: 256, objects: [object] }, 422],
  ])('%s', async (_name, body, status) => {
    const answer = await batch(body)
    expect(answer.status).toBe(status)
    expect(answer.headers.get('content-type')).toBe(MEDIA_TYPE)
    expect(failureFaults(answer.json)).toEqual([])
    expect(answer.json.request_id).toBe(answer.headers.get('x-request-id'))
  })

  test.each<[string, string, number]>([
    ['4 million of what is no object', `[${'0,'.repeat(4_100_000)}0]`, 413],
    ['100 001 objects', `[${'{"oid":"a"},'.repeat(100_000)}{"oid":"a"}]`, 413],
    ['100 000 of what is no object', `[${'0,'.repeat(99_999)}0]`, 422],
  ])('%s are refused without much ado', async (_name, objects, status) => {
    const body = `{"operation":"download","objects":${objects}}`
    const answer = await batch(body)
    expect(answer.status).toBe(status)
    expect(failureFaults(answer.json)).toEqual([])
  })

  test('100 000 objects are answered, 101 names of transfers are not', async () => {
    const objects = Array.from({ length: 100_000 }, (_, index) => ({ oid: index.toString(36) }))
    const answer = await batch({ operation: 'download', objects })
    expect(answer.json.objects.length).toBe(100_000)
    const transfers = Array.from({ length: 101 }, (_, index) => `t${index}`)
    expect((await batch({ operation: 'download', transfers, objects: [] })).status).toBe(422)
    expect((await batch({ operation: 'download', transfers: transfers.slice(1), objects: [] })).status).toBe(
      200,
    )
  })

  test('a form is no JSON', async () => {
    const answer = await fetch(`${running.url}/foo/bar/info/lfs/objects/batch`, {
      method: 'POST',
      headers: { authorization, 'content-type': 'application/x-www-form-urlencoded' },
      body: 'a=b',
    })
    expect(answer.status).toBe(415)
    expect(failureFaults(await answer.json())).toEqual([])
  })

  test.each(['application/json', 'text/plain', ''])('content type "%s" is let through', async (type) => {
    const answer = await fetch(`${running.url}/foo/bar/info/lfs/objects/batch`, {
      method: 'POST',
      headers: { authorization, ...(type === '' ? {} : { 'content-type': type }) },
      body: Buffer.from(JSON.stringify({ operation: 'upload', objects: [object] })),
    })
    expect(answer.status).toBe(200)
    await answer.body?.cancel()
  })
})

describe('who may', () => {
  const object = { oid: 'b'.repeat(64), size: 1 }
  const upload = { operation: 'upload', objects: [object] }
  const download = { operation: 'download', objects: [object] }
  const basic = (user: string, token: string) => `Basic ${Buffer.from(`${user}:${token}`).toString('base64')}`

  test.each<[string, string | undefined, string, object, number]>([
    ['nobody, private', undefined, 'foo/bar', download, 401],
    ['nobody, public download', undefined, 'open/source', download, 200],
    ['nobody, public organisation', undefined, 'public/any', download, 200],
    ['nobody, public upload', undefined, 'open/source', upload, 401],
    ['full trust', 'full', 'foo/bar', upload, 200],
    ['reader downloads', 'lfs:foo/bar:r', 'foo/bar', download, 200],
    ['reader uploads', 'lfs:foo/bar:r', 'foo/bar', upload, 403],
    ['writer', 'lfs:foo/*:rw', 'foo/bar', upload, 200],
    ['stranger downloads', 'lfs:foo/other:rw', 'foo/bar', download, 404],
    ['stranger uploads', 'lfs:foo/other:rw', 'foo/bar', upload, 404],
    ['stranger, public download', 'lfs:foo/other:rw', 'open/source', download, 200],
    ['stranger, public upload', 'lfs:foo/other:rw', 'open/source', upload, 403],
    ['another noun', 'storage:*:rw', 'foo/bar', download, 404],
  ])('%s', async (_name, scope, repository, body, status) => {
    const auth = scope === undefined ? '' : await running.as('bob', scope)
    const answer = await post(
      `${running.url}/${repository}/info/lfs/objects/batch`,
      body,
      auth === '' ? undefined : auth,
    )
    expect(answer.status).toBe(status)
    if (status !== 200) expect(failureFaults(answer.json)).toEqual([])
    if (status === 401) {
      expect(answer.headers.get('lfs-authenticate')).toBe('Basic realm="timone"')
      expect(answer.headers.get('www-authenticate')).toBe('Basic realm="timone"')
    }
  })

  test('Basic with the token as password', async () => {
    const token = await running.tokens.issueUser({ user: 'bob' })
    expect((await batch(upload, basic('bob', token))).status).toBe(200)
    expect((await batch(upload, basic('x-access-token', token))).status).toBe(200)
    expect((await batch(upload, basic('eve', token))).status).toBe(401)
    expect((await batch(upload, basic('bob', 'nonsense'))).status).toBe(401)
    expect((await batch(upload, 'Negotiate abc')).status).toBe(401)
  })

  test.each(['transfer', 'renew', 'verify'] as const)(
    'a token made for %s does not open Batch',
    async (use) => {
      const token = await running.tokens.issueUse({
        use,
        subject: 'bob',
        repository: REPOSITORY,
        operation: 'upload',
        expiresIn: 60,
        authTime: Math.floor(Date.now() / 1000),
      })
      expect((await batch(upload, `Bearer ${token}`)).status).toBe(401)
    },
  )

  test('who is not let in learns nothing from a bad body', async () => {
    const answer = await post(`${running.url}/foo/bar/info/lfs/objects/batch`, '{{{')
    expect(answer.status).toBe(401)
  })

  test('the .git suffix and none are one repository', async () => {
    const { json } = await batch(
      { operation: 'download', objects: [asked(stored)] },
      authorization,
      'foo/bar.git',
    )
    expect(json.objects[0].actions.download).toBeDefined()
  })

  test('an object of another repository is as absent as any', async () => {
    const body = { operation: 'download', objects: [asked(stored), asked(sample(1000))] }
    const { json } = await batch(body, authorization, 'foo/other')
    const [there, nowhere] = json.objects
    expect(there.error).toEqual(nowhere.error)
    const again = await batch({ operation: 'upload', objects: [asked(stored)] }, authorization, 'foo/other')
    expect(again.json.objects[0].actions.upload).toBeDefined()
  })
})

describe('many objects', () => {
  test('10 000 in one request, each answered, look-ups bounded', async () => {
    let now = 0
    let most = 0
    const store = fakeStore({
      head: async () => {
        most = Math.max(most, ++now)
        await new Promise((resolve) => setImmediate(resolve))
        now--
        return undefined
      },
    })
    const other = await startOnFiles({ store })
    const objects = Array.from({ length: 10_000 }, (_, index) => ({
      oid: index.toString(16).padStart(64, '0'),
      size: index,
    }))
    const url = `${other.url}/foo/bar/info/lfs/objects/batch`
    const auth = await other.as('ada')
    const answers = await Promise.all(
      ['basic', 'timone', 'basic'].map((transfer) =>
        post(url, { operation: 'upload', transfers: [transfer], objects }, auth),
      ),
    )
    await other.stop()
    for (const { json } of answers) {
      expect(batchFaults(json)).toEqual([])
      expect(json.objects.map(({ oid }: Sample) => oid)).toEqual(objects.map(({ oid }) => oid))
      expect(json.objects.every((object: { actions?: object }) => object.actions !== undefined)).toBe(true)
    }
    expect(most).toBeGreaterThan(16)
    expect(most).toBeLessThanOrEqual(64)
  })

  test('an object seen for a download is not looked up again at once; for an upload it always is', async () => {
    let heads = 0
    let now = Date.now()
    const store = fakeStore({
      head: async () => {
        heads++
        return { size: 7, etag: '"x"' }
      },
    })
    const other = await startOnFiles({ store, now: () => now })
    const auth = await other.as('ada')
    const ask = (operation: string) =>
      post(
        `${other.url}/a/b/info/lfs/objects/batch`,
        { operation, objects: [{ oid: 'c'.repeat(64), size: 7 }] },
        auth,
      )
    await ask('download')
    await ask('download')
    expect(heads).toBe(1)
    await ask('upload')
    await ask('upload')
    expect(heads).toBe(3)
    now += 61_000
    await ask('download')
    expect(heads).toBe(4)
    await other.stop()
  })
})

describe('when the storage fails', () => {
  test.each<[TimoneError | Error, number, string | null]>([
    [new TimoneError('throttled', 'slow down', { retryAfter: 7.2 }), 429, '8'],
    [new TimoneError('throttled', 'slow down', { retryAfter: 9999 }), 429, '300'],
    [new TimoneError('unavailable', 'down'), 429, '5'],
    [new TimoneError('timeout', 'slow'), 429, '5'],
    [new TimoneError('connection', 'reset by 10.0.0.7'), 429, '5'],
    [new TimoneError('denied', 'access key AKIAEXAMPLE refused'), 500, null],
    [new TimoneError('no_such_bucket', 'bucket internal-name is gone'), 500, null],
    [new Error('a bug with a secret'), 500, null],
  ])('%s', async (error, status, retryAfter) => {
    const logged: object[] = []
    const log = (fields: object) => void logged.push(fields)
    const store = fakeStore({ head: () => Promise.reject(error) })
    const other = await startOnFiles({ store, logger: { debug: log, info: log, warn: log, error: log } })
    const objects = Array.from({ length: 50 }, (_, index) => ({ oid: `${index}`.padStart(64, '0'), size: 1 }))
    const answer = await post(
      `${other.url}/foo/bar/info/lfs/objects/batch`,
      { operation: 'upload', objects },
      await other.as('ada'),
    )
    await other.stop()
    expect(answer.status).toBe(status)
    expect(answer.headers.get('retry-after')).toBe(retryAfter)
    expect(failureFaults(answer.json)).toEqual([])
    expect(answer.json.message).not.toContain(error.message)
    expect(JSON.stringify(logged)).toContain(error.message)
  })
})

test('whatever is asked, the answer is one that git-lfs understands', async () => {
  const oid = fc.oneof(
    fc.string({ unit: fc.constantFrom(...'0123456789abcdef'), minLength: 64, maxLength: 64 }),
    fc.constant(stored.oid),
    fc.string(),
  )
  const size = fc.oneof(
    fc.nat(),
    fc.constant(stored.size),
    fc.double(),
    fc.integer(),
    fc.string(),
    fc.constant(null),
  )
  const transfers = fc.array(fc.constantFrom('basic', 'ssh', 'timone', 'x'))
  await fc.assert(
    fc.asyncProperty(
      fc.constantFrom('upload', 'download'),
      fc.option(transfers, { nil: undefined }),
      fc.array(fc.record({ oid, size }), { maxLength: 20 }),
      async (operation, offered, objects) => {
        const { status, json } = await batch({ operation, transfers: offered, objects })
        expect(status).toBe(200)
        expect(batchFaults(json)).toEqual([])
        const unique = [...new Set(objects.map((object) => object.oid))]
        expect(json.objects.map((object: { oid: string }) => object.oid)).toEqual(unique)
        for (const object of json.objects)
          expect(object.actions === undefined || object.error === undefined).toBe(true)
        if (json.transfer === 'timone') {
          expect(offered).toContain('timone')
          expect(json.objects.some((object: { actions?: object }) => object.actions !== undefined)).toBe(true)
        }
      },
    ),
    { numRuns: 60 },
  )
})
