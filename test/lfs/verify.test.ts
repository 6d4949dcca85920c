import { Readable } from 'node:stream'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { keyOf } from '../../src/access/object-location.ts'
import { TimoneError } from '../../src/errors.ts'
import type { Oid } from '../../src/oid.ts'
import { fakeStore, post, type Running, type Sample, sample, startOnFiles } from '../server/harness.ts'
import { failureFaults } from './batch-schema.ts'

const repository = { org: 'foo', repo: 'bar' }
let running: Running
let stored: Sample

const verify = (body: unknown, authorization?: string, name = 'foo/bar') =>
  post(`${running.url}/${name}/info/lfs/objects/verify`, body, authorization)

async function useToken(
  use: 'transfer' | 'renew' | 'verify',
  name = repository,
  expiresIn = 60,
): Promise<string> {
  const authTime = Math.floor(Date.now() / 1000)
  const options = { use, subject: 'ada', repository: name, operation: 'upload', expiresIn, authTime } as const
  return `Bearer ${await running.tokens.issueUse(options)}`
}

beforeAll(async () => {
  running = await startOnFiles()
  stored = sample(321)
  const key = keyOf('', { repository, oid: stored.oid as Oid })
  await running.store.put(key, Readable.from([stored.bytes]), { size: 321, sha256: stored.oid })
})
afterAll(() => running.stop())

describe('verify', () => {
  test('there, absent, of another size', async () => {
    const token = await useToken('verify')
    const good = await verify({ oid: stored.oid, size: 321 }, token)
    expect(good.status).toBe(200)
    expect(good.headers.get('content-type')).toBe('application/vnd.git-lfs+json')
    expect((await verify({ oid: sample(20).oid, size: 1 }, token)).status).toBe(404)
    const other = await verify({ oid: stored.oid, size: 320 }, token)
    expect(other.status).toBe(422)
    expect(failureFaults(other.json)).toEqual([])
    expect(other.json.message).toMatch(/321.*320/)
  })

  test.each([
    [{ oid: 'A'.repeat(64), size: 1 }],
    [{ oid: '../x', size: 1 }],
    [{ oid: 'a'.repeat(64), size: -1 }],
    [{ oid: 'a'.repeat(64), size: 1.5 }],
    [{ oid: 'a'.repeat(64) }],
    [[]],
    ['null'],
    ['"x"'],
  ])('%j is refused', async (body) => {
    expect((await verify(body, await useToken('verify'))).status).toBe(422)
  })

  test('who may', async () => {
    const body = { oid: stored.oid, size: 321 }
    expect((await verify(body)).status).toBe(401)
    expect((await verify(body, await useToken('transfer'))).status).toBe(401)
    expect((await verify(body, await useToken('renew'))).status).toBe(401)
    expect((await verify(body, await useToken('verify', { org: 'foo', repo: 'other' }))).status).toBe(404)
    expect((await verify(body, await useToken('verify'), 'foo/other')).status).toBe(404)
    expect((await verify(body, await running.as('bob', 'lfs:foo/bar:r'))).status).toBe(200)
    expect((await verify(body, await running.as('bob', 'lfs:foo/other:r'))).status).toBe(404)
  })

  test('asks the store each time, and storage trouble is for later', async () => {
    let heads = 0
    const store = fakeStore({
      head: async () => {
        if (++heads === 2) throw new TimoneError('unavailable', 'down')
        return { size: 1, etag: '"a"' }
      },
    })
    const other = await startOnFiles({ store })
    const ask = async () =>
      post(
        `${other.url}/foo/bar/info/lfs/objects/verify`,
        { oid: 'a'.repeat(64), size: 1 },
        await other.as('ada'),
      )
    expect((await ask()).status).toBe(200)
    const later = await ask()
    expect(later.status).toBe(429)
    expect(later.headers.get('retry-after')).toBe('5')
    expect((await ask()).status).toBe(200)
    await other.stop()
  })
})
