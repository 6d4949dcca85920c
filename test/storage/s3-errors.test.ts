import { createHash } from 'node:crypto'
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { Readable } from 'node:stream'
import { buffer } from 'node:stream/consumers'
import { afterEach, describe, expect, test } from 'vitest'
import { TimoneError } from '../../src/errors.ts'
import { createS3Client } from '../../src/storage/s3-client.ts'
import { createS3Store, type S3Store } from '../../src/storage/s3-store.ts'

const SECRET = 'the-secret-key-of-this-test'
const MIB = 2 ** 20

interface Scripted {
  store: S3Store
  /** `METHOD path?query` of each request. */
  requests: string[]
}

const closing: (() => Promise<void>)[] = []
afterEach(async () => {
  for (const close of closing.splice(0)) await close()
})

/** A store that talks to a server that answers as `answer` says: for what a sound S3 server cannot be made to do. */
async function scripted(
  answer: (req: IncomingMessage, res: ServerResponse, count: number) => void,
  checksums: 'when_required' | 'when_supported' = 'when_required',
): Promise<Scripted> {
  const requests: string[] = []
  const server = createServer((req, res) => {
    requests.push(`${req.method} ${req.url}`)
    answer(req, res, requests.length)
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  closing.push(
    () =>
      new Promise((resolve) => {
        server.close(() => resolve())
        server.closeAllConnections()
      }),
  )
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`
  return { store: storeAt(url, checksums), requests }
}

function storeAt(url: string, checksums: 'when_required' | 'when_supported' = 'when_required'): S3Store {
  return createS3Store({
    url,
    region: 'eu-west-1',
    bucket: 'lfs',
    credentials: { accessKeyId: 'AKIDTEST', secretAccessKey: SECRET },
    forcePathStyle: true,
    checksums,
  })
}

const xml = (code: string, more = '') =>
  `<?xml version="1.0"?><Error><Code>${code}</Code><Message>what the store says</Message>${more}<RequestId>in-body</RequestId></Error>`
const refuse = (
  res: ServerResponse,
  status: number,
  code: string,
  headers: Record<string, string> = {},
  more = '',
) => {
  res.writeHead(status, { 'x-amz-request-id': 'tx0001', 'content-type': 'application/xml', ...headers })
  res.end(xml(code, more))
}
const failure = async (promise: Promise<unknown>): Promise<TimoneError> => {
  const error = await promise.then(
    () => expect.unreachable('it should fail'),
    (reason: unknown) => reason,
  )
  expect(error).toBeInstanceOf(TimoneError)
  const { message } = error as TimoneError
  expect(message).not.toMatch(/\n/)
  for (const secret of [SECRET, 'AKIDTEST', 'X-Amz-Signature', 'Signature='])
    expect(message).not.toContain(secret)
  return error as TimoneError
}
const hash = (bytes: Buffer) => createHash('sha256').update(bytes).digest('hex')

describe('what the store answers', () => {
  test.each([
    [403, 'AccessDenied', 'denied'],
    [403, 'InvalidAccessKeyId', 'denied'],
    [403, 'SignatureDoesNotMatch', 'denied'],
    [400, 'ExpiredToken', 'credentials_expired'],
    [400, 'InvalidToken', 'denied'],
    [403, 'RequestTimeTooSkewed', 'clock_skew'],
    [404, 'NoSuchKey', 'not_found'],
    [404, 'NoSuchBucket', 'no_such_bucket'],
    [400, 'AuthorizationHeaderMalformed', 'wrong_region'],
    [301, 'PermanentRedirect', 'wrong_region'],
    [400, 'BadDigest', 'hash_mismatch'],
    [400, 'XAmzContentSHA256Mismatch', 'hash_mismatch'],
    [400, 'RequestTimeout', 'timeout'],
    [412, 'PreconditionFailed', 'precondition_failed'],
    [416, 'InvalidRange', 'invalid'],
    [403, 'QuotaExceeded', 'disk_full'],
    [507, 'XMinioStorageFull', 'disk_full'],
    [400, 'SomethingNew', 'invalid'],
    [418, 'SomethingNew', 'invalid'],
    [429, 'TooManyRequests', 'throttled'],
    [503, 'SlowDown', 'throttled'],
    [503, 'ServiceUnavailable', 'unavailable'],
    [500, 'InternalError', 'unavailable'],
    [502, 'BadGateway', 'unavailable'],
    [400, 'toString', 'invalid'],
  ] as const)('%i %s is %s', async (status, name, code) => {
    const { store } = await scripted((_req, res) => refuse(res, status, name))
    const error = await failure(store.get('org/repo/key'))
    expect(error).toMatchObject({
      code,
      status,
      requestId: 'tx0001',
      host: new URL(store.location.endpoint).host,
    })
    expect(error.message).toContain('org/repo/key')
    expect(error.message).toContain(name)
    expect(error.message).toContain(`HTTP ${status}`)
    expect(error.message).toContain('tx0001')
  })

  test('nothing that holds the request is passed on', async () => {
    const { store } = await scripted((_req, res) => refuse(res, 403, 'AccessDenied'))
    const error = await failure(store.get('org/repo/key'))
    expect(error.cause).toBeUndefined()
  })

  test('tries again after trouble, four times in all', async () => {
    const { store, requests } = await scripted((_req, res) => refuse(res, 503, 'SlowDown'))
    await failure(store.head('org/repo/key'))
    expect(requests).toHaveLength(4)
  })

  test('a second try that works is all the caller sees', async () => {
    const { store } = await scripted((_req, res, count) => {
      if (count === 1) return refuse(res, 500, 'InternalError')
      res.writeHead(200, { etag: '"x"', 'content-length': '5' }).end()
    })
    expect(await store.head('org/repo/key')).toEqual({ size: 5, etag: '"x"' })
  })

  test('never repeats what cannot get better', async () => {
    const { store, requests } = await scripted((_req, res) => refuse(res, 403, 'AccessDenied'))
    await failure(store.get('org/repo/key'))
    expect(requests).toHaveLength(1)
  })

  test('Retry-After is passed on', async () => {
    const { store } = await scripted((_req, res) =>
      refuse(res, 429, 'TooManyRequests', { 'retry-after': '0' }),
    )
    expect(await failure(store.get('org/repo/key'))).toMatchObject({ code: 'throttled', retryAfter: 0 })
  })

  test.each([
    ['in a header', { 'x-amz-bucket-region': 'us-west-2' }, ''],
    ['in the body', {}, '<Region>us-west-2</Region>'],
  ])('the right region, %s, is in the message', async (_, headers, more) => {
    const { store } = await scripted((_req, res) =>
      refuse(res, 400, 'AuthorizationHeaderMalformed', headers, more),
    )
    const { message } = await failure(store.get('org/repo/key'))
    expect(message).toContain('us-west-2')
    expect(message).toContain('eu-west-1')
  })

  test('a page that is no S3 answer is trouble, not success', async () => {
    const { store } = await scripted((_req, res) => res.writeHead(502).end('<html>Bad Gateway</html>'))
    expect(await failure(store.get('org/repo/key'))).toMatchObject({ code: 'unavailable', status: 502 })
  })
})

describe('head, whose answers have no body', () => {
  const bare = (answers: (get: boolean) => [number, string]) =>
    scripted((req, res) => {
      const [status, code] = answers(req.method === 'GET')
      if (req.method === 'HEAD') res.writeHead(status).end()
      else refuse(res, status, code)
    })

  test.each([
    [403, 'AccessDenied', 'denied'],
    [403, 'RequestTimeTooSkewed', 'clock_skew'],
    [400, 'ExpiredToken', 'credentials_expired'],
    [400, 'AuthorizationHeaderMalformed', 'wrong_region'],
    [404, 'NoSuchBucket', 'no_such_bucket'],
  ] as const)('%i: asks once more for the reason %s', async (status, name, code) => {
    const { store } = await bare(() => [status, name])
    expect(await failure(store.head('org/repo/key'))).toMatchObject({ code })
  })

  test('a bucket that was seen once is not asked for again', async () => {
    const { store, requests } = await bare(() => [404, 'NoSuchKey'])
    expect(await store.head('org/repo/one')).toBeUndefined()
    expect(await store.head('org/repo/two')).toBeUndefined()
    expect(await store.head('org/repo/three')).toBeUndefined()
    expect(requests).toEqual([
      'HEAD /lfs/org/repo/one',
      'GET /lfs/org/repo/one?x-id=GetObject',
      'HEAD /lfs/org/repo/two',
      'HEAD /lfs/org/repo/three',
    ])
  })
})

describe('the connection', () => {
  test('a closed port is connection', async () => {
    const server = createServer()
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
    const { port } = server.address() as AddressInfo
    await new Promise((resolve) => server.close(resolve))
    const error = await failure(storeAt(`http://127.0.0.1:${port}`).check())
    expect(error).toMatchObject({ code: 'connection', status: undefined, host: `127.0.0.1:${port}` })
    expect(error.message).toContain('ECONNREFUSED')
  })

  test('a name that does not exist is dns', async () => {
    // RFC 6761, section 6.4: `invalid` never resolves.
    expect(await failure(storeAt('http://s3.timone.invalid').check())).toMatchObject({ code: 'dns' })
  })

  test('a reset is connection', async () => {
    const { store } = await scripted((req) => req.socket.destroy())
    expect(await failure(store.get('org/repo/key'))).toMatchObject({ code: 'connection' })
  })

  test('a server that speaks no TLS is tls', async () => {
    const { store } = await scripted((_req, res) => res.end())
    const url = store.location.endpoint.replace('http:', 'https:')
    expect(await failure(storeAt(url).check())).toMatchObject({ code: 'tls' })
  })

  test('a body that breaks off is an error of its own', async () => {
    const { store } = await scripted((_req, res) => {
      res.writeHead(200, { 'content-length': '1000', etag: '"x"' })
      res.write(Buffer.alloc(500), () => res.destroy())
    })
    const { body, size } = await store.get('org/repo/key')
    expect(size).toBe(1000)
    expect(await failure(buffer(body))).toMatchObject({ code: 'connection' })
  })

  test('a server that accepts and never answers: the caller’s deadline counts, and it is a time-out', async () => {
    const { store } = await scripted(() => {})
    const signal = AbortSignal.timeout(50)
    expect(await failure(store.get('org/repo/key', { signal }))).toMatchObject({ code: 'timeout' })
    expect(await failure(store.check({ signal: AbortSignal.abort() }))).toMatchObject({ code: 'cancelled' })
  })

  test('every request has an idle and a connection time-out', async () => {
    const client = createS3Client(storeAt('http://127.0.0.1:1').location, { checksums: 'when_required' })
    const handler = client.config.requestHandler as { configProvider?: Promise<object> }
    expect(await handler.configProvider).toMatchObject({ socketTimeout: 60_000, connectionTimeout: 10_000 })
  })
})

