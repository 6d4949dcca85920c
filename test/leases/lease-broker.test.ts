import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { generateKey, SecretBox } from '../../src/auth/secret-box.ts'
import { connect, type Database } from '../../src/database/connect.ts'
import { TimoneError } from '../../src/errors.ts'
import type { LeaseKey, LeaseSource, Minted, MintRequest } from '../../src/leases/lease.ts'
import { LeaseBroker } from '../../src/leases/lease-broker.ts'
import { LeaseStore } from '../../src/leases/lease-store.ts'
import { checkSealingKeys, resealAll } from '../../src/leases/sealing.ts'
import { type TestDatabase, testPostgres } from '../helpers/postgres.ts'

const KEYS = [generateKey()]
const HOUR = 3_600_000
const DAY = 24 * HOUR

/** A provider that rotates refresh tokens and revokes the family when an old one is used (RFC 9700, section 4.14.2). */
class Provider implements LeaseSource {
  readonly renewBefore = 60
  readonly needsConsent = true
  readonly remedy = 'connect again at http://timone/api/v1.0/idp1/authorize'
  calls = 0
  revoked = false
  lifetime = 3600
  /** What the next calls do instead. */
  fail: ((request: MintRequest) => Promise<Minted>) | undefined
  current = 'r0'
  readonly #now: () => number

  constructor(now: () => number) {
    this.#now = now
  }

