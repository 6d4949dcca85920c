import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { DatabaseSync } from 'node:sqlite'
import { PutObjectCommand, S3Client } from '@aws-sdk/client-s3'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import type { S3Credentials } from '../../src/access/credentials.ts'
import { generateKey } from '../../src/auth/secret-box.ts'
import { Tokens } from '../../src/auth/tokens.ts'
import { type FaultProxy, faultProxy } from '../helpers/fault-proxy.ts'
import { type TestDatabase, testPostgres } from '../helpers/postgres.ts'
import { testS3 } from '../helpers/s3.ts'
import { type Serving, startServing } from '../helpers/serving.ts'
import { type Answer, post, SECRET } from '../server/harness.ts'

// SQLite has one process for each file; what two of them do is Postgres's.
describe.each([
  ['sqlite', 1],
  ['postgres', 2],
] as const)('storage sessions in %s, %i server processes', (kind, count) => {
  const s3 = testS3()
  const servers: Serving[] = []
  let postgres: TestDatabase | undefined
  let folder: string
  let sts: FaultProxy

  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), 'timone sessions '))
    postgres = kind === 'postgres' ? await testPostgres() : undefined
    sts = await faultProxy(s3.url)
    const env = {
      TIMONE_DATABASE_URL: postgres?.url ?? `sqlite:${join(folder, 'timone.db')}`,
      TIMONE_TOKEN_SECRET: SECRET,
      TIMONE_SECRET_KEYS: generateKey(),
      TIMONE_LOG_LEVEL: 'debug',
      TIMONE_STORAGE: 's3',
      TIMONE_STORAGE_S3_URL: s3.url,
      TIMONE_STORAGE_S3_REGION: s3.region,
      TIMONE_STORAGE_S3_BUCKET: s3.bucket,
      TIMONE_STORAGE_S3_KEY: s3.credentials.accessKeyId,
      TIMONE_STORAGE_S3_SECRET: s3.credentials.secretAccessKey,
      TIMONE_STORAGE_S3_PREFIX: s3.prefix,
      TIMONE_STORAGE_S3_ROLE_ARN: s3.roleArn,
      TIMONE_STORAGE_S3_STS_URL: sts.url,
    }
    for (let number = 0; number < count; number++) servers.push(await startServing(env))
  }, 60_000)
  afterAll(async () => {
    for (const server of servers) await server.stop()
    await sts.close()
    await postgres?.drop()
    await rm(folder, { recursive: true })
  })

  /** What `user` gets from one of the servers. */
  async function ask(
    number: number,
    { user = 'ada', repository = 'foo/bar', operation = 'upload' } = {},
  ): Promise<Answer> {
    const { url } = servers[number % count] as Serving
    const tokens = new Tokens({ secret: SECRET, issuer: url, requireScope: false })
    const token = await tokens.issueUser({ user, scopes: ['lfs:foo/*:rw'] })
    return post(`${url}/${repository}/info/lfs/credentials`, { operation }, `Bearer ${token}`)
  }
  const rows = async (): Promise<unknown[]> => {
    if (postgres !== undefined) return postgres.query('select * from leases')
    const database = new DatabaseSync(join(folder, 'timone.db'), { readOnly: true })
    try {
      return database.prepare('select * from leases').all()
    } finally {
      database.close()
    }
  }

  test('50 callers at once: one AssumeRole, whose keys open the storage, and are sealed in the table', async () => {
    const answers = await Promise.all(Array.from({ length: 50 }, (_, number) => ask(number)))
    expect(answers.map(({ status }) => status)).toEqual(Array(50).fill(200))
    expect(sts.requests.length).toBe(1)
    expect(new Set(answers.map(({ json }) => json.access_key_id)).size).toBe(1)

    const keys = answers[0]?.json as S3Credentials
    const client = new S3Client({
      endpoint: s3.url,
      region: s3.region,
      forcePathStyle: true,
      credentials: {
        accessKeyId: keys.access_key_id,
        secretAccessKey: keys.secret_access_key,
        sessionToken: keys.session_token,
      },
    })
    const put = (path: string) =>
      client.send(new PutObjectCommand({ Bucket: s3.bucket, Key: `${s3.prefix}${path}`, Body: 'x' }))
    await put('foo/bar/x')
    await expect(put('foo/other/x')).rejects.toMatchObject({ name: 'AccessDenied' })
    client.destroy()

    expect(await rows()).toEqual([
      expect.objectContaining({ owner: 'subject:ada', source: 'sts', refresh_token: null, state: 'active' }),
    ])
    for (const text of [JSON.stringify(await rows()), ...servers.map(({ log }) => log())]) {
      expect(text).not.toContain(keys.secret_access_key)
      expect(text).not.toContain(keys.session_token)
      expect(text).not.toContain(keys.access_key_id)
    }
  })

  test('another direction, repository or user is another session', async () => {
    const before = sts.requests.length
    const first = (await ask(0)).json.access_key_id
    const others = await Promise.all([
      ask(0, { operation: 'download' }),
      ask(1, { repository: 'foo/other' }),
      ask(0, { user: 'bob' }),
      ask(1, { user: 'bob' }),
    ])
    const ids = new Set([first, ...others.map(({ json }) => json.access_key_id)])
    expect(ids.size).toBe(4)
    expect(sts.requests.length - before).toBe(3)
  })

  test('STS away: what is kept goes on, for the rest 429 with Retry-After, never 503', async () => {
    sts.fault = () => ({ kind: 'reset' })
    expect((await ask(1)).status).toBe(200)
    const answer = await ask(0, { user: 'cleo' })
    expect(answer.status).toBe(429)
    expect(Number(answer.headers.get('retry-after'))).toBeGreaterThan(0)
    sts.fault = () => undefined
    expect((await ask(0, { user: 'cleo' })).status).toBe(200)
  }, 30_000)

  test('an STS that hangs: 429 in time', async () => {
    sts.fault = () => ({ kind: 'wait', until: () => false })
    const started = performance.now()
    const answer = await ask(0, { user: 'dora' })
    expect(answer.status).toBe(429)
    expect(performance.now() - started).toBeLessThan(15_000)
    sts.fault = () => undefined
  }, 30_000)
})