describe('a store without conditional requests', () => {
  /** Refuses `If-None-Match` as R2 and older stores did, keeps objects in memory. */
  const plain = () => {
    const objects = new Map<string, Buffer>()
    return scripted(async (req, res) => {
      const path = (req.url ?? '').replace(/\?.*/, '')
      if (req.headers['if-none-match'] !== undefined) {
        req.resume().once('end', () => refuse(res, 501, 'NotImplemented'))
        return
      }
      if (req.method === 'PUT') {
        objects.set(path, await buffer(req))
        return res.writeHead(200, { etag: '"x"' }).end()
      }
      const found = objects.get(path)
      if (found === undefined)
        return req.method === 'HEAD' ? res.writeHead(404).end() : refuse(res, 404, 'NoSuchKey')
      res.writeHead(200, { etag: '"x"', 'content-length': String(found.length) })
      res.end(req.method === 'HEAD' ? undefined : found)
    })
  }
  const put = (store: S3Store, key: string, bytes: Buffer) =>
    store.put(key, Readable.from([bytes]), { size: bytes.length, sha256: hash(bytes) })

  test('looks first, then puts, and remembers it', async () => {
    const { store, requests } = await plain()
    const bytes = Buffer.from('small')
    expect(await put(store, 'org/repo/one', bytes)).toBe('created')
    expect(await put(store, 'org/repo/one', bytes)).toBe('exists')
    expect(await put(store, 'org/repo/two', bytes)).toBe('created')
    const refused = requests.filter((request) => request.startsWith('PUT')).length - 2
    expect(refused, 'asked for the impossible once').toBe(1)
  })

  test('a large body, which cannot be sent twice, is to be tried again by the caller', async () => {
    const { store } = await plain()
    const bytes = Buffer.alloc(2 * MIB, 1)
    const error = await failure(put(store, 'org/repo/one', bytes))
    expect(error).toMatchObject({ code: 'unavailable', retryable: true })
    expect(await put(store, 'org/repo/one', bytes)).toBe('created')
    expect(await put(store, 'org/repo/one', bytes)).toBe('exists')
  })
})

