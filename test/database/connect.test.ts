import { once } from 'node:events'
import { chmod, mkdtemp, rm, stat, writeFile } from 'node:fs/promises'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { DatabaseSync } from 'node:sqlite'
import { sql } from 'kysely'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { connect, type Database } from '../../src/database/connect.ts'
import { migrate } from '../../src/database/migrations.ts'
import { isTimoneError, type TimoneError } from '../../src/errors.ts'
import { type TestDatabase, testPostgres } from '../helpers/postgres.ts'

let folder: string
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'timone-database-'))
})
afterEach(() => rm(folder, { recursive: true, force: true }))

const row = (id: string) => ({
  id,
  repository: 'org/repo',
  path: id,
  path_key: id,
  owner_subject: 'ada',
  owner_name: 'ada',
  locked_at: '2026-11-22T10:00:00.000Z',
})

async function failure(work: Promise<unknown>): Promise<TimoneError> {
  const error = await work.then(
    () => expect.fail('it worked'),
    (thrown: unknown) => thrown,
  )
  if (!isTimoneError(error)) throw error
  return error
}

describe.each(['sqlite', 'postgres'] as const)('%s', (kind) => {
  let postgres: TestDatabase | undefined
  let url: string
  const open: Database[] = []
  const opened = async (): Promise<Database> => {
    const database = await connect(url)
    open.push(database)
    return database
  }
  beforeEach(async () => {
    postgres = kind === 'postgres' ? await testPostgres() : undefined
    url = postgres?.url ?? `sqlite:${join(folder, 'a new folder', 'timone.db')}`
  })
  afterEach(async () => {
    for (const database of open.splice(0)) await database.close()
    await postgres?.drop()
  })

  test('what was written is there after it was closed and opened again', async () => {
    const first = await opened()
    await first.check()
    await first.db.insertInto('lfs_locks').values(row('a')).execute()
    await first.close()
    const second = await opened()
    expect(await second.db.selectFrom('lfs_locks').selectAll().execute()).toEqual([row('a')])
  })

  test('a transaction that fails leaves nothing', async () => {
    const { db } = await opened()
    await expect(
      db.transaction().execute(async (transaction) => {
        await transaction.insertInto('lfs_locks').values(row('a')).execute()
        throw new RangeError('on purpose')
      }),
    ).rejects.toThrow('on purpose')
    expect(await db.selectFrom('lfs_locks').select('id').execute()).toEqual([])
  })

  test('a migration that fails leaves nothing, and is made when it is tried again', async () => {
    const { db } = await opened()
    let works = false
    const steps = {
      '0001_lfs_locks': { up: async () => {} },
      '0002_identity': { up: async () => {} },
      '0003_sign_in': { up: async () => {} },
      '0005_usage': { up: async () => {} },
      '0006_leases': { up: async () => {} },
      '0007_outbox': { up: async () => {} },
      '9999_more': {
        up: async (at: typeof db) => {
          await at.schema.createTable('more').addColumn('id', 'text').execute()
          if (!works) throw new RangeError('on purpose')
        },
      },
    }
    expect((await failure(migrate(db, steps))).code).toBe('config')
    expect((await db.introspection.getTables()).map(({ name }) => name)).not.toContain('more')
    works = true
    await migrate(db, steps)
    expect((await db.introspection.getTables()).map(({ name }) => name)).toContain('more')
    // And a timone that does not know that step refuses to work on these tables.
    const error = await failure(connect(url))
    expect(error.code).toBe('config')
    expect(error.message).toContain('9999_more')
  })

  test('a query that makes no sense is internal, and its text and values stay inside', async () => {
    const { db } = await opened()
    const error = await failure(sql`select hush from ${sql.lit('sesame')}`.execute(db))
    expect(error.code).toBe('internal')
    expect(error.message).not.toMatch(/hush|sesame/)
    const twice = db
      .insertInto('lfs_locks')
      .values([row('a'), row('a')])
      .execute()
    expect((await failure(twice)).code).toBe('internal')
  })
})

