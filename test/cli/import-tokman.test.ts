import { execFileSync } from 'node:child_process'
import path from 'node:path'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { generateKey, SecretBox } from '../../src/auth/secret-box.ts'
import { connect } from '../../src/database/connect.ts'
import { type TestDatabase, testPostgres } from '../helpers/postgres.ts'
import { makeSandbox, type Sandbox } from './run-cli.ts'

const KEY = generateKey()
let box: Sandbox
let url: string

/** As SQLAlchemy writes a DateTime: UTC, no zone, microseconds. */
const hence = (minutes: number): string =>
  new Date(Date.now() + minutes * 60_000).toISOString().replace('T', ' ').replace('Z', '123')

const ROWS: readonly [repo: string, token: string | null, end: string | null][] = [
  ['Foo/Bar', 'ghs_live', hence(50)],
  ['foo/bar', 'ghs_older', hence(20)],
  ['foo/ended', 'ghs_ended', hence(-1)],
  ['foo/empty', null, null],
  ["foo/'); drop table leases;--", 'ghs_injected', hence(50)],
  ['acme/tools', 'ghs_tools', hence(55)],
]
const quoted = (text: string | null) => (text === null ? 'null' : `'${text.replaceAll("'", "''")}'`)
const INSERT = `insert into tokens (repo, token, expires_at) values ${ROWS.map(
  (row) => `(${row.map(quoted).join(', ')})`,
).join(', ')}`

beforeEach(async () => {
  box = await makeSandbox()
  url = `sqlite:${box.cwd}/timone.db`
})
afterEach(() => box.remove())

const run = (from: string, ...args: string[]) =>
  box.timone(['import', 'tokman', from, ...args], {
    env: { ...box.env, TIMONE_DATABASE_URL: url, TIMONE_SECRET_KEYS: KEY },
  })

async function leases() {
  const database = await connect(url)
  const rows = await database.db.selectFrom('leases').selectAll().orderBy('resource').execute()
  await database.close()
  return rows
}

describe.each(['sqlite', 'postgres'] as const)('timone import tokman from %s', (kind) => {
  let postgres: TestDatabase | undefined
  let from: string

  beforeEach(async () => {
    if (kind === 'postgres') {
      postgres = await testPostgres()
      from = postgres.url
      await postgres.query(
        'create table tokens (id serial primary key, repo varchar unique not null, token varchar, expires_at timestamp)',
      )
      await postgres.query(INSERT)
      return
    }
    from = path.join(box.cwd, 'tokman.db')
    const script =
      'import sqlite3, sys; db = sqlite3.connect(sys.argv[1]); ' +
      "db.execute('create table tokens (id integer primary key, repo varchar unique not null, token varchar, expires_at datetime)'); " +
      'db.execute(sys.argv[2]); db.commit()'
    execFileSync('/usr/bin/python3', ['-c', script, from, INSERT])
  })
  afterEach(() => postgres?.drop())

  test('says what it would do, then does it, then finds it done', async () => {
    const dry = await run(from, '--json')
    expect(JSON.parse(dry.stdout)).toEqual({ rows: 6, imported: 2, present: 0, ended: 4, dry_run: true })
    expect(await leases()).toEqual([])

    const done = await run(from, '--yes')
    expect(done).toMatchObject({ code: 0 })
    expect(done.stdout).toContain('6 rows: 2 tokens taken over, 0 are here already, 4 have ended')
    expect(done.stdout + done.stderr).not.toContain('ghs_')
    const rows = await leases()
    expect(rows).toMatchObject([
      { owner: '', source: 'github', resource: 'acme/tools', state: 'active', refresh_token: null },
      { owner: '', source: 'github', resource: 'foo/bar', state: 'active', refresh_token: null },
    ])
    const opened = rows.map(({ access_token }) => new SecretBox([KEY]).open(access_token ?? ''))
    expect(opened).toEqual(['ghs_tools', 'ghs_live'])
    const ends = Date.parse(rows[1]?.expires_at ?? '') - Date.now()
    expect(ends / 60_000).toBeGreaterThan(48)
    expect(ends / 60_000).toBeLessThan(51)

    const again = await run(from, '--yes', '--json')
    expect(JSON.parse(again.stdout)).toMatchObject({ imported: 0, present: 2 })
  })
})

test('a file that is not there is not made, one of another program is said so', async () => {
  const missing = await run('nothing.db')
  expect(missing.code).toBe(2)
  expect(missing.stderr).toContain('cannot read the table tokens of tokman')
  execFileSync('/usr/bin/python3', [
    '-c',
    "import sqlite3, sys; sqlite3.connect(sys.argv[1]).execute('create table other (x)')",
    path.join(box.cwd, 'other.db'),
  ])
  expect(await run('other.db')).toMatchObject({ code: 2 })
})
