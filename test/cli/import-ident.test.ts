import { execFileSync } from 'node:child_process'
import { writeFile } from 'node:fs/promises'
import path from 'node:path'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { generateKey, SecretBox } from '../../src/auth/secret-box.ts'
import { connect } from '../../src/database/connect.ts'
import { Ident } from '../../src/identity/ident.ts'
import { type TestDatabase, testPostgres } from '../helpers/postgres.ts'
import { makeSandbox, type Sandbox } from './run-cli.ts'

const [old, mine] = [generateKey(), generateKey()]

/** As python-cryptography writes it. */
const fernet = (text: string): string => {
  const program =
    'import sys; from cryptography.fernet import Fernet; print(Fernet(sys.argv[1]).encrypt(sys.argv[2].encode()).decode())'
  return execFileSync('/usr/bin/python3', ['-c', program, old, text], { encoding: 'utf8' }).trim()
}

describe.each(['sqlite', 'postgres'] as const)('timone import ident into %s', (kind) => {
  let box: Sandbox
  let theirs: TestDatabase
  let ours: TestDatabase | undefined
  let url: string
  beforeEach(async () => {
    box = await makeSandbox()
    theirs = await testPostgres()
    ours = kind === 'postgres' ? await testPostgres() : undefined
    url = ours?.url ?? `sqlite:${box.cwd}/timone.db`
    for (const text of [
      "create type sv as enum ('fb', 'gh')",
      'create table users (id serial primary key, name text not null, picture_url text, email_address text unique)',
      'create table services (user_id int references users, sv_id int, sv_name sv, access_token bytea, ' +
        'unique (sv_id, sv_name), primary key (sv_name, user_id))',
      "insert into users values (7, 'Ada', 'https://x.example/a.png', 'Ada@example.com'), " +
        "(9, E'Bob\\r\\nX: y', 'javascript:alert(1)', null)",
      `insert into services values (7, 42, 'gh', '${fernet('gho_secret')}'), (7, 43, 'fb', null)`,
    ])
      await theirs.query(text)
  })
  afterEach(async () => {
    await theirs.drop()
    await ours?.drop()
    await box.remove()
  })
  const run = (keys: string, ...args: string[]) =>
    box.timone(['import', 'ident', theirs.url, '--json', ...args], {
      env: { ...box.env, TIMONE_DATABASE_URL: url, TIMONE_SECRET_KEYS: keys },
    })
  const open = async <T>(
    work: (ident: Ident, db: Awaited<ReturnType<typeof connect>>['db']) => Promise<T>,
  ) => {
    const database = await connect(url)
    try {
      return await work(new Ident({ db: database.db, box: new SecretBox([mine]) }), database.db)
    } finally {
      await database.close()
    }
  }
  const count = () => open(async (_ident, db) => (await db.selectFrom('users').select('id').execute()).length)

  test('says what it would do, then does it, then finds it done', async () => {
    const dry = await run(`${mine},${old}`)
    expect(JSON.parse(dry.stdout)).toEqual({ users: 2, imported: 2, present: 0, taken: 0, dry_run: true })
    expect(await count()).toBe(0)
    const done = await run(`${mine},${old}`, '--yes')
    expect(done.code).toBe(0)
    expect(JSON.parse(done.stdout)).toMatchObject({ imported: 2, dry_run: false })
    expect(done.stdout + done.stderr).not.toContain('gho_secret')
    await open(async (ident, db) => {
      expect(await ident.get({ github_id: 42 }, { withTokens: true })).toEqual({
        id: 7,
        name: 'Ada',
        email: 'Ada@example.com',
        picture_url: 'https://x.example/a.png',
        github: { id: 42, access_token: 'gho_secret' },
        facebook: { id: 43 },
      })
      expect(await ident.get({ user_id: 9 })).toEqual({ id: 9, name: 'Bob X: y' })
      const made = await ident.create({ name: 'New', email: 'new@example.com' }, { actor: '', source: '' })
      expect(made.user_id).toBeGreaterThan(9)
      const actions = await db.selectFrom('events').select('action').orderBy('id').execute()
      expect(actions.map(({ action }) => action)).toEqual(['user.import', 'user.import', 'user.create'])
    })
    expect(JSON.parse((await run(`${mine},${old}`, '--yes')).stdout)).toMatchObject({
      imported: 0,
      present: 2,
    })
  })

  test('a number, an address or an identity that is somebody else’s here: said, and nothing of that user', async () => {
    const by = { actor: '', source: '' }
    await open((ident) => ident.create({ name: 'Eve', email: 'eve@example.com', facebook: { id: 43 } }, by))
    const outcome = await run(`${mine},${old}`, '--yes')
    expect(outcome.code).toBe(1)
    expect(JSON.parse(outcome.stdout)).toMatchObject({ imported: 1, taken: 1 })
    expect(outcome.stderr).toContain('user 7')
    await open(async (ident) => {
      await expect(ident.get({ user_id: 7 })).rejects.toMatchObject({ code: 'not_found' })
      await expect(ident.get({ github_id: 42 })).rejects.toMatchObject({ code: 'not_found' })
    })
  })

  test('its settings file names its database, which is no place for our tables: said, and left as it is', async () => {
    const { hostname: host, port, username: user, password, pathname } = new URL(theirs.url)
    const place = { host, port: Number(port || 5432), user, password, database: pathname.slice(1) }
    const lines = Object.entries(place)
      .filter(([, value]) => value !== '')
      .map(([key, value]) => `${key} = ${JSON.stringify(value)}\n`)
    const file = path.join(box.cwd, 'ident.toml')
    await writeFile(file, `[database]\nencryption_key = "${old}"\n[database.postgres]\n${lines.join('')}`)
    const env = { ...box.env, GLOTPOD_IDENT_SETTINGS: file }
    const refused = await box.timone(['migrate'], { env })
    expect(refused.code).toBe(2)
    expect(refused.stderr).toContain('a database of its own, TIMONE_DATABASE_URL')
    expect(await theirs.query("select from pg_tables where tablename like 'lfs%'")).toEqual([])
    const done = await box.timone(['import', 'ident', theirs.url, '--yes'], {
      env: { ...env, TIMONE_DATABASE_URL: url },
    })
    expect(done).toMatchObject({ code: 0, stdout: '2 users: 2 taken over, 0 are here already\n' })
  })

  test('without the old key: says so, and writes nothing', async () => {
    const { code, stderr } = await run(mine, '--yes')
    expect(code).toBe(2)
    expect(stderr).toContain('encryption_key')
    expect(await count()).toBe(0)
  })
})