describe('put', () => {
  test('an early refusal of a large body stops sending it and frees the connection', async () => {
    const { store } = await scripted((req, res) => {
      if (req.method === 'PUT') return refuse(res, 403, 'AccessDenied')
      if (req.method === 'HEAD') return res.writeHead(404).end()
      refuse(res, 404, 'NoSuchKey')
    })
    let sent = 0
    const body = new Readable({
      read() {
        sent += 65_536
        this.push(Buffer.alloc(65_536))
      },
    })
    const size = 2 ** 32
    const error = await failure(store.put('org/repo/key', body, { size, sha256: '0'.repeat(64) }))
    expect(error).toMatchObject({ code: 'denied' })
    expect(sent).toBeLessThan(64 * MIB)
    expect(body.destroyed).toBe(false)
    body.destroy()
  })

  test.each([409, 412])(
    '%i: an equal object is success, a vanished one is to be tried again',
    async (status) => {
      let there = true
      const { store } = await scripted((req, res) => {
        if (req.method === 'PUT') return req.resume().once('end', () => refuse(res, status, ''))
        if (!there) return req.method === 'HEAD' ? res.writeHead(404).end() : refuse(res, 404, 'NoSuchKey')
        res.writeHead(200, { 'content-length': '5', etag: '"x"' }).end()
      })
      const bytes = Buffer.from('bytes')
      const put = () => store.put('org/repo/key', Readable.from([bytes]), { size: 5, sha256: hash(bytes) })
      expect(await put()).toBe('exists')
      there = false
      expect(await failure(put())).toMatchObject({ code: 'unavailable', retryable: true })
    },
  )

  test.each([
    ['when_required', undefined],
    ['when_supported', Buffer.from(hash(Buffer.from('bytes')), 'hex').toString('base64')],
  ] as const)(
    'checksums %s: x-amz-checksum-sha256 is %s; the hash is always signed',
    async (checksums, expected) => {
      let headers: IncomingMessage['headers'] = {}
      const { store } = await scripted((req, res) => {
        headers = req.headers
        req.resume().once('end', () => res.writeHead(200, { etag: '"x"' }).end())
      }, checksums)
      const bytes = Buffer.from('bytes')
      await store.put('org/repo/key', Readable.from([bytes]), { size: 5, sha256: hash(bytes) })
      expect(headers['x-amz-checksum-sha256']).toBe(expected)
      expect(headers['x-amz-content-sha256']).toBe(hash(bytes))
      expect(headers.authorization).toMatch(/SignedHeaders=[^,]*x-amz-content-sha256/)
      expect(headers['content-length']).toBe('5')
      expect(headers['transfer-encoding']).toBeUndefined()
      expect(headers['if-none-match']).toBe('*')
    },
  )

  test('a large body is streamed with its hash signed, and no "100 Continue" is waited for', async () => {
    let headers: IncomingMessage['headers'] = {}
    const { store } = await scripted((req, res) => {
      if (req.method !== 'PUT')
        return req.method === 'HEAD' ? res.writeHead(404).end() : refuse(res, 404, 'NoSuchKey')
      headers = req.headers
      req.resume().once('end', () => res.writeHead(200, { etag: '"x"' }).end())
    }, 'when_supported')
    const bytes = Buffer.alloc(3 * MIB, 7)
    await store.put('org/repo/key', Readable.from([bytes]), { size: bytes.length, sha256: hash(bytes) })
    expect(headers['x-amz-content-sha256']).toBe(hash(bytes))
    expect(headers['content-length']).toBe(String(bytes.length))
    expect(headers.expect).toBeUndefined()
    expect(headers['content-encoding']).toBeUndefined()
  })
})

