import { once } from 'node:events'
import http from 'node:http'
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest'
import { HttpClient, type HttpSend, readText } from '../../src/access/http-client.ts'
import { Throttle } from '../../src/access/throttle.ts'
import { TimoneError } from '../../src/errors.ts'

/** A server whose answers wait until the test lets them go, and that counts what is in flight. */
interface Held {
  url: URL
  /** Requests that came in and were not answered. */
  waiting: ((status: number) => void)[]
  close(): Promise<void>
}

async function held(): Promise<Held> {
  const waiting: Held['waiting'] = []
  const server = http.createServer((_request, response) => {
    waiting.push((status) => response.writeHead(status).end('said'))
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  return {
    url: new URL(`http://127.0.0.1:${(server.address() as { port: number }).port}/`),
    waiting,
    close: async () => {
      server.closeAllConnections()
      server.close()
      await once(server, 'close')
    },
  }
}

let server: Held
let client: HttpClient
let throttle: Throttle
let send: HttpSend
beforeEach(async () => {
  server = await held()
  client = new HttpClient(async () => ({}))
  throttle = new Throttle(8)
  send = throttle.around(client.send)
})
afterEach(async () => {
  await client.close()
  await server.close()
})

const ask = async (url = server.url, signal?: AbortSignal): Promise<number> => {
  const response = await send({
    method: 'GET',
    url,
    headers: {},
    ...(signal === undefined ? {} : { signal }),
  })
  await readText(response)
  return response.status
}
const arrived = (count: number, at = server): Promise<unknown> =>
  vi.waitUntil(() => at.waiting.length === count, { timeout: 10_000, interval: 2 })
/** Nothing more comes: one round trip of another connection later it would have. */
const onlyArrived = async (count: number): Promise<void> => {
  await arrived(count)
  const other = await held()
  const asked = fetch(other.url)
  await arrived(1, other)
  other.waiting.shift()?.(200)
  await asked
  await other.close()
  expect(server.waiting).toHaveLength(count)
}
const answer = (status: number, count = 1): void => {
  for (let i = 0; i < count; i++) server.waiting.shift()?.(status)
}

describe('Throttle', () => {
  test('as many at a time as the limit says, the next when one has ended', async () => {
    const asked = Array.from({ length: 10 }, () => ask())
    await onlyArrived(8)
    answer(200)
    await onlyArrived(8)
    answer(200, 8)
    await arrived(1)
    answer(200)
    expect(await Promise.all(asked)).toEqual(Array.from({ length: 10 }, () => 200))
  })

  test.each([503, 429])('%i halves: once for all that were in flight together', async (status) => {
    const asked = Array.from({ length: 20 }, () => ask())
    await arrived(8)
    answer(status, 8)
    await onlyArrived(4)
    expect(throttle.limitOf(server.url.host)).toBe(4)
    // Told again by requests that began since: again by half.
    answer(status, 4)
    await onlyArrived(2)
    expect(throttle.limitOf(server.url.host)).toBe(2)
    while (server.waiting.length > 0) {
      const { length } = server.waiting
      answer(status, length)
      await vi.waitUntil(() => server.waiting.length > 0 || throttle.limitOf(server.url.host) === 1)
      if (throttle.limitOf(server.url.host) === 1) break
    }
    // Never to nothing.
    const rest = Promise.all(asked)
    let done = false
    void rest.then(() => {
      done = true
    })
    await vi.waitUntil(
      () => {
        expect(server.waiting.length).toBeLessThanOrEqual(2)
        answer(status)
        return done
      },
      { timeout: 10_000, interval: 2 },
    )
    expect(throttle.limitOf(server.url.host)).toBe(1)
  })

  test('success restores one by one, up to the first limit', async () => {
    const first = Array.from({ length: 8 }, () => ask())
    await arrived(8)
    answer(503, 8)
    await Promise.all(first)
    expect(throttle.limitOf(server.url.host)).toBe(4)
    const limits = new Set<number>()
    for (let round = 0; round < 40; round++) {
      const asked = ask()
      await arrived(1)
      answer(200)
      await asked
      limits.add(throttle.limitOf(server.url.host))
    }
    expect([...limits]).toEqual([4, 5, 6, 7, 8])
  })

  test('other failures are no reason to slow down', async () => {
    for (const status of [500, 403, 404, 400]) {
      const asked = ask()
      await arrived(1)
      answer(status)
      expect(await asked).toBe(status)
    }
    expect(throttle.limitOf(server.url.host)).toBe(8)
  })

  test('each host has a limit of its own', async () => {
    const other = await held()
    const asked = [
      ...Array.from({ length: 8 }, () => ask()),
      ...Array.from({ length: 8 }, () => ask(other.url)),
    ]
    await arrived(8)
    await arrived(8, other)
    answer(503, 8)
    for (const release of other.waiting.splice(0)) release(200)
    await Promise.all(asked)
    expect(throttle.limitOf(server.url.host)).toBe(4)
    expect(throttle.limitOf(other.url.host)).toBe(8)
    await other.close()
  })

  test('a request is in flight until its body was read, or given up', async () => {
    throttle = new Throttle(1)
    send = throttle.around(client.send)
    const first = send({ method: 'GET', url: server.url, headers: {} })
    await arrived(1)
    answer(200)
    const response = await first
    const second = send({ method: 'GET', url: server.url, headers: {} })
    await onlyArrived(0)
    await readText(response)
    await arrived(1)
    answer(200)
    const third = ask()
    ;(await second).body.destroy()
    await arrived(1)
    answer(200)
    expect(await third).toBe(200)
  })

  test('a request that fails or is cancelled leaves its place', async () => {
    throttle = new Throttle(1)
    send = throttle.around(client.send)
    const stop = new AbortController()
    const flying = ask(server.url, stop.signal)
    const waiting = ask(server.url, stop.signal)
    const next = ask()
    await onlyArrived(1)
    stop.abort(new TimoneError('cancelled', 'enough'))
    await expect(flying).rejects.toMatchObject({ code: 'cancelled' })
    await expect(waiting).rejects.toMatchObject({ code: 'cancelled' })
    await arrived(2)
    answer(200, 2)
    expect(await next).toBe(200)
  })
})
