import { createHash } from 'node:crypto'
import { once } from 'node:events'
import http from 'node:http'
import { Readable } from 'node:stream'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import type { HeldCredentials } from '../../src/access/client.ts'
import type { S3Credentials } from '../../src/access/credentials.ts'
import { HttpClient, readText } from '../../src/access/http-client.ts'
import { Retrier } from '../../src/access/retry.ts'
import type { PartBody, Upload } from '../../src/agent/object-access.ts'
import { S3Access } from '../../src/agent/s3-access.ts'
import { xmlText } from '../../src/agent/s3-response.ts'
import { TimoneError } from '../../src/errors.ts'
import { nullLogger } from '../../src/log.ts'
import type { Oid } from '../../src/oid.ts'

const HOUR = 3_600_000
const MIB = 2 ** 20

interface Asked {
  method: string
  path: string
  query: URLSearchParams
  headers: http.IncomingHttpHeaders
  body: Buffer
  /** When the signature says it was signed, milliseconds since the epoch. */
  signedAt: number
  /** Region in the signature. */
  region: string | undefined
  /** How many requests came before. */
  index: number
}

interface Reply {
  status: number
  headers?: Record<string, string>
  body?: string
}

/** A store whose answers each test writes. */
let server: http.Server
let origin: string
let asked: Asked[]
let reply: (request: Asked) => Reply
let storeClock: () => number
let client: HttpClient
const signal = new AbortController().signal

