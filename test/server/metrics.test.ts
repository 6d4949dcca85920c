import { afterEach, describe, expect, test } from 'vitest'
import { admitToMetrics } from '../../src/server/metrics-route.ts'
import { post, type Running, raw, sample, startOnFiles, until } from './harness.ts'

let running: Running | undefined
afterEach(async () => {
  await running?.stop()
  running = undefined
})

const TOKEN = 'a token for Prometheus'

async function scrape(headers: Record<string, string> = {}): Promise<{ status: number; text: string }> {
  const response = await fetch(`${running?.url}/metrics`, { headers })
  return { status: response.status, text: await response.text() }
}

describe('metrics', () => {
  test('count requests, bytes and times by route, and name nobody', async () => {
    running = await startOnFiles()
    const { oid, size, bytes } = sample(5000)
    const url = `${running.url}/secret-org/secret-repo/info/lfs/objects/batch`
    const body = { operation: 'upload', objects: [{ oid, size }] }
    const { json } = await post(url, body, await running.as('ada'))
    const { pathname, search } = new URL(json.objects[0].actions.upload.href)
    const headers = { 'content-length': String(size) }
    expect((await raw(running.url, 'PUT', pathname + search, headers, bytes)).status).toBe(200)
    await post(url, body)
    await raw(running.url, 'PROPFIND', '/anything')
    await until(async () => (await scrape()).text.includes('route="other"'))

    const response = await fetch(`${running.url}/metrics`)
    expect(response.headers.get('content-type')).toBe('text/plain; version=0.0.4; charset=utf-8')
    const text = await response.text()
    for (const line of [
      'timone_http_requests_total{method="POST",route="batch",status="200"} 1',
      'timone_http_requests_total{method="POST",route="batch",status="401"} 1',
      'timone_http_requests_total{method="PUT",route="object",status="200"} 1',
      'timone_http_received_bytes_total{route="object"} 5000',
      'timone_http_request_seconds_count{route="batch"} 2',
      'timone_http_requests_running 1',
    ])
      expect(text).toContain(`${line}\n`)
    expect(text).toMatch(/^timone_info\{version="\d/m)
    expect(text).toMatch(/^process_resident_memory_bytes \d/m)
    expect(text).toMatch(/^nodejs_eventloop_lag_seconds /m)
    for (const name of ['secret-org', 'secret-repo', 'ada', oid]) expect(text).not.toContain(name)
  })

  test('a token, once there is one, and nothing else', async () => {
    running = await startOnFiles({ metricsToken: TOKEN })
    expect((await scrape()).status).toBe(401)
    expect((await scrape({ authorization: 'Bearer wrong' })).status).toBe(401)
    expect((await scrape({ authorization: await running.as('ada') })).status).toBe(401)
    expect((await scrape({ authorization: `Basic ${TOKEN}` })).status).toBe(401)
    const { status, text } = await scrape({ authorization: 'Bearer wrong' })
    expect([status, text.includes(TOKEN)]).toEqual([401, false])
    const token = TOKEN.replaceAll(' ', '-')
    await running.stop()
    running = await startOnFiles({ metricsToken: token })
    expect((await scrape({ authorization: `Bearer ${token}` })).status).toBe(200)
  })

  test('what a proxy passes on is not from this machine', async () => {
    running = await startOnFiles()
    expect((await scrape()).status).toBe(200)
    for (const name of ['x-forwarded-for', 'forwarded', 'x-real-ip', 'via'])
      expect((await scrape({ [name]: '127.0.0.1' })).status, name).toBe(404)
    expect((await raw(running.url, 'POST', '/metrics')).status).toBe(404)
  })

  test.each([
    ['127.0.0.1', true],
    ['::1', true],
    ['::ffff:127.0.0.1', true],
    ['10.0.0.1', false],
    ['::ffff:10.0.0.1', false],
    ['fe80::1', false],
    [undefined, false],
  ])('the address %s', (peer, admitted) => {
    const admit = () => admitToMetrics(undefined, { peer, headers: {} })
    if (admitted) expect(admit).not.toThrow()
    else expect(admit).toThrow('not found')
  })
})
