import { randomBytes } from 'node:crypto'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { connect, type Database } from '../../src/database/connect.ts'
import { type CountedObject, Usage } from '../../src/lfs/usage.ts'
import { type TestDatabase, testPostgres } from '../helpers/postgres.ts'
import { post, type Running, raw, type Sample, sample, startOnFiles } from '../server/harness.ts'

const make = (size: number): CountedObject => ({ oid: randomBytes(32).toString('hex'), size })

async function* listed(...objects: CountedObject[]): AsyncGenerator<CountedObject> {
  yield* objects
}

describe.each(['sqlite', 'postgres'] as const)('usage in %s', (kind) => {
  let postgres: TestDatabase | undefined
  let database: Database
  let running: Running
  let repositories = 0

  beforeAll(async () => {
    postgres = kind === 'postgres' ? await testPostgres() : undefined
    database = await connect(postgres?.url ?? 'sqlite::memory:')
    running = await startOnFiles({ database, quota: 1000 })
  })
  afterAll(async () => {
    await running.stop()
    await postgres?.drop()
  })

  const fresh = (): string => `org/repo${repositories++}`
  const counting = (quota = 0): Usage => new Usage({ db: database.db, quota })

  describe('counting', () => {
    test('each object once, whatever its order and however often', async () => {
      const name = fresh()
      const usage = counting()
      const [a, b] = [make(100), make(2 ** 42)]
      await usage.count(name, a)
      await usage.count(name, b)
      await usage.count(name, a)
      expect(await usage.bytes(name)).toBe(100 + 2 ** 42)
      expect(await usage.counted(name, [a.oid, b.oid, make(1).oid])).toEqual(
        new Map([
          [a.oid, 100],
          [b.oid, 2 ** 42],
        ]),
      )
      expect(await usage.bytes(fresh())).toBe(0)
    })

    test('one that was healed counts as it is now', async () => {
      const name = fresh()
      const usage = counting()
      const object = make(100)
      await usage.count(name, object)
      await usage.count(name, { ...object, size: 30 })
      expect(await usage.bytes(name)).toBe(30)
      expect((await usage.list()).find(({ repository }) => repository === name)?.objects).toBe(1)
    })

    test('many at once add up, and no more than the quota gets in', async () => {
      const name = fresh()
      const usage = counting(1000)
      const outcomes = await Promise.allSettled(
        Array.from({ length: 20 }, () => usage.count(name, make(100))),
      )
      const refused = outcomes.filter(({ status }) => status === 'rejected')
      expect(refused).toHaveLength(10)
      for (const outcome of refused) expect(outcome).toMatchObject({ reason: { code: 'quota_exceeded' } })
      expect(await usage.bytes(name)).toBe(1000)
    })

    test('a recount puts what the store holds in place of what was counted', async () => {
      const name = fresh()
      const [kept, gone, found] = [make(10), make(20), make(40)]
      const usage = counting()
      await usage.count(name, kept)
      await usage.count(name, gone)
      await new Promise((resolve) => setTimeout(resolve, 5))
      expect(await usage.recount(name, listed(kept, found))).toEqual({
        repository: name,
        bytes: 50,
        objects: 2,
      })
      const many = Array.from({ length: 1203 }, () => make(2))
      expect(await usage.recount(name, listed(...many))).toMatchObject({ bytes: 2406, objects: 1203 })
      await usage.forget([name])
      expect(await usage.bytes(name)).toBe(0)
    })
  })

  describe('the quota, over HTTP', () => {
    const url = (name: string): string => `${running.url}/${name}/info/lfs/objects`
    // biome-ignore lint/suspicious/noExplicitAny: the tests assert on the shape
    const ask = async (name: string, ...objects: Sample[]): Promise<any[]> => {
      const body = { operation: 'upload', objects: objects.map(({ oid, size }) => ({ oid, size })) }
      const { status, json } = await post(`${url(name)}/batch`, body, await running.as('ada'))
      expect(status).toBe(200)
      return json.objects
    }
    // biome-ignore lint/suspicious/noExplicitAny: as above
    const send = async ({ actions }: any, object: Sample): Promise<number> => {
      const target = new URL(actions.upload.href)
      const path = target.pathname + target.search
      const headers = { 'content-length': String(object.size) }
      return (await raw(running.url, 'PUT', path, headers, object.bytes)).status
    }
    // biome-ignore lint/suspicious/noExplicitAny: as above
    const verify = ({ actions }: any, { oid, size }: Sample) =>
      post(actions.verify.href, { oid, size }, actions.verify.header.Authorization)

    test('Batch lets in what there is room for, and says 507 of the rest', async () => {
      const name = fresh()
      const [a, b, c] = [sample(600), sample(500), sample(400)]
      const answers = await ask(name, a, b, c)
      expect(answers.map(({ error }) => error?.code)).toEqual([undefined, 507, undefined])
      expect(answers[1].error.message).toBe(
        `${name} would hold 1100 bytes, and may hold 1000: ask the operator of the server for a larger quota (lfs.quota)`,
      )
      expect(answers[1].actions).toBeUndefined()
      expect(await send(answers[0], a)).toBe(200)
      expect((await verify(answers[0], a)).status).toBe(200)
      expect((await verify(answers[0], a)).status).toBe(200)
      expect(await counting().bytes(name)).toBe(600)
      const again = await ask(name, a, b, c)
      expect(again.map(({ error }) => error?.code)).toEqual([undefined, 507, undefined])
      expect(again[0].actions).toBeUndefined()
    })

    test('two who ask at once: verify says 507, and the object never counts as pushed', async () => {
      const name = fresh()
      const [a, b] = [sample(700), sample(800)]
      const [[first], [second]] = [await ask(name, a), await ask(name, b)]
      expect([await send(first, a), await send(second, b)]).toEqual([200, 200])
      expect((await verify(first, a)).status).toBe(200)
      const refused = await verify(second, b)
      expect(refused.status).toBe(507)
      expect(refused.json).toMatchObject({ code: 'quota_exceeded' })
      expect(refused.json.message).toContain('may hold 1000')
      expect((await ask(name, b))[0].error.code).toBe(507)
    })

    test('an object whose client never verified is counted when it is asked for again', async () => {
      const name = fresh()
      const a = sample(900)
      const [answer] = await ask(name, a)
      await send(answer, a)
      expect(await counting().bytes(name)).toBe(0)
      const [again] = await ask(name, a)
      expect([again.error, again.actions]).toEqual([undefined, undefined])
      expect(await counting().bytes(name)).toBe(900)
    })

    test('a download by who may only read counts nothing; by who may write, it confirms uploads', async () => {
      const name = fresh()
      const a = sample(900)
      const [answer] = await ask(name, a)
      await send(answer, a)
      const body = { operation: 'download', objects: [{ oid: a.oid, size: a.size }] }
      const { json } = await post(`${url(name)}/batch`, body, await running.as('rita', 'lfs:*:r'))
      expect(json.objects[0].actions.download).toBeDefined()
      expect(await counting().bytes(name)).toBe(0)
      await post(`${url(name)}/batch`, body, await running.as('ada'))
      expect(await counting().bytes(name)).toBe(900)
    })
  })
})

