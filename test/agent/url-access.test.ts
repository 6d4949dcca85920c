import { once } from 'node:events'
import http from 'node:http'
import type { AddressInfo } from 'node:net'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { HttpClient, readText } from '../../src/access/http-client.ts'
import { Retrier } from '../../src/access/retry.ts'
import { UrlAccess } from '../../src/agent/url-access.ts'
import { nullLogger } from '../../src/log.ts'
import type { Oid } from '../../src/oid.ts'

const oid = 'a'.repeat(64) as Oid
const SIZE = 1000
const { signal } = new AbortController()

let server: http.Server
let client: HttpClient
/** Times that a URL was asked for. */
let asked: number
/** Seconds for which the URLs are good. */
let lifetime: number
/** Numbers of the URLs that are no longer good. */
let refused: Set<string>
let ranges: (string | undefined)[]
let access: UrlAccess
beforeEach(async () => {
  asked = 0
  lifetime = 3600
  refused = new Set()
  ranges = []
  client = new HttpClient(async () => ({}))
  server = http.createServer((request, response) => {
    const url = new URL(request.url ?? '', 'http://x')
    if (request.method === 'POST') {
      asked++
      const expires_at = new Date(Date.now() + lifetime * 1000).toISOString()
      const href = `${origin}/object?url=${asked}`
      request.resume()
      response
        .writeHead(200, { 'content-type': 'application/json' })
        .end(JSON.stringify({ operation: 'download', href, header: { 'x-signed': 'yes' }, expires_at }))
      return
    }
    if (refused.has(url.searchParams.get('url') ?? '') || request.headers['x-signed'] !== 'yes') {
      response.writeHead(403).end()
      return
    }
    ranges.push(request.headers.range)
    response.writeHead(request.headers.range === undefined ? 200 : 206).end('bytes')
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const origin = `http://127.0.0.1:${(server.address() as AddressInfo).port}`
  const transfers = `${origin}/transfers`
  access = new UrlAccess({
    send: client.send,
    retrier: new Retrier({ retries: 0, maxDelay: 0 }),
    credentials: async () => ({
      answer: { driver: 'url', transfers, token: 't', expires_at: '' },
      expiresAt: Number.POSITIVE_INFINITY,
      clockOffset: 0,
    }),
    transfers,
    log: nullLogger,
  })
})
afterEach(async () => {
  await client.close()
  server.close()
  await once(server, 'close')
})

const get = async (offset: number, end?: number): Promise<string> =>
  readText(await access.get(oid, SIZE, { offset, end, signal }))

describe('get', () => {
  test('asks for one URL for all the ranges of an object', async () => {
    await Promise.all([get(0, 100), get(100, 200), get(200)])
    await get(300, 400)
    expect(asked).toBe(1)
    expect(ranges.sort()).toEqual(['bytes=0-99', 'bytes=100-199', 'bytes=200-999', 'bytes=300-399'])
  })

  test('an object in one go has a URL of its own', async () => {
    await get(0)
    await get(0, SIZE)
    expect([asked, ranges]).toEqual([2, [undefined, undefined]])
  })

  test('a URL that is about to run out is not used again', async () => {
    lifetime = 20
    await get(0, 100)
    await get(100, 200)
    expect(asked).toBe(2)
  })

  test('a URL that was refused is renewed once, by whoever sees it first', async () => {
    await get(0, 100)
    refused.add('1')
    await Promise.all([get(100, 200), get(200, 300), get(300, 400)])
    expect(asked).toBe(2)
  })

  test('a refusal of a fresh URL is one', async () => {
    refused.add('1').add('2')
    await expect(get(0, 100)).rejects.toMatchObject({ code: 'denied' })
    expect(asked).toBe(1)
    await expect(get(0, SIZE)).rejects.toMatchObject({ code: 'denied' })
    expect(asked).toBe(2)
  })

  test('a failure to get a URL is not remembered', async () => {
    const abort = new AbortController()
    abort.abort()
    await expect(access.get(oid, SIZE, { offset: 1, signal: abort.signal })).rejects.toMatchObject({
      code: 'cancelled',
    })
    await get(1)
    expect(asked).toBe(1)
  })
})