  async mint(request: MintRequest): Promise<Minted> {
    this.calls++
    if (this.fail !== undefined) return this.fail(request)
    await new Promise((resolve) => setTimeout(resolve, 5))
    if (this.revoked || request.refreshToken !== this.current) {
      this.revoked = true
      throw new TimoneError('lease_broken', 'idp1 refuses the refresh token')
    }
    this.current = `r${this.calls}`
    const accessToken = `a${this.calls}`
    return { accessToken, refreshToken: this.current, expiresAt: this.#now() + this.lifetime * 1000 }
  }
}

describe.each(['sqlite', 'postgres'] as const)('LeaseBroker on %s', (kind) => {
  let postgres: TestDatabase | undefined
  const databases: Database[] = []
  let provider: Provider
  let brokers: LeaseBroker[]
  let store: LeaseStore
  let key: LeaseKey
  let now = Date.parse('2026-03-01T00:00:00Z')
  let count = 0

  beforeAll(async () => {
    postgres = kind === 'postgres' ? await testPostgres() : undefined
    databases.push(await connect(postgres?.url ?? 'sqlite::memory:'))
    // Another process, as far as Postgres can tell.
    if (postgres) databases.push(await connect(postgres.url))
  })
  afterAll(async () => {
    for (const database of databases) await database.close()
    await postgres?.drop()
  })

  beforeEach(async () => {
    const clock = () => now
    provider = new Provider(clock)
    brokers = databases.map((database) => {
      store = new LeaseStore({ db: database.db, box: new SecretBox(KEYS), now: clock })
      return new LeaseBroker({
        store,
        database,
        sources: new Map([['idp1', provider]]),
        now: clock,
        timeout: 300,
      })
    })
    key = { owner: `user:${count++}`, source: 'idp1', resource: '' }
  })

  const broker = (index = 0): LeaseBroker => brokers[index % brokers.length] as LeaseBroker
  const begin = (expiresAt = now + HOUR) =>
    broker().keep(key, { accessToken: 'a0', refreshToken: 'r0', expiresAt, scope: 'openid' })
  const failure = (work: Promise<unknown>): Promise<TimoneError> =>
    work.then(
      () => expect.fail('it worked'),
      (error: unknown) => error as TimoneError,
    )

  test('nothing stored: says where to connect', async () => {
    expect(await failure(broker().lease(key))).toMatchObject({
      code: 'lease_broken',
      message: 'nothing is stored: connect again at http://timone/api/v1.0/idp1/authorize',
    })
    expect(await failure(broker().lease({ ...key, source: 'constructor' }))).toMatchObject({
      code: 'not_found',
    })
  })

  test('from the table while it lives, and sealed there', async () => {
    await begin()
    expect(await broker(1).lease(key)).toMatchObject({ accessToken: 'a0', scope: 'openid' })
    expect(provider.calls).toBe(0)
    const row = await store.find(key)
    expect(row?.access_token).toMatch(/^gAAAAA/)
    expect(row?.refresh_token).toMatch(/^gAAAAA/)
  })

  test('50 callers of all processes at the end of its life: one renewal, and the next one works', async () => {
    await begin()
    for (const round of [1, 2, 3]) {
      now += HOUR
      const leases = await Promise.all(Array.from({ length: 50 }, (_, index) => broker(index).lease(key)))
      expect(new Set(leases.map(({ accessToken }) => accessToken))).toEqual(new Set([`a${round}`]))
      expect(provider.calls).toBe(round)
    }
    expect(provider.revoked).toBe(false)
  })

  test('50 callers who were refused: one renewal, for all of them', async () => {
    await begin()
    now += 10_000
    const fresh = (index: number) => broker(index).lease(key, { fresh: true })
    await Promise.all(Array.from({ length: 50 }, (_, index) => fresh(index)))
    expect(provider.calls).toBe(1)
    now += 10_000
    expect(await fresh(0)).toMatchObject({ accessToken: 'a2', scope: 'openid' })
  })

  test('24 hours: renewed as often as its life says, never broken', async () => {
    await begin()
    const end = now + DAY
    for (; now < end; now += 20_000) {
      const { expiresAt } = await broker(now / 20_000).lease(key)
      expect(expiresAt).toBeGreaterThan(now + 60_000)
    }
    // Asked for every 20 s, an hour's life is renewed when 60 s of it are left: after 3 540 s.
    expect(provider.calls).toBe(Math.floor(DAY / 1000 / 3540))
    expect((await store.list(key.owner)).map(({ state }) => state)).toEqual(['active'])
  })

  test('a life shorter than the margin is still used for half of it', async () => {
    provider.lifetime = 20
    await begin(now + 20_000)
    now += 9_000
    await broker().lease(key)
    expect(provider.calls).toBe(0)
    now += 2_000
    await broker().lease(key)
    expect(provider.calls).toBe(1)
  })

  test('refused for good: broken, not asked again, and put right by connecting again', async () => {
    await begin()
    provider.current = 'another'
    now += HOUR
    const refused = await failure(broker().lease(key))
    expect(refused).toMatchObject({ code: 'lease_broken' })
    expect(refused.message).toBe(`idp1 refuses the refresh token: ${provider.remedy}`)
    expect(await failure(broker(1).lease(key, { fresh: true }))).toMatchObject({ message: refused.message })
    expect(provider.calls).toBe(1)
    expect(await store.list(key.owner)).toMatchObject([
      { state: 'broken', error: 'idp1 refuses the refresh token' },
    ])

    provider.revoked = false
    provider.current = 'r0'
    await begin()
    expect(await broker().lease(key)).toMatchObject({ accessToken: 'a0' })
  })

  test('an outage keeps the row, and what is left of its life is handed out', async () => {
    await begin()
    provider.fail = async () => {
      throw new TimoneError('upstream', 'idp1 answered 502', { retryAfter: 7 })
    }
    now += HOUR - 30_000
    expect(await broker().lease(key)).toMatchObject({ accessToken: 'a0' })
    expect(await failure(broker().lease(key, { fresh: true }))).toMatchObject({
      code: 'upstream',
      retryAfter: 7,
    })
    now += 30_000
    expect(await failure(broker().lease(key))).toMatchObject({ code: 'upstream', retryable: true })
    provider.fail = undefined
    expect((await broker().lease(key)).accessToken).toMatch(/^a\d$/)
  })

  test('a provider that hangs: an error in time, and the lock is free again', async () => {
    await begin()
    now += HOUR
    let aborted = false
    provider.fail = ({ signal }) =>
      new Promise(() =>
        signal.addEventListener('abort', () => {
          aborted = true
        }),
      )
    const errors = await Promise.all([0, 1, 2, 3].map((index) => failure(broker(index).lease(key))))
    for (const error of errors) expect(error).toMatchObject({ code: 'upstream' })
    expect(aborted).toBe(true)
    provider.fail = undefined
    expect((await broker(1).lease(key)).accessToken).toMatch(/^a\d$/)
  })

  test('without a refresh token: good until its end, then broken; for ever when it has none', async () => {
    await broker().keep(key, { accessToken: 'once', expiresAt: now + HOUR })
    expect(await broker().lease(key, { fresh: true })).toMatchObject({ accessToken: 'once' })
    now += HOUR
    expect(await failure(broker().lease(key))).toMatchObject({ code: 'lease_broken' })
    await broker().keep(key, { accessToken: 'always' })
    now += 100 * DAY
    expect(await broker().lease(key)).toEqual({
      accessToken: 'always',
      expiresAt: null,
      scope: null,
      tokenType: null,
    })
    expect(provider.calls).toBe(0)
  })

  test('what nobody uses is renewed, so that its refresh token stays young', async () => {
    await (databases[0] as Database).db.deleteFrom('leases').execute()
    await begin()
    now += DAY + HOUR
    expect(await broker().renewUnused(DAY)).toEqual({ renewed: 1, failures: [] })
    expect(await broker().renewUnused(DAY)).toEqual({ renewed: 0, failures: [] })
    expect(provider.calls).toBe(1)
  })

  test('what is over and can be had again is removed; what its owner consented to stays', async () => {
    const github: LeaseSource = {
      renewBefore: 60,
      needsConsent: false,
      remedy: '',
      mint: async ({ resource }) => ({ accessToken: resource, expiresAt: now + HOUR }),
    }
    const { db } = databases[0] as Database
    const sources = new Map<string, LeaseSource>([
      ['github', github],
      ['idp1', provider],
    ])
    const clock = () => now
    const own = new LeaseBroker({ store, database: databases[0] as Database, sources, now: clock })
    await begin()
    await own.lease({ owner: '', source: 'github', resource: 'foo/old' })
    now += HOUR + 1
    await own.lease({ owner: '', source: 'github', resource: 'foo/new' })
    expect(await own.removeExpired()).toBe(1)
    const left = await db.selectFrom('leases').select('resource').where('source', '=', 'github').execute()
    expect(left).toEqual([{ resource: 'foo/new' }])
    expect(await store.find(key)).toBeDefined()
    await store.remove({ owner: '', source: 'github', resource: 'foo/new' })
  })

  test('its end: tokens are given to be revoked, and the row goes even when that fails', async () => {
    await begin()
    const end = broker().end(key, async (secrets) => {
      expect(secrets).toEqual({ accessToken: 'a0', refreshToken: 'r0' })
      throw new TimoneError('upstream', 'away')
    })
    await expect(end).rejects.toMatchObject({ code: 'upstream' })
    expect(await store.find(key)).toBeUndefined()
    expect(await broker().end(key)).toBe(false)
  })

  test('text with quotes, NUL-free controls and SQL stays text', async () => {
    key = { ...key, resource: `'; drop table leases; --\r\nX-Evil: 1 \u{1f511}` }
    await begin()
    expect(await broker().lease(key)).toMatchObject({ accessToken: 'a0' })
  })

  test('keys change online: old rows are read, then encrypted anew, then the old key can go', async () => {
    const db = (databases[0] as Database).db
    await db.deleteFrom('leases').execute()
    await db.deleteFrom('sealing_keys').execute()
    await checkSealingKeys(db, new SecretBox(KEYS))
    await begin()
    const newer = generateKey()
    const both = new SecretBox([newer, ...KEYS])
    expect(await failure(checkSealingKeys(db, new SecretBox([newer])))).toMatchObject({
      code: 'config',
      message: expect.stringContaining(new SecretBox(KEYS).keyId) as string,
    })
    await checkSealingKeys(db, both)
    expect(await resealAll(db, both)).toEqual({
      changed: 2,
      current: 0,
      retired: [new SecretBox(KEYS).keyId],
    })
    expect(await resealAll(db, both)).toEqual({ changed: 0, current: 2, retired: [] })
    await checkSealingKeys(db, new SecretBox([newer]))
    const row = await store.find(key)
    expect(new SecretBox([newer]).open(row?.refresh_token ?? '')).toBe('r0')
  })
})
