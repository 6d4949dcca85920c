import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { Broker } from '../../src/access/broker.ts'
import { RoleSessions, TOTAL_LIFETIME } from '../../src/access/role-sessions.ts'
import type { AssumeRole } from '../../src/access/sts.ts'
import type { Principal } from '../../src/auth/principal.ts'
import { generateKey, SecretBox } from '../../src/auth/secret-box.ts'
import { Tokens } from '../../src/auth/tokens.ts'
import { connect, type Database } from '../../src/database/connect.ts'
import { TimoneError } from '../../src/errors.ts'
import { LeaseBroker } from '../../src/leases/lease-broker.ts'
import { LeaseStore } from '../../src/leases/lease-store.ts'

const START = 1_700_000_000_000
const repository = { org: 'foo', repo: 'bar' }
const site = {
  endpoint: 'https://s3.example',
  region: 'eu-west-1',
  bucket: 'lfs',
  prefix: 'team/',
  forcePathStyle: true,
  keys: async () => ({ accessKeyId: 'own', secretAccessKey: 'own' }),
}
const roleArn = 'arn:aws:iam::1:role/lfs'
let database: Database

beforeEach(async () => {
  database = await connect('sqlite::memory:')
})
afterEach(() => database.close())

const ada: Principal = { subject: 'ada', scopes: 'full', authTime: START / 1000 }

interface Options {
  expiresIn?: number
  life?: number
  fail?: () => unknown
  sts?: boolean
  roleArn?: string
  /** Key of the secrets in the table. */
  box?: string
}

function make(options: Options = {}) {
  const clock = { now: START }
  const asked: Parameters<AssumeRole>[0][] = []
  const assumeRole: AssumeRole = async (request) => {
    asked.push(request)
    await new Promise((resolve) => setImmediate(resolve))
    const failure = options.fail?.()
    if (failure !== undefined) throw failure
    return {
      accessKeyId: `key${asked.length}`,
      secretAccessKey: 'secret',
      sessionToken: 'session',
      expiresAt: clock.now + (options.life ?? request.duration) * 1000,
    }
  }
  const now = () => clock.now
  const tokens = new Tokens({
    secret: 's'.repeat(32),
    issuer: 'https://lfs.example',
    requireScope: false,
    now,
  })
  const expiresIn = options.expiresIn ?? 3600
  const sessions = new RoleSessions({ site, assumeRole, roleArn: options.roleArn ?? roleArn, expiresIn })
  const store = new LeaseStore({ db: database.db, box: new SecretBox([options.box ?? generateKey()]), now })
  const leases = new LeaseBroker({ store, database, sources: new Map([['sts', sessions]]), now })
  const lease = (key: { owner: string; resource: string }) => leases.lease({ ...key, source: 'sts' })
  const broker = new Broker({
    tokens,
    url: 'https://lfs.example',
    expiresIn,
    now,
    ...(options.sts === false ? {} : { sts: { site, sessions, lease } }),
  })
  return { broker, tokens, clock, asked }
}

const token = async (tokens: Tokens, jwt: string) => tokens.verify(jwt)

