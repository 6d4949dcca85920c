import { decodeProtectedHeader } from 'jose'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { parseScopes } from '../../src/auth/scope.ts'
import { generateKey } from '../../src/auth/secret-box.ts'
import { Tokens } from '../../src/auth/tokens.ts'
import { connect, type Database } from '../../src/database/connect.ts'
import { createIdentity } from '../../src/identity/identity.ts'
import { type TestDatabase, testPostgres } from '../helpers/postgres.ts'
import { makeSandbox, type Sandbox } from './run-cli.ts'

const URL = 'https://timone.example'
const SECRET = 'a secret of the tests, long enough for all'
const KEY = generateKey()

describe.each(['sqlite', 'postgres'] as const)('timone token rotate-keys on %s', (kind) => {
  let sandbox: Sandbox
  let postgres: TestDatabase | undefined
  let url: string
  let database: Database
  let ahead: number
  beforeEach(async () => {
    sandbox = await makeSandbox()
    postgres = kind === 'postgres' ? await testPostgres() : undefined
    url = postgres?.url ?? `sqlite:${sandbox.cwd}/timone.db`
    database = await connect(url)
    ahead = 0
  })
  afterEach(async () => {
    await database.close()
    await postgres?.drop()
    await sandbox.remove()
  })

  const settings = (more: Record<string, string> = {}) => ({
    env: {
      ...sandbox.env,
      TIMONE_DATABASE_URL: url,
      TIMONE_TOKEN_SECRET: SECRET,
      TIMONE_SECRET_KEYS: KEY,
      TIMONE_AUTH_SIGNING: 'EdDSA',
      ...more,
    },
  })
  /** A server of two on this database. */
  const instance = (later = 0) => {
    const now = (): number => Date.now() + ahead + later
    const identity = createIdentity({
      db: database.db,
      url: URL,
      tokenSecret: SECRET,
      secretKeys: [KEY],
      signing: 'EdDSA',
      now,
    })
    const tokens = new Tokens({
      secret: SECRET,
      issuer: URL,
      requireScope: true,
      issued: identity.check,
      now,
    })
    return { identity, tokens }
  }

  test('what the old key signed lives on until it expires, on every server; --forget-old ends it', async () => {
    const [here, there] = [instance(), instance()]
    const user = await here.identity.users.add({ login: 'ada' }, '')
    const issue = async (by: typeof here): Promise<string> => {
      const scopes = parseScopes('lfs:*:r')
      const issued = await by.identity.issued.issue({
        subject: 'ada',
        userId: user.id,
        scopes,
        client: 'test',
        expiresIn: 3600,
      })
      return issued.token
    }
    const first = await issue(here)
    expect((await there.tokens.verify(first)).subject).toBe('ada')

    const rotated = await sandbox.timone(['token', 'rotate-keys', '--json'], settings())
    expect(rotated.code).toBe(0)
    const { kid, alg, forgotten } = JSON.parse(rotated.stdout)
    expect({ alg, forgotten }).toEqual({ alg: 'EdDSA', forgotten: [] })
    ahead = 61_000
    const second = await issue(there)
    expect(decodeProtectedHeader(second).kid).toBe(kid)
    expect(decodeProtectedHeader(first).kid).not.toBe(kid)
    for (const { tokens } of [here, there])
      for (const token of [first, second]) expect((await tokens.verify(token)).subject).toBe('ada')
    expect((await here.identity.keys.jwks()).keys.map((key) => key.kid)).toContain(kid)
    await expect(instance(3_600_000).tokens.verify(first)).rejects.toMatchObject({ code: 'unauthorized' })

    const leaked = await sandbox.timone(['token', 'rotate-keys', '--forget-old'], settings())
    expect(leaked).toMatchObject({ code: 0, stdout: expect.stringContaining(`the key ${kid} is forgotten`) })
    ahead = 122_000
    const third = await issue(here)
    for (const { tokens, identity } of [here, there]) {
      for (const token of [first, second])
        await expect(tokens.verify(token)).rejects.toMatchObject({ code: 'unauthorized' })
      expect((await tokens.verify(third)).subject).toBe('ada')
      expect((await identity.keys.jwks()).keys).toHaveLength(1)
    }
    const events = await database.db.selectFrom('events').select('action').execute()
    const count = (action: string): number => events.filter((event) => event.action === action).length
    expect([count('key.rotate'), count('key.forget')]).toEqual([3, 2])
  })

  test('says what to do where the token secret signs, or a key is missing; the private half is never printed', async () => {
    const secret = await sandbox.timone(['token', 'rotate-keys'], settings({ TIMONE_AUTH_SIGNING: 'HS256' }))
    expect(secret).toMatchObject({ code: 2, stderr: expect.stringContaining('TIMONE_TOKEN_SECRET') })
    const { TIMONE_SECRET_KEYS: _, ...env } = settings().env
    const missing = await sandbox.timone(['token', 'rotate-keys'], { env })
    expect(missing).toMatchObject({ code: 2, stderr: expect.stringContaining('TIMONE_SECRET_KEYS') })
    const { code, stdout, stderr } = await sandbox.timone(['token', 'rotate-keys'], settings())
    expect(code).toBe(0)
    expect(stdout + stderr).not.toMatch(/PRIVATE|"d"/)
  })
})