describe('the rate limit, over HTTP', () => {
  test('429 with the time to wait; what an answer allows is not counted', async () => {
    const running = await startOnFiles({ requestsPerMinute: 3 })
    try {
      const url = `${running.url}/org/repo/info/lfs/objects`
      const object = sample(10)
      const body = { operation: 'upload', objects: [{ oid: object.oid, size: object.size }] }
      const ada = await running.as('ada')
      const { json } = await post(`${url}/batch`, body, ada)
      await post(`${url}/batch`, body, ada)
      await post(`${running.url}/org/repo/info/lfs/locks/verify`, {}, ada)
      const refused = await post(`${url}/batch`, body, ada)
      expect(refused.status).toBe(429)
      expect(Number(refused.headers.get('retry-after'))).toBeGreaterThanOrEqual(19)
      expect(refused.json).toMatchObject({ code: 'rate_limited' })
      expect(refused.json.message).toContain('more than 3 requests a minute')
      const { href, header } = json.objects[0].actions.verify
      const request = { oid: object.oid, size: object.size }
      for (let count = 0; count < 5; count++)
        expect((await post(href, request, header.Authorization)).status).toBe(404)
      expect((await post(`${url}/batch`, body, await running.as('bob'))).status).toBe(200)
    } finally {
      await running.stop()
    }
  })
})
