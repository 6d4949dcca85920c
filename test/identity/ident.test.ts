import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { SecretBox } from '../../src/auth/secret-box.ts'
import { connect, type Database } from '../../src/database/connect.ts'
import { Ident } from '../../src/identity/ident.ts'
import {
  type PatchOperation,
  readNewIdent,
  readOperations,
  readQuery,
} from '../../src/identity/ident-document.ts'
import { type TestDatabase, testPostgres } from '../helpers/postgres.ts'

const BY = { actor: '', source: 'test' }
const TOKEN = 'gho_secret-token-of-ada'
const code = (value: string) => expect.objectContaining({ code: value }) as Error

describe.each(['sqlite', 'postgres'] as const)('users in %s', (kind) => {
  let postgres: TestDatabase | undefined
  let database: Database
  let ident: Ident
  const box = new SecretBox(['k'.repeat(32)])
  let count = 0

  beforeAll(async () => {
    postgres = kind === 'postgres' ? await testPostgres() : undefined
    database = await connect(postgres?.url ?? 'sqlite::memory:')
    ident = new Ident({ db: database.db, box })
  })
  afterAll(async () => {
    await database.close()
    await postgres?.drop()
  })

  /** A user that no other test uses. */
  const make = async (given: object = {}): Promise<{ id: number; email: string; github: number }> => {
    const number = ++count
    const [email, github] = [`ada${number}@example.com`, 5_000_000_000 + number]
    const user = { name: 'Ada', email, github: { id: github, access_token: TOKEN }, ...given }
    const { user_id } = await ident.create(readNewIdent(user), BY)
    return { id: user_id, email, github }
  }
  const patch = (id: number, ops: unknown) => ident.patch(id, readOperations(ops), BY)
  const stored = () => database.db.selectFrom('leases').selectAll().execute()

  test('get finds by each of its fields, and by all together', async () => {
    const { id, email, github } = await make({ picture_url: 'https://example.com/a.png' })
    const whole = { id, name: 'Ada', email, picture_url: 'https://example.com/a.png', github: { id: github } }
    for (const query of [{ user_id: id }, { email }, { email: email.toUpperCase() }, { github_id: github }]) {
      expect(await ident.get(readQuery(query))).toEqual(whole)
    }
    expect(await ident.get(readQuery({ user_id: id, email, github_id: String(github) }))).toEqual(whole)
    await expect(ident.get({ user_id: id, facebook_id: 1 })).rejects.toEqual(code('not_found'))
    await expect(ident.get({ user_id: id + 1000 })).rejects.toEqual(code('not_found'))
    expect(() => readQuery({})).toThrow(code('bad_request'))
    expect(() => readQuery({ login: 'x' })).toThrow(code('bad_request'))
  })

  test('tokens are encrypted, and given only where asked for', async () => {
    const { id } = await make()
    expect(JSON.stringify(await stored())).not.toContain(TOKEN)
    const { github } = await ident.get({ user_id: id }, { withTokens: true })
    expect(github?.access_token).toBe(TOKEN)
    const events = await database.db.selectFrom('events').selectAll().execute()
    expect(JSON.stringify(events)).not.toContain(TOKEN)
  })

  test('create again is the same user; with anything else it is a conflict', async () => {
    const wanted = readNewIdent({
      name: 'Bob',
      email: 'bob@example.com',
      facebook: { id: '10150000000000001' },
    })
    const { user_id } = await ident.create(wanted, BY)
    await expect(ident.create(wanted, BY)).rejects.toEqual(code('conflict'))
    expect(await ident.create(wanted, BY, { again: true })).toEqual({ user_id })
    for (const other of [{ name: 'Eve' }, { email: 'eve@example.com' }, { facebook: { id: 2 } }]) {
      const eve = readNewIdent({ ...wanted, ...other })
      await expect(ident.create(eve, BY, { again: true })).rejects.toEqual(code('conflict'))
    }
    await expect(ident.get({ email: 'eve@example.com' })).rejects.toEqual(code('not_found'))
  })

  test('of two who claim one identity at once, one gets it', async () => {
    const claim = (name: string) =>
      ident.create(readNewIdent({ name, email: `${name}@example.com`, github: { id: 77 } }), BY)
    const results = await Promise.allSettled(['x', 'y', 'z'].map(claim))
    expect(results.filter(({ status }) => status === 'fulfilled')).toHaveLength(1)
    for (const result of results) {
      if (result.status === 'rejected') expect(result.reason).toEqual(code('conflict'))
    }
  })

  test('patch changes what it names', async () => {
    const { id, github } = await make()
    const ops: PatchOperation[] = [
      { op: 'test', path: '/name', value: 'Ada' },
      { op: 'replace', path: '/name', value: 'Countess' },
      { op: 'add', path: '/picture_url', value: 'https://example.com/b.png' },
      { op: 'add', path: '/facebook', value: { id: 100 + id, access_token: 'fb-token' } },
      { op: 'test', path: '/github/id', value: github },
      { op: 'replace', path: '/email', value: `countess${id}@example.com` },
    ]
    expect(await patch(id, ops)).toEqual(ops)
    expect(await ident.get({ user_id: id }, { withTokens: true })).toEqual({
      id,
      name: 'Countess',
      email: `countess${id}@example.com`,
      picture_url: 'https://example.com/b.png',
      github: { id: github, access_token: TOKEN },
      facebook: { id: 100 + id, access_token: 'fb-token' },
    })
    const event = await database.db
      .selectFrom('events')
      .selectAll()
      .where('subject', '=', `user:${id}`)
      .where('action', '=', 'user.patch')
      .executeTakeFirstOrThrow()
    expect(event.data).not.toContain('fb-token')
    await patch(id, [{ op: 'remove', path: '/facebook' }])
    expect((await ident.get({ user_id: id }, { withTokens: true })).facebook).toBeUndefined()
    expect(
      (await stored()).filter(({ owner, source }) => owner === `user:${id}` && source === 'facebook'),
    ).toEqual([])
  })

  test('a token leaves with its account, and is replaced alone', async () => {
    const { id, github } = await make()
    await patch(id, [{ op: 'replace', path: '/github/access_token', value: 'new-token' }])
    expect((await ident.get({ user_id: id }, { withTokens: true })).github).toEqual({
      id: github,
      access_token: 'new-token',
    })
    await patch(id, [{ op: 'replace', path: '/github/id', value: github + 1_000_000 }])
    expect((await ident.get({ user_id: id }, { withTokens: true })).github).toEqual({
      id: github + 1_000_000,
    })
  })

  test.each<[string, unknown[], string]>([
    ['test that fails', [{ op: 'test', path: '/name', value: 'x' }], 'patch_failed'],
    ['path that is not there', [{ op: 'replace', path: '/nothing', value: 1 }], 'patch_failed'],
    ['pointer without a slash', [{ op: 'add', path: 'name', value: 'x' }], 'patch_failed'],
    ['add without a value', [{ op: 'add', path: '/name' }], 'patch_failed'],
    ['replace of /id', [{ op: 'replace', path: '/id', value: 1 }], 'patch_failed'],
    ['remove of /id', [{ op: 'remove', path: '/id' }], 'patch_failed'],
    ['move of /id', [{ op: 'move', from: '/id', path: '/name' }], 'patch_failed'],
    [
      'another whole user',
      [{ op: 'replace', path: '', value: { id: 1, name: 'x' } }],
      'invalid_patch_result',
    ],
    ['__proto__', [{ op: 'add', path: '/__proto__/admin', value: true }], 'patch_failed'],
    ['from __proto__', [{ op: 'copy', from: '/__proto__', path: '/name' }], 'patch_failed'],
    ['constructor', [{ op: 'add', path: '/constructor/prototype/admin', value: true }], 'patch_failed'],
    ['an unknown field', [{ op: 'add', path: '/admin', value: true }], 'invalid_patch_result'],
    ['an unknown field inside', [{ op: 'add', path: '/github/admin', value: true }], 'invalid_patch_result'],
    [
      'a name of many lines',
      [{ op: 'replace', path: '/name', value: 'a\r\nSet-Cookie: b' }],
      'invalid_patch_result',
    ],
    ['no name', [{ op: 'remove', path: '/name' }], 'invalid_patch_result'],
    ['no address', [{ op: 'replace', path: '/email', value: 'nobody' }], 'invalid_patch_result'],
    [
      'a script as picture',
      [{ op: 'add', path: '/picture_url', value: 'javascript:alert(1)' }],
      'invalid_patch_result',
    ],
    [
      'a token as name',
      [{ op: 'copy', from: '/github/access_token', path: '/name' }],
      'invalid_patch_result',
    ],
    ['a guess at a token', [{ op: 'test', path: '/github/access_token', value: TOKEN }], 'patch_failed'],
  ])('patch, %s: changes nothing', async (_name, ops, expected) => {
    const { id } = await make()
    const before = await ident.get({ user_id: id }, { withTokens: true })
    await expect(patch(id, ops)).rejects.toEqual(code(expected))
    expect(await ident.get({ user_id: id }, { withTokens: true })).toEqual(before)
    expect(({} as { admin?: boolean }).admin).toBeUndefined()
  })

  test('patch to what is somebody else’s: conflict, and nothing changes', async () => {
    const [one, other] = [await make(), await make()]
    for (const op of [
      { op: 'replace', path: '/email', value: other.email.toUpperCase() },
      { op: 'replace', path: '/github/id', value: other.github },
    ]) {
      await expect(patch(one.id, [{ op: 'replace', path: '/name', value: 'Eve' }, op])).rejects.toEqual(
        code('conflict'),
      )
    }
    expect((await ident.get({ user_id: one.id })).name).toBe('Ada')
    await expect(patch(999_999, [{ op: 'remove', path: '/name' }])).rejects.toEqual(code('not_found'))
  })

  test('delete takes everything along', async () => {
    const { id, github } = await make()
    expect(await ident.delete(id, BY)).toEqual({ user_id: id })
    await expect(ident.get({ user_id: id })).rejects.toEqual(code('not_found'))
    await expect(ident.delete(id, BY)).rejects.toEqual(code('not_found'))
    expect((await stored()).filter(({ owner }) => owner === `user:${id}`)).toEqual([])
    // The identity is free again.
    await ident.create(
      readNewIdent({ name: 'New', email: `new${id}@example.com`, github: { id: github } }),
      BY,
    )
  })

  test('list goes page by page; text is text, also where SQL would see more in it', async () => {
    const ids: number[] = []
    for (const name of ['100% Percy', 'under_score', "Robert'); DROP TABLE users;--", 'back\\slash']) {
      ids.push((await make({ name })).id)
    }
    const names = async (name: string) =>
      (await ident.list({ name }, { after: 0, limit: 10 })).users.map((user) => user.name)
    expect(await names('100%')).toEqual(['100% Percy'])
    expect(await names('R_SC')).toEqual(['under_score'])
    expect(await names('%')).toEqual(['100% Percy'])
    expect(await names("'); drop")).toEqual(["Robert'); DROP TABLE users;--"])
    expect(await names('\\')).toEqual(['back\\slash'])
    const after = (ids[0] ?? 0) - 1
    const first = await ident.list({}, { after, limit: 3 })
    expect(first.users.map(({ id }) => id)).toEqual(ids.slice(0, 3))
    const second = await ident.list({}, { after: first.next ?? 0, limit: 3 })
    expect(second.users.map(({ id }) => id)).toEqual(ids.slice(3))
    expect(second.next).toBeUndefined()
  })

  test.each([
    { name: '', email: 'a@example.com', github: { id: 1 } },
    { name: 'a\nb', email: 'a@example.com', github: { id: 1 } },
    { name: 'a', email: 'a@example.com\r\nBcc: x@example.com', github: { id: 1 } },
    { name: 'a', email: 'a@example.com' },
    { name: 'a', email: 'a@example.com', github: { id: -1 } },
    { name: 'a', email: 'a@example.com', github: { id: 1.5 } },
    { name: 'a', email: 'a@example.com', github: { id: 1, access_token: 'a\r\nb' } },
    { name: 'a', email: 'a@example.com', github: { id: 1 }, admin: true },
    { name: 'x'.repeat(300), email: 'a@example.com', github: { id: 1 } },
    { name: '\ud800', email: 'a@example.com', github: { id: 1 } },
    { name: 'a', email: `${'a'.repeat(300)}@example.com`, github: { id: 1 } },
  ])('create refuses %j', (given) => {
    expect(() => readNewIdent(given)).toThrow(code('bad_request'))
  })
})
