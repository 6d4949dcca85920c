import { execFileSync } from 'node:child_process'
import path from 'node:path'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { generateKey, SecretBox } from '../../src/auth/secret-box.ts'
import { connect } from '../../src/database/connect.ts'
import { testPostgres } from '../helpers/postgres.ts'
import { makeSandbox, type Sandbox } from './run-cli.ts'

const [old, mine] = [generateKey(), generateKey()]
const ISSUER = 'https://idp.example'
let box: Sandbox
let url: string

/** As tokenstore's SQLAlchemy model and cryptography.fernet write it. */
const OLD = `import sqlite3, sys
from cryptography.fernet import Fernet
file, key = sys.argv[1:]
db = sqlite3.connect(file)
db.execute('create table refresh_token (id integer primary key, provider text, token blob, expires_in integer, expires_at float, user_id text)')
for row in [('idp1', 'older', 'sub-1'), ('idp1', 'newer', 'sub-1'), ('gone', 'x', 'sub-1'), ('idp1', 'other', "s'; drop table users;--")]:
    db.execute('insert into refresh_token (provider, token, user_id) values (?, ?, ?)', (row[0], Fernet(key).encrypt(row[1].encode()), row[2]))
db.commit()`

beforeEach(async () => {
  box = await makeSandbox()
  url = `sqlite:${box.cwd}/timone.db`
  execFileSync('/usr/bin/python3', ['-c', OLD, path.join(box.cwd, 'old.db'), old])
})
afterEach(() => box.remove())

const run = (keys: string, yes?: '--yes', from = 'old.db') =>
  box.timone(
    ['import', 'tokenstore', from, '--issuer', ISSUER, '--json', ...(yes === undefined ? [] : [yes])],
    {
      env: {
        ...box.env,
        TIMONE_DATABASE_URL: url,
        TIMONE_SECRET_KEYS: keys,
        TOKEN_PROVIDERS: 'idp1',
        IDP1_DISCOVERY_URL: ISSUER,
        IDP1_CLIENT_ID: 'x',
      },
    },
  )

async function leases(): Promise<{ owner: string; source: string; refresh_token: string | null }[]> {
  const database = await connect(url)
  const rows = await database.db
    .selectFrom('leases')
    .select(['owner', 'source', 'refresh_token'])
    .orderBy('owner')
    .execute()
  await database.close()
  return rows
}

test('says what it would do, then does it, then finds it done', async () => {
  const dry = await run(`${mine},${old}`)
  expect(JSON.parse(dry.stdout)).toEqual({
    rows: 4,
    imported: 2,
    present: 0,
    unknown_provider: 1,
    dry_run: true,
  })
  expect(await leases()).toEqual([])
  expect(JSON.parse((await run(`${mine},${old}`, '--yes')).stdout)).toMatchObject({
    imported: 2,
    dry_run: false,
  })
  const rows = await leases()
  const texts = rows.map(({ refresh_token }) => new SecretBox([mine]).open(refresh_token ?? ''))
  expect(texts.sort()).toEqual(['newer', 'other'])
  expect(JSON.parse((await run(`${mine},${old}`, '--yes')).stdout)).toMatchObject({ imported: 0, present: 2 })
})

test('the same from Postgres, whose bytea holds the tokens', async () => {
  const postgres = await testPostgres()
  try {
    await postgres.query(
      'create table refresh_token (id serial primary key, provider varchar, token bytea, expires_in integer, expires_at float, user_id varchar)',
    )
    const sealed = new SecretBox([old]).seal('from postgres')
    await postgres.query(
      `insert into refresh_token (provider, token, expires_at, user_id) values ('idp1', convert_to('${sealed}', 'utf8'), 1.5, 'sub-9')`,
    )
    const { stdout } = await run(`${mine},${old}`, '--yes', postgres.url)
    expect(JSON.parse(stdout)).toMatchObject({ rows: 1, imported: 1 })
    const [row] = await leases()
    expect(new SecretBox([mine]).open(row?.refresh_token ?? '')).toBe('from postgres')
  } finally {
    await postgres.drop()
  }
})

test('without the old key: says so, writes nothing, shows no secret', async () => {
  const { code, stderr } = await run(mine, '--yes')
  expect(code).toBe(2)
  expect(stderr).toContain('CRYPTOKEY')
  expect(stderr).toContain(new SecretBox([mine]).keyId)
  expect(await leases()).toEqual([])
})

test('a file that is not there is not made', async () => {
  const { code, stderr } = await box.timone(['import', 'tokenstore', 'nothing.db', '--issuer', ISSUER], {
    env: { ...box.env, TIMONE_SECRET_KEYS: mine },
  })
  expect(code).toBe(2)
  expect(stderr).toContain('cannot read the table refresh_token')
})