describe('with STS', () => {
  test('the answer has all that the agent needs and the session is limited', async () => {
    const { broker, tokens, asked } = make()
    const answer = await broker.credentials(ada, repository, 'upload')
    expect(answer).toEqual({
      driver: 's3',
      endpoint: 'https://s3.example',
      region: 'eu-west-1',
      bucket: 'lfs',
      prefix: 'team/foo/bar/',
      force_path_style: true,
      access_key_id: 'key1',
      secret_access_key: 'secret',
      session_token: 'session',
      expires_at: new Date(START + 3_600_000).toISOString(),
      renew: {
        href: 'https://lfs.example/foo/bar/info/lfs/credentials',
        token: expect.any(String),
        expires_at: new Date(START + TOTAL_LIFETIME * 1000).toISOString(),
      },
    })
    expect(asked[0]).toMatchObject({ duration: 3600, sessionName: 'ada' })
    expect(JSON.parse(asked[0]?.policy ?? '').Statement[0].Resource).toBe('arn:aws:s3:::lfs/team/foo/bar/*')
    const renewal = await token(tokens, answer.renew?.token ?? '')
    expect(renewal).toMatchObject({
      use: 'renew',
      operation: 'upload',
      authTime: ada.authTime,
      subject: 'ada',
    })
  })

  test.each([
    [60, 900],
    [3600, 3600],
    [43_200, 43_200],
  ])('TIMONE_OBJECT_EXPIRESIN %i asks for %i s', async (expiresIn, duration) => {
    const { broker, asked } = make({ expiresIn })
    await broker.credentials(ada, repository, 'download')
    expect(asked[0]?.duration).toBe(duration)
  })

  test('one session for each subject, repository and direction, asked for once', async () => {
    const { broker, asked } = make()
    const answers = await Promise.all(
      Array.from({ length: 20 }, () => broker.credentials(ada, repository, 'upload')),
    )
    expect(asked.length).toBe(1)
    expect(new Set(answers.map((answer) => 'access_key_id' in answer && answer.access_key_id)).size).toBe(1)
    await broker.credentials(ada, repository, 'download')
    await broker.credentials({ ...ada, subject: 'bob' }, repository, 'upload')
    await broker.credentials(ada, { org: 'foo', repo: 'other' }, 'upload')
    expect(asked.length).toBe(4)
  })

  test('is not handed out when little of its life is left', async () => {
    const { broker, clock, asked } = make()
    await broker.credentials(ada, repository, 'upload')
    clock.now += 2399_000
    await broker.credentials(ada, repository, 'upload')
    expect(asked.length).toBe(1)
    clock.now += 2_000
    await broker.credentials(ada, repository, 'upload')
    expect(asked.length).toBe(2)
  })

  test('another role or duration is another session, whatever the table holds', async () => {
    const box = generateKey()
    const once = async (options: Options) => {
      const { broker, asked } = make({ ...options, box })
      await broker.credentials(ada, repository, 'upload')
      return asked.length
    }
    expect(await once({})).toBe(1)
    expect(await once({})).toBe(0)
    expect(await once({ roleArn: 'arn:aws:iam::1:role/other' })).toBe(1)
    expect(await once({ expiresIn: 1800 })).toBe(1)
  })

  test('what is left of a session is handed out while STS is away', async () => {
    let fails = false
    const away = () => (fails ? new TimoneError('connection', 'STS cannot be reached') : undefined)
    const { broker, clock, asked } = make({ fail: away })
    await broker.credentials(ada, repository, 'upload')
    fails = true
    clock.now += 3000_000
    expect(await broker.credentials(ada, repository, 'upload')).toMatchObject({ access_key_id: 'key1' })
    expect(asked.length).toBe(2)
    clock.now += 600_000
    await expect(broker.credentials(ada, repository, 'upload')).rejects.toMatchObject({ code: 'connection' })
  })

  test('a failure is not remembered', async () => {
    let fails = true
    const { broker, asked } = make({ fail: () => (fails ? new TimoneError('throttled', 'slow') : undefined) })
    await expect(broker.credentials(ada, repository, 'upload')).rejects.toMatchObject({ code: 'throttled' })
    fails = false
    await expect(broker.credentials(ada, repository, 'upload')).resolves.toMatchObject({ driver: 's3' })
    expect(asked.length).toBe(2)
  })

  test('renewing goes on for twelve hours from the first sign-in, and the sessions end with it', async () => {
    const { broker, clock, asked } = make()
    clock.now += (TOTAL_LIFETIME - 1800) * 1000
    const late = await broker.credentials(ada, repository, 'upload')
    expect(asked[0]?.duration).toBe(1800)
    expect(late.renew?.expires_at).toBe(new Date(START + TOTAL_LIFETIME * 1000).toISOString())
    clock.now += 1800 * 1000
    await expect(broker.credentials(ada, repository, 'upload')).rejects.toMatchObject({
      code: 'unauthorized',
    })
  })
})

describe('a session that a later sign-in of the same user got', () => {
  const long = { expiresIn: TOTAL_LIFETIME }
  const expiry = (answer: object) => Date.parse('expires_at' in answer ? String(answer.expires_at) : '')

  test('is not handed out to who may go on for less: that one gets its own, which nobody else does', async () => {
    const { broker, clock, asked } = make(long)
    clock.now += (TOTAL_LIFETIME - 1000) * 1000
    const later = { ...ada, authTime: clock.now / 1000 }
    const shared = await broker.credentials(later, repository, 'upload')
    expect(expiry(shared)).toBe(clock.now + TOTAL_LIFETIME * 1000)
    const own = await broker.credentials(ada, repository, 'upload')
    expect(asked.map(({ duration }) => duration)).toEqual([TOTAL_LIFETIME, 1000])
    expect(expiry(own)).toBe(START + TOTAL_LIFETIME * 1000)
    expect(await broker.credentials(later, repository, 'upload')).toMatchObject({ access_key_id: 'key1' })
    // STS gives no session of less than 900 s.
    clock.now += 800_000
    const last = await broker.credentials(ada, repository, 'upload')
    expect(expiry(last)).toBe(clock.now + 900_000)
    expect(asked.length).toBe(3)
  })

  test('not even when both ask at once', async () => {
    const { broker, clock, asked } = make(long)
    clock.now += (TOTAL_LIFETIME - 1000) * 1000
    const later = { ...ada, authTime: clock.now / 1000 }
    const [, own] = await Promise.all(
      [later, ada].map((who) => broker.credentials(who, repository, 'upload')),
    )
    expect(expiry(own as object)).toBe(START + TOTAL_LIFETIME * 1000)
    expect(asked.length).toBe(2)
  })
})

describe('without STS', () => {
  test('a token for the transfers route, and how to renew it', async () => {
    const { broker, tokens } = make({ sts: false })
    const answer = await broker.credentials(ada, repository, 'download')
    expect(answer).toEqual({
      driver: 'url',
      transfers: 'https://lfs.example/foo/bar/info/lfs/transfers',
      token: expect.any(String),
      expires_at: new Date(START + 3_600_000).toISOString(),
      renew: expect.objectContaining({ href: 'https://lfs.example/foo/bar/info/lfs/credentials' }),
    })
    const transfer = await token(tokens, 'token' in answer ? answer.token : '')
    expect(transfer).toMatchObject({ use: 'transfer', operation: 'download', authTime: ada.authTime })
  })
})