beforeEach(async () => {
  asked = []
  storeClock = Date.now
  server = http.createServer(async (request, response) => {
    const chunks: Buffer[] = []
    for await (const chunk of request) chunks.push(chunk as Buffer)
    const url = new URL(request.url ?? '', origin)
    const stamp = String(request.headers['x-amz-date'])
    const one: Asked = {
      method: request.method ?? '',
      path: url.pathname,
      query: url.searchParams,
      headers: request.headers,
      body: Buffer.concat(chunks),
      signedAt: Date.parse(stamp.replace(/^(\d{4})(\d\d)(\d\d)T(\d\d)(\d\d)(\d\d)Z$/, '$1-$2-$3T$4:$5:$6Z')),
      region: /Credential=[^/]+\/\d+\/([^/]+)\/s3/.exec(request.headers.authorization ?? '')?.[1],
      index: asked.length,
    }
    asked.push(one)
    const { status, headers, body } = reply(one)
    response.sendDate = false
    response.writeHead(status, { date: new Date(storeClock()).toUTCString(), ...headers })
    response.end(body ?? '')
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  origin = `http://127.0.0.1:${(server.address() as { port: number }).port}`
  client = new HttpClient(async () => ({}))
})
afterEach(async () => {
  await client.close()
  server.closeAllConnections()
  server.close()
})

const error = (status: number, code: string, more: Partial<Reply> & { extra?: string } = {}): Reply => ({
  status,
  headers: more.headers ?? {},
  body: `<?xml version="1.0"?><Error><Code>${code}</Code><Message>words</Message>${more.extra ?? ''}<RequestId>tx-1</RequestId></Error>`,
})
const ok = (headers: Record<string, string> = {}, body = ''): Reply => ({ status: 200, headers, body })

let generation = 0
function held(more: Partial<HeldCredentials> = {}): HeldCredentials {
  generation++
  const answer: S3Credentials = {
    driver: 's3',
    endpoint: origin,
    region: 'eu-west-1',
    bucket: 'bucket',
    prefix: 'org/repo/',
    force_path_style: true,
    access_key_id: `key-${generation}`,
    secret_access_key: 'secret',
    session_token: 'session',
    expires_at: new Date(Date.now() + HOUR).toISOString(),
    renew: { href: `${origin}/renew`, token: 't', expires_at: new Date().toISOString() },
  }
  return { answer, expiresAt: Date.now() + HOUR, clockOffset: 0, ...more }
}

/** Access whose credentials are fetched anew when the store refused them; `fetched` counts. */
function access(
  options: { retries?: number; isPresent?: () => boolean; first?: HeldCredentials } = {},
): S3Access & { fetched: () => number } {
  let current = options.first ?? held()
  let fetched = 1
  const made = new S3Access({
    send: client.send,
    retrier: new Retrier({ retries: options.retries ?? 3, maxDelay: 0.01 }),
    credentials: async (stale) => {
      if (stale === current) {
        current = held()
        fetched++
      }
      return current
    },
    endpoint: origin,
    isPresent: async () => options.isPresent?.() ?? false,
    log: nullLogger,
  })
  return Object.assign(made, { fetched: () => fetched })
}

const content = Buffer.from('the content')
const oid = createHash('sha256').update(content).digest('hex') as Oid
const path = `/bucket/org/repo/${oid.slice(0, 2)}/${oid.slice(2, 4)}/${oid}`
const bodyOf = (bytes: Buffer, digest?: string): PartBody => ({ open: () => Readable.from([bytes]), digest })

/** Sends the small object in one request. */
async function putSmall(subject: S3Access, replace = false): Promise<void> {
  const upload = await subject.openUpload(oid, content.length, { partSize: 16 * MIB, replace, signal })
  for (const part of upload.missing) await upload.putPart(part, bodyOf(content), signal)
  await upload.complete(signal)
}

const failure = (work: Promise<unknown>): Promise<TimoneError> =>
  work.then(
    () => {
      throw new Error('it did not fail')
    },
    (reason: unknown) => reason as TimoneError,
  )

describe('one request', () => {
  test('is bound to the oid, goes to the key of the layout, and never overwrites', async () => {
    reply = () => ok({ etag: '"e"' })
    await putSmall(access())
    expect(asked).toHaveLength(1)
    const [put] = asked as [Asked]
    expect(put).toMatchObject({ method: 'PUT', path, body: content })
    expect(put.headers).toMatchObject({
      'x-amz-content-sha256': oid,
      'if-none-match': '*',
      'x-amz-security-token': 'session',
      'content-length': String(content.length),
    })
    expect(put.headers.authorization).toMatch(/SignedHeaders=[^,]*if-none-match;[^,]*x-amz-content-sha256/)
  })

  test('412: it is there already, which is success', async () => {
    reply = () => error(412, 'PreconditionFailed')
    await putSmall(access())
    expect(asked).toHaveLength(1)
  })

  test('a damaged object is replaced without a condition', async () => {
    reply = () => ok()
    await putSmall(access(), true)
    expect(asked[0]?.headers['if-none-match']).toBeUndefined()
  })

  test('501 to the condition: once more without, and never again with it', async () => {
    reply = ({ headers }) => (headers['if-none-match'] === undefined ? ok() : error(501, 'NotImplemented'))
    const subject = access({ retries: 0 })
    await putSmall(subject)
    await putSmall(subject)
    expect(asked.map(({ headers }) => headers['if-none-match'])).toEqual(['*', undefined, undefined])
  })

  test('XAmzContentSHA256Mismatch: the file is not its oid; no second try', async () => {
    reply = () => error(400, 'XAmzContentSHA256Mismatch')
    const said = await failure(putSmall(access()))
    expect(said).toMatchObject({ code: 'hash_mismatch', status: 400, requestId: 'tx-1' })
    expect(asked).toHaveLength(1)
  })

  test.each([
    [404, 'NoSuchBucket', 'no_such_bucket', /bucket does not exist.*TIMONE_STORAGE_S3_BUCKET/],
    [403, 'AccessDenied', 'denied', /role and the bucket policy/],
    [403, 'SignatureDoesNotMatch', 'denied', /storage keys/],
    [403, 'InvalidAccessKeyId', 'denied', /does not know the access key/],
    [403, 'QuotaExceeded', 'disk_full', /quota/],
  ])('%i %s: %s, told once', async (status, s3Code, code, message) => {
    reply = () => error(status, s3Code)
    const said = await failure(putSmall(access()))
    expect(said).toMatchObject({ code, status, message: expect.stringMatching(message) })
    expect(said.message).toContain(new URL(origin).host)
    expect(said.message).toContain('tx-1')
    expect(asked).toHaveLength(1)
  })

  test.each([
    [500, 'InternalError'],
    [503, 'SlowDown'],
    [503, 'ServiceUnavailable'],
    [429, 'TooManyRequests'],
    [409, 'OperationAborted'],
    [409, 'ConditionalRequestConflict'],
    [400, 'RequestTimeout'],
  ])('%i %s is tried again', async (status, code) => {
    reply = ({ index }) => (index < 2 ? error(status, code) : ok())
    await putSmall(access())
    expect(asked).toHaveLength(3)
    expect(asked.every(({ body }) => body.equals(content))).toBe(true)
  })

  test('a page of a proxy instead of XML is judged by its status', async () => {
    reply = () => ({ status: 403, body: '<html>Blocked by policy</html>' })
    expect(await failure(putSmall(access()))).toMatchObject({ code: 'denied', status: 403 })
  })
})

describe('the clock', () => {
  const skewed = (): Reply => error(403, 'RequestTimeTooSkewed')

  test.each([
    ['ahead of', HOUR],
    ['behind', -HOUR],
  ])(
    'an hour %s ours: corrected once by the Date of the answer, then right for all',
    async (_where, offset) => {
      storeClock = () => Date.now() + offset
      reply = ({ signedAt }) => (Math.abs(signedAt - storeClock()) > 300_000 ? skewed() : ok())
      const subject = access()
      await putSmall(subject)
      await putSmall(subject)
      expect(asked).toHaveLength(3)
      for (const { signedAt } of asked.slice(1)) expect(Math.abs(signedAt - storeClock())).toBeLessThan(5000)
    },
  )

  test('what the server said about the clock is used from the first request on', async () => {
    storeClock = () => Date.now() + HOUR
    reply = ({ signedAt }) => (Math.abs(signedAt - storeClock()) > 300_000 ? skewed() : ok())
    await putSmall(access({ first: held({ clockOffset: HOUR }) }))
    expect(asked).toHaveLength(1)
  })

  test('skewed whatever we do: two requests, and an error that names the clock', async () => {
    storeClock = () => Date.now() + HOUR
    reply = skewed
    const said = await failure(putSmall(access()))
    expect(said).toMatchObject({
      code: 'clock_skew',
      message: expect.stringMatching(/this machine’s clock.*set it/),
    })
    expect(asked).toHaveLength(2)
  })

  test('an answer without a Date corrects nothing', async () => {
    reply = () => error(403, 'RequestTimeTooSkewed', { headers: { date: 'nonsense' } })
    expect((await failure(putSmall(access()))).code).toBe('clock_skew')
    expect(asked).toHaveLength(1)
  })
})

describe('another region', () => {
  test.each([
    [301, 'PermanentRedirect', { headers: { 'x-amz-bucket-region': 'us-east-2' } }],
    [400, 'AuthorizationHeaderMalformed', { headers: { 'x-amz-bucket-region': 'us-east-2' } }],
    [400, 'AuthorizationHeaderMalformed', { extra: '<Region>us-east-2</Region>' }],
  ])('%i %s: signed anew for the region that was named, and kept', async (status, code, more) => {
    reply = ({ region }) => (region === 'us-east-2' ? ok() : error(status, code, more))
    const subject = access()
    await putSmall(subject)
    await putSmall(subject)
    expect(asked.map(({ region }) => region)).toEqual(['eu-west-1', 'us-east-2', 'us-east-2'])
  })

  test('at most two hops', async () => {
    reply = ({ index }) =>
      error(301, 'PermanentRedirect', { headers: { 'x-amz-bucket-region': `region-${index}` } })
    const said = await failure(putSmall(access()))
    expect(said).toMatchObject({
      code: 'wrong_region',
      message: expect.stringMatching(/TIMONE_STORAGE_S3_REGION/),
    })
    expect(asked.map(({ region }) => region)).toEqual(['eu-west-1', 'region-0', 'region-1'])
  })

  test('one that names no other region is not asked again', async () => {
    reply = () => error(301, 'PermanentRedirect')
    expect((await failure(putSmall(access()))).code).toBe('wrong_region')
    expect(asked).toHaveLength(1)
  })

  test.each([301, 302, 307, 308])('%i to another host is never followed', async (status) => {
    let visits = 0
    const other = http.createServer((_request, response) => {
      visits++
      response.end()
    })
    other.listen(0, '127.0.0.1')
    await once(other, 'listening')
    const location = `http://127.0.0.1:${(other.address() as { port: number }).port}/`
    reply = () =>
      error(status, 'TemporaryRedirect', {
        headers: { location, 'x-amz-bucket-region': 'us-east-2' },
        extra: `<Endpoint>${location}</Endpoint>`,
      })
    expect((await failure(putSmall(access()))).code).toBe('wrong_region')
    const response = await failure(access().get(oid, 1, { offset: 0, signal }))
    expect(response.code).toBe('wrong_region')
    expect(visits).toBe(0)
    other.close()
  })
})

describe('credentials', () => {
  test.each([
    [400, 'ExpiredToken'],
    [403, 'ExpiredToken'],
    [400, 'InvalidToken'],
  ])('%i %s: fetched anew once, and the request again', async (status, code) => {
    reply = ({ index }) => (index === 0 ? error(status, code) : ok())
    const subject = access()
    await putSmall(subject)
    expect(subject.fetched()).toBe(2)
    expect(asked).toHaveLength(2)
    expect(asked[0]?.headers.authorization).not.toBe(asked[1]?.headers.authorization)
  })

  test('refused again and again: the loop ends at once', async () => {
    reply = () => error(400, 'ExpiredToken')
    const subject = access()
    const said = await failure(putSmall(subject))
    expect(said).toMatchObject({ code: 'credentials_expired', message: expect.stringMatching(/expired/) })
    expect(asked).toHaveLength(2)
    expect(subject.fetched()).toBe(2)
  })

  test('AccessDenied with credentials whose time is over is taken for expiry', async () => {
    reply = ({ index }) => (index === 0 ? error(403, 'AccessDenied') : ok())
    const subject = access({ first: held({ expiresAt: Date.now() - 1000 }) })
    await putSmall(subject)
    expect(subject.fetched()).toBe(2)
  })
})

describe('multipart', () => {
  const size = 12 * MIB
  const partSize = 5 * MIB
  const open = (subject: S3Access, resumeId?: string): Promise<Upload> =>
    subject.openUpload(oid, size, {
      partSize,
      replace: false,
      signal,
      ...(resumeId === undefined ? {} : { resumeId }),
    })
  const CREATED = ok(
    {},
    '<InitiateMultipartUploadResult><UploadId>id-1</UploadId></InitiateMultipartUploadResult>',
  )
  const COMPLETED = ok({}, '<CompleteMultipartUploadResult><ETag>"x"</ETag></CompleteMultipartUploadResult>')
  const isCreate = ({ query }: Asked): boolean => query.has('uploads')
  const isComplete = ({ method, query }: Asked): boolean => method === 'POST' && query.has('uploadId')
  const isAbort = ({ method }: Asked): boolean => method === 'DELETE'

  /** The usual store, but for what `special` answers. */
  const store =
    (special: (request: Asked) => Reply | undefined = () => undefined) =>
    (request: Asked): Reply => {
      const own = special(request)
      if (own !== undefined) return own
      if (isCreate(request)) return CREATED
      if (isComplete(request)) return COMPLETED
      if (isAbort(request)) return { status: 204 }
      return ok({ etag: `"part-${request.query.get('partNumber')}"` })
    }

  async function send(upload: Upload): Promise<void> {
    for (const part of upload.missing) {
      const bytes = Buffer.alloc(part.size, part.number)
      await upload.putPart(part, bodyOf(bytes, createHash('sha256').update(bytes).digest('hex')), signal)
    }
    await upload.complete(signal)
  }

  test('each part is signed with its own hash; completion names all of them, and only creates', async () => {
    reply = store()
    await send(await open(access()))
    const parts = asked.filter(({ method }) => method === 'PUT')
    expect(parts.map(({ query, body }) => [query.get('partNumber'), body.length])).toEqual([
      ['1', 5 * MIB],
      ['2', 5 * MIB],
      ['3', 2 * MIB],
    ])
    for (const { headers, body, query } of parts) {
      expect(headers['x-amz-content-sha256']).toBe(createHash('sha256').update(body).digest('hex'))
      expect(query.get('uploadId')).toBe('id-1')
    }
    const complete = asked.find(isComplete)
    expect(complete?.headers['if-none-match']).toBe('*')
    const named = complete?.body.toString().match(/<PartNumber>\d+<\/PartNumber><ETag>[^<]*<\/ETag>/g)
    expect(named).toEqual(
      [1, 2, 3].map((number) => `<PartNumber>${number}</PartNumber><ETag>&quot;part-${number}&quot;</ETag>`),
    )
  })

  test('an ETag with entities and odd characters is given back as the same text', async () => {
    const listed = '&quot;a&amp;b&lt;c&gt;&apos;d&#34;'
    reply = store((request) =>
      request.method === 'GET'
        ? ok(
            {},
            `<ListPartsResult><IsTruncated>false</IsTruncated><Part><PartNumber>1</PartNumber><ETag>${listed}</ETag><Size>${partSize}</Size></Part></ListPartsResult>`,
          )
        : undefined,
    )
    const upload = await open(access(), 'id-1')
    expect(upload.missing.map(({ number }) => number)).toEqual([2, 3])
    await send(upload)
    const body = asked.find(isComplete)?.body.toString() ?? ''
    // Apostrophes and > need no escape between tags (XML 1.0, section 2.4).
    expect(body).toContain(`<Part><PartNumber>1</PartNumber><ETag>&quot;a&amp;b&lt;c>'d&quot;</ETag></Part>`)
  })

  test('a list of more than 1000 parts is read to its end', async () => {
    const total = 2500
    const large = total * partSize
    reply = store((request) => {
      if (request.method !== 'GET') return undefined
      const from = Number(request.query.get('part-number-marker'))
      const until = Math.min(from + 1000, 2400)
      const parts = Array.from(
        { length: until - from },
        (_, index) =>
          `<Part><PartNumber>${from + index + 1}</PartNumber><ETag>"e"</ETag><Size>${partSize}</Size></Part>`,
      )
      return ok(
        {},
        `<ListPartsResult><NextPartNumberMarker>${until}</NextPartNumberMarker><IsTruncated>${until < 2400}</IsTruncated>${parts.join('')}</ListPartsResult>`,
      )
    })
    const upload = await access().openUpload(oid, large, {
      resumeId: 'id-1',
      partSize,
      replace: false,
      signal,
    })
    expect(asked.map(({ query }) => query.get('part-number-marker'))).toEqual(['0', '1000', '2000'])
    expect(upload.missing).toHaveLength(100)
    expect(upload.missing[0]?.number).toBe(2401)
  })

  test('a list that never ends is given up', async () => {
    reply = store((request) =>
      request.method === 'GET'
        ? ok(
            {},
            '<ListPartsResult><NextPartNumberMarker>7</NextPartNumberMarker><IsTruncated>true</IsTruncated></ListPartsResult>',
          )
        : undefined,
    )
    expect((await open(access(), 'id-1')).missing).toHaveLength(3)
    expect(asked).toHaveLength(2)
  })

  test('a part of another size than planned is sent again', async () => {
    reply = store((request) =>
      request.method === 'GET'
        ? ok(
            {},
            `<ListPartsResult><IsTruncated>false</IsTruncated><Part><PartNumber>1</PartNumber><ETag>"e"</ETag><Size>17</Size></Part><Part><PartNumber>2</PartNumber><ETag>"e"</ETag><Size>${partSize}</Size></Part></ListPartsResult>`,
          )
        : undefined,
    )
    expect((await open(access(), 'id-1')).missing.map(({ number }) => number)).toEqual([1, 3])
  })

  test.each([
    [404, 'NoSuchUpload'],
    [404, 'NoSuchKey'],
  ])('%i %s for a remembered upload means that it is gone', async (status, code) => {
    reply = () => error(status, code)
    expect((await failure(open(access(), '../../x'))).code).toBe('no_such_upload')
    // The id is data in the query, wherever it came from.
    expect(asked[0]).toMatchObject({ path })
    expect(asked[0]?.query.get('uploadId')).toBe('../../x')
  })

  test('5 TiB in at most 10 000 parts', async () => {
    reply = store()
    const upload = await access().openUpload(oid, 5 * 2 ** 40, { partSize, replace: false, signal })
    expect(upload.missing.length).toBeLessThanOrEqual(10_000)
    expect(upload.missing.reduce((sum, part) => sum + part.size, 0)).toBe(5 * 2 ** 40)
  })

  test('completion: 200 with an <Error> in it is tried again', async () => {
    let times = 0
    reply = store((request) => {
      if (!isComplete(request) || ++times > 2) return undefined
      return { ...error(200, 'InternalError'), status: 200 }
    })
    await send(await open(access()))
    expect(asked.filter(isComplete)).toHaveLength(3)
  })

  test('completion: 200 with an <Error> at every try is a failure', async () => {
    reply = store((request) => (isComplete(request) ? error(200, 'InternalError') : undefined))
    const said = await failure(open(access({ retries: 2 })).then(send))
    expect(said).toMatchObject({ code: 'unavailable', message: expect.stringMatching(/InternalError/) })
    expect(asked.filter(isComplete)).toHaveLength(3)
  })

  test('completion: 200 with an <Error> that cannot get better is not tried again', async () => {
    reply = store((request) => (isComplete(request) ? error(200, 'AccessDenied') : undefined))
    expect((await failure(open(access()).then(send))).code).toBe('denied')
    expect(asked.filter(isComplete)).toHaveLength(1)
  })

  test('completion: an answer that is neither is no success', async () => {
    reply = store((request) => (isComplete(request) ? ok({}, '') : undefined))
    expect((await failure(open(access({ retries: 1 })).then(send))).code).toBe('unavailable')
    expect(asked.filter(isComplete)).toHaveLength(2)
  })

  test('completion: 412 means that it is there; what was sent is dropped', async () => {
    reply = store((request) => (isComplete(request) ? error(412, 'PreconditionFailed') : undefined))
    await send(await open(access()))
    expect(asked.filter(isAbort)).toHaveLength(1)
  })

  test('completion: 501 to the condition, once more without it', async () => {
    reply = store((request) =>
      isComplete(request) && request.headers['if-none-match'] !== undefined
        ? error(501, 'NotImplemented')
        : undefined,
    )
    await send(await open(access({ retries: 0 })))
    expect(asked.filter(isComplete).map(({ headers }) => headers['if-none-match'])).toEqual(['*', undefined])
  })

  test('completion: an upload that is gone is success only when the server sees the object', async () => {
    reply = store((request) => (isComplete(request) ? error(404, 'NoSuchUpload') : undefined))
    await send(await open(access({ isPresent: () => true })))
    expect((await failure(open(access({ isPresent: () => false })).then(send))).code).toBe('no_such_upload')
  })

  test('a part that is stored without an ETag is sent again', async () => {
    let times = 0
    reply = store(({ method }) => (method === 'PUT' && times++ === 0 ? ok() : undefined))
    await send(await open(access()))
    expect(asked.filter(({ method }) => method === 'PUT')).toHaveLength(4)
  })

  test('an answer without an upload id is tried again, then told', async () => {
    reply = store((request) => (isCreate(request) ? ok({}, '<Result/>') : undefined))
    const said = await failure(open(access({ retries: 1 })))
    expect(said).toMatchObject({ code: 'unavailable', message: expect.stringMatching(/no upload id/) })
    expect(asked).toHaveLength(2)
  })
})

test.each([
  ['&quot;a&quot;', '"a"'],
  ['&#34;a&#x22;', '"a"'],
  ['&amp;lt;', '&lt;'],
  ['&lt;b&gt; &apos;', "<b> '"],
  ['', ''],
])('xmlText of %j', (inner, text) => {
  expect(xmlText(`<A><ETag>${inner}</ETag><ETag>second</ETag></A>`, 'ETag')).toBe(text)
  expect(xmlText('<A></A>', 'ETag')).toBeUndefined()
})

describe('get', () => {
  test('asks for the rest under the same tag, and gives 200 and 206 as they are', async () => {
    reply = ({ headers }) =>
      headers.range === undefined ? ok({ etag: '"t"' }, 'whole') : { status: 206, body: 'rest' }
    const subject = access()
    const whole = await subject.get(oid, 5, { offset: 0, signal })
    expect([whole.status, await readText(whole)]).toEqual([200, 'whole'])
    const rest = await subject.get(oid, 5, { offset: 2, etag: '"t"', signal })
    expect([rest.status, await readText(rest)]).toEqual([206, 'rest'])
    expect(asked[1]?.headers).toMatchObject({ range: 'bytes=2-4', 'if-match': '"t"' })
  })

  test.each([
    [404, 'NoSuchKey', 'not_found'],
    [412, 'PreconditionFailed', 'precondition_failed'],
    [416, 'InvalidRange', 'size_mismatch'],
    [500, 'InternalError', 'unavailable'],
  ])('%i %s is %s', async (status, s3Code, code) => {
    reply = () => error(status, s3Code)
    const said = await failure(access().get(oid, 5, { offset: 0, signal }))
    expect(said).toBeInstanceOf(TimoneError)
    expect(said.code).toBe(code)
  })
})
