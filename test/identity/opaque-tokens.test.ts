import { expect, test } from 'vitest'
import { OpaqueTokens } from '../../src/identity/opaque-tokens.ts'
import { Users } from '../../src/identity/users.ts'
import { onEachDatabase } from './databases.ts'

let users = 0

onEachDatabase('opaque tokens', (db) => {
  const user = () => new Users(db()).add({ login: `u${users++}` }, '')

  test('found by itself and its kind, and nowhere in the database', async () => {
    const tokens = new OpaqueTokens(db())
    const { id: userId } = await user()
    const scopes = ['storage:photos:rw', 'lfs:*:r']
    const made = await tokens.issue({
      userId,
      kind: 'app',
      scopes,
      client: 'https://app.example',
      data: { a: 1 },
    })
    expect(made.token).toMatch(/^tmo_[A-Za-z0-9_-]{43}$/)
    expect(await tokens.find(made.token)).toMatchObject({ id: made.id, userId, scopes, data: { a: 1 } })
    expect(await tokens.find(made.token, 'app')).toBeDefined()
    expect(await tokens.find(made.token, 'session')).toBeUndefined()
    for (const odd of [
      '',
      'tmo_',
      `${made.token}x`,
      made.token.slice(0, -1),
      `tmo_${'A'.repeat(43)}`,
      made.id,
    ])
      expect(await tokens.find(odd)).toBeUndefined()
    const rows = JSON.stringify(await db().selectFrom('tokens').selectAll().execute())
    expect(rows).not.toContain(made.token.slice(4))
  })

  test('expired, revoked and a disabled user’s: not found', async () => {
    let now = Date.now()
    const tokens = new OpaqueTokens(db(), () => now)
    const owner = await user()
    const options = { userId: owner.id, kind: 'personal', scopes: [], client: 'x' } as const
    const brief = await tokens.issue({ ...options, expiresIn: 60 })
    const lasting = await tokens.issue(options)
    const other = await tokens.issue(options)
    expect(await tokens.find(brief.token)).toBeDefined()
    expect(await tokens.list(owner.id)).toHaveLength(3)
    now += 60_000
    expect(await tokens.find(brief.token)).toBeUndefined()
    expect(await tokens.revoke(lasting.id)).toBe(true)
    expect(await tokens.revoke(lasting.id)).toBe(false)
    expect(await tokens.revoke('none')).toBe(false)
    expect(await tokens.find(lasting.token)).toBeUndefined()
    expect((await tokens.list(owner.id)).map(({ id }) => id)).toEqual([other.id])
    await new Users(db()).setDisabled(owner.login, true, '')
    expect(await tokens.find(other.token)).toBeUndefined()
  })

  test('a code is spent once, whoever tries at the same time', async () => {
    const tokens = new OpaqueTokens(db())
    const { token, id } = await tokens.issue({
      userId: null,
      kind: 'code',
      scopes: [],
      client: 'x',
      expiresIn: 60,
    })
    const next = { userId: null, kind: 'app', scopes: [], client: 'x' } as const
    const tries = await Promise.all(Array.from({ length: 5 }, () => tokens.exchange(id, next)))
    const [given, ...more] = tries.filter((result) => result !== undefined)
    expect(more).toEqual([])
    expect(await tokens.find(given?.token ?? '', 'app')).toBeDefined()
    expect(await tokens.exchange(id, next)).toBeUndefined()
    expect(await tokens.find(token, 'code')).toBeUndefined()
    expect([await tokens.nameOf(token, 'code'), await tokens.nameOf(token, 'app')]).toEqual([id, undefined])
  })
})