describe('completeUpload', () => {
  const parts =
    '<ListPartsResult><IsTruncated>false</IsTruncated><Part><PartNumber>1</PartNumber><Size>5</Size><ETag>"a"</ETag></Part></ListPartsResult>'
  const answering = (complete: (res: ServerResponse, condition: string | undefined) => void) =>
    scripted((req, res) => {
      if (req.method === 'POST') {
        const condition = req.headers['if-none-match']
        return req.resume().once('end', () => complete(res, condition))
      }
      if (req.method === 'HEAD') return res.writeHead(404).end()
      if (req.method === 'DELETE') return res.writeHead(204).end()
      if (req.url?.includes('uploadId')) return res.end(parts)
      refuse(res, 404, 'NoSuchKey')
    })
  const complete = (store: S3Store) =>
    store.completeUpload('org/repo/key', 'id', { size: 5, sha256: '0'.repeat(64) })

  test('a 200 with an error in it is a failure', async () => {
    const { store } = await answering((res) => res.writeHead(200).end(xml('InternalError')))
    expect(await failure(complete(store))).toMatchObject({ code: 'unavailable', retryable: true })
  })

  test('an empty 200 is a failure', async () => {
    const { store } = await answering((res) => res.writeHead(200).end())
    expect(await failure(complete(store))).toMatchObject({ code: 'unavailable' })
  })

  test('a store without conditional requests is asked without', async () => {
    const conditions: (string | undefined)[] = []
    const { store } = await answering((res, condition) => {
      conditions.push(condition)
      if (condition !== undefined) return refuse(res, 501, 'NotImplemented')
      res.end('<CompleteMultipartUploadResult><ETag>"x"</ETag></CompleteMultipartUploadResult>')
    })
    expect(await complete(store)).toBe('created')
    expect(await complete(store)).toBe('created')
    expect(conditions).toEqual(['*', undefined, undefined])
  })

  test('lists the parts page by page', async () => {
    const { store, requests } = await scripted((req, res) => {
      if (req.method === 'POST') {
        return req
          .resume()
          .once('end', () =>
            res.end('<CompleteMultipartUploadResult><ETag>"x"</ETag></CompleteMultipartUploadResult>'),
          )
      }
      if (req.method === 'HEAD') return res.writeHead(404).end()
      const marker = Number(new URL(req.url ?? '', 'http://x').searchParams.get('part-number-marker') ?? 0)
      if (!req.url?.includes('uploadId')) return refuse(res, 404, 'NoSuchKey')
      res.end(
        `<ListPartsResult><IsTruncated>${marker < 2}</IsTruncated><NextPartNumberMarker>${marker + 1}</NextPartNumberMarker>` +
          `<Part><PartNumber>${marker + 1}</PartNumber><Size>5</Size><ETag>"a"</ETag></Part></ListPartsResult>`,
      )
    })
    expect((await store.listParts('org/repo/key', 'id')).map((part) => part.number)).toEqual([1, 2, 3])
    expect(await store.completeUpload('org/repo/key', 'id', { size: 15, sha256: '' })).toBe('created')
    expect(requests.filter((request) => request.includes('part-number-marker'))).toHaveLength(4)
  })
})