describe('postgres', () => {
  let postgres: TestDatabase
  beforeAll(async () => {
    postgres = await testPostgres()
  })
  afterAll(() => postgres.drop())

  test('eight that start at once on an empty database all come up', async () => {
    const all = await Promise.all(Array.from({ length: 8 }, () => connect(postgres.url)))
    for (const database of all) {
      await database.check()
      await database.close()
    }
  })

  test('connections that the server cuts off are replaced, idle or in use', async () => {
    const database = await connect(postgres.url)
    const cutOff = () =>
      postgres.query(
        "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'timone' and datname = current_database()",
      )
    const sleeping = failure(sql`select pg_sleep(8)`.execute(database.db))
    const deadline = Date.now() + 5_000
    while ((await cutOff()).length === 0 && Date.now() < deadline);
    expect((await sleeping).code).toBe('unavailable')
    await database.check()
    await cutOff()
    // The first query may still be given the dead connection; one more is not.
    await database.check().catch(() => {})
    await database.check()
    await database.close()
  })

  test('nobody there, a wrong password and a wrong name are unavailable, without the password', async () => {
    const nobody = createServer().listen(0, '127.0.0.1')
    await once(nobody, 'listening')
    const { port } = nobody.address() as { port: number }
    nobody.close()
    await once(nobody, 'close')
    const away = await failure(connect(`postgres://lfs:sesame@127.0.0.1:${port}/timone`))
    expect(away.code).toBe('unavailable')
    expect(away.message).toContain(`timone at 127.0.0.1:${port}`)
    expect(away.message).toContain('ECONNREFUSED')

    const wrong = new URL(postgres.url)
    wrong.password = 'sesame'
    const refused = await failure(connect(wrong.href))
    expect(refused.code).toBe('unavailable')
    expect(refused.message).toContain('password authentication failed')
    const absent = new URL(postgres.url)
    absent.pathname = '/no_such_database'
    expect((await failure(connect(absent.href))).message).toContain('does not exist')
    for (const { message } of [away, refused]) expect(message).not.toContain('sesame')
  })

  test('one that takes the connection and says nothing is unavailable after five seconds', async () => {
    const silent = createServer(() => {}).listen(0, '127.0.0.1')
    await once(silent, 'listening')
    const { port } = silent.address() as { port: number }
    const started = Date.now()
    const error = await failure(connect(`postgres://lfs@127.0.0.1:${port}/timone`))
    expect(error.code).toBe('unavailable')
    expect(Date.now() - started).toBeLessThan(8_000)
    silent.close()
  })
})

describe('sqlite', () => {
  test('the file is for its owner only, also what SQLite puts beside it', async () => {
    const file = join(folder, 'timone.db')
    const database = await connect(`sqlite:${file}`)
    await database.db.insertInto('lfs_locks').values(row('a')).execute()
    for (const name of [file, `${file}-wal`, `${file}-shm`])
      expect((await stat(name)).mode & 0o777).toBe(0o600)
    await database.close()
  })

  test('so are the folders that are made for it; one that is there stays as it is', async () => {
    const modeOf = async (path: string) => (await stat(path)).mode & 0o777
    await (await connect(`sqlite:${join(folder, 'a', 'data', 'timone.db')}`)).close()
    expect([await modeOf(join(folder, 'a')), await modeOf(join(folder, 'a', 'data'))]).toEqual([0o700, 0o700])
    await chmod(folder, 0o755)
    await (await connect(`sqlite:${join(folder, 'timone.db')}`)).close()
    expect(await modeOf(folder)).toBe(0o755)
  })

  test('commits are durable: WAL, each synced', async () => {
    const database = await connect(`sqlite:${join(folder, 'timone.db')}`)
    const { rows: mode } = await sql<{ journal_mode: string }>`pragma journal_mode`.execute(database.db)
    const { rows: sync } = await sql<{ synchronous: number }>`pragma synchronous`.execute(database.db)
    expect([mode[0]?.journal_mode, sync[0]?.synchronous]).toEqual(['wal', 2])
    await database.close()
  })

  test('no database, a folder, and nowhere are unavailable', async () => {
    await writeFile(join(folder, 'text'), 'no database, but text, and plenty of it\n'.repeat(100))
    for (const name of ['text', '.', 'text/below']) {
      const error = await failure(connect(`sqlite:${join(folder, name)}`))
      expect([name, error.code]).toEqual([name, 'unavailable'])
      expect(error.message).toContain(folder)
    }
  })

  test('a file that another process keeps locked is unavailable, not for ever', async () => {
    const file = join(folder, 'timone.db')
    const database = await connect(`sqlite:${file}`)
    const other = new DatabaseSync(file)
    other.exec('begin immediate')
    const error = await failure(database.db.insertInto('lfs_locks').values(row('a')).execute())
    expect(error.code).toBe('unavailable')
    other.exec('rollback')
    await database.db.insertInto('lfs_locks').values(row('a')).execute()
    other.close()
    await database.close()
  })
})

test('other URLs are the caller’s mistake', async () => {
  await expect(connect('mysql://host/db')).rejects.toThrow(TypeError)
})
