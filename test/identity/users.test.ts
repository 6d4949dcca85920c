import { describe, expect, test } from 'vitest'
import { loginFrom } from '../../src/identity/login-name.ts'
import { Users } from '../../src/identity/users.ts'
import { onEachDatabase } from './databases.ts'

const ISSUER = 'https://idp.example'

onEachDatabase('users', (db) => {
  test('the first sign-in makes a user, the next finds it, and both are written down once', async () => {
    const users = new Users(db())
    const identity = {
      issuer: ISSUER,
      subject: 'first',
      login: 'Ada.L',
      name: 'Ada',
      email: 'Ada@Example.com',
      emailVerified: true,
    }
    const made = await users.signIn(identity, '192.0.2.1')
    expect(made).toMatchObject({ login: 'ada.l', name: 'Ada', email: 'Ada@Example.com', disabledAt: null })
    expect(await users.signIn({ ...identity, login: 'other' }, '')).toEqual(made)
    expect(await users.byIdentity(ISSUER, 'first')).toEqual(made)
    expect(await users.byLogin('ADA.L')).toEqual(made)
    expect(await users.byId(made.id)).toEqual(made)
    const events = await db()
      .selectFrom('events')
      .selectAll()
      .where('subject', '=', `user:${made.id}`)
      .execute()
    expect(events).toHaveLength(1)
    expect(events[0]).toMatchObject({ action: 'user.create', source: '192.0.2.1', published_at: null })
  })

  test('many first sign-ins at once make one user', async () => {
    const users = new Users(db())
    const identity = { issuer: ISSUER, subject: 'crowd', login: 'crowd' }
    const all = await Promise.all(Array.from({ length: 8 }, () => users.signIn(identity, '')))
    expect(new Set(all.map(({ id }) => id)).size).toBe(1)
    expect(await users.byLogin('crowd-2')).toBeUndefined()
  })

  test('a login or address that is taken leads to nobody else’s user', async () => {
    const users = new Users(db())
    const first = await users.signIn(
      { issuer: ISSUER, subject: 't1', login: 'twin', email: 't@example.com', emailVerified: true },
      '',
    )
    const second = await users.signIn(
      { issuer: ISSUER, subject: 't2', login: 'twin', email: 'T@example.com', emailVerified: true },
      '',
    )
    expect(second).toMatchObject({ login: 'twin-2', email: null })
    expect(second.id).not.toBe(first.id)
  })

  test('whom the operator added is found by a verified address, once, and by no unverified one', async () => {
    const users = new Users(db())
    const added = await users.add({ login: 'carol', email: 'carol@example.com' }, '')
    const claim = { issuer: ISSUER, subject: 'evil', login: 'carol', email: 'carol@example.com' }
    const stranger = await users.signIn({ ...claim, emailVerified: false }, '')
    expect(stranger.id).not.toBe(added.id)
    expect(stranger.email).toBeNull()
    const carol = await users.signIn({ ...claim, subject: 'carol', emailVerified: true }, '')
    expect(carol.id).toBe(added.id)
    const later = await users.signIn({ ...claim, subject: 'later', emailVerified: true }, '')
    expect(later.id).not.toBe(added.id)
    await expect(users.add({ login: 'Carol' }, '')).rejects.toMatchObject({ code: 'exists' })
    await expect(users.add({ login: '../x' }, '')).rejects.toMatchObject({ code: 'invalid' })
  })

  test('link: one’s own stays, somebody else’s is refused', async () => {
    const users = new Users(db())
    const one = await users.add({ login: 'link1' }, '')
    const two = await users.add({ login: 'link2' }, '')
    const identity = { issuer: 'github', subject: '99999999999' }
    await users.link(one.id, identity, '')
    await users.link(one.id, identity, '')
    await expect(users.link(two.id, identity, '')).rejects.toMatchObject({ code: 'forbidden' })
    await expect(users.link(one.id, { issuer: 'github', subject: '5' }, '')).rejects.toMatchObject({
      code: 'exists',
    })
    await expect(users.link(999_999, identity, '')).rejects.toMatchObject({ code: 'not_found' })
    expect((await users.byIdentity('github', '99999999999'))?.id).toBe(one.id)
  })

  test('disable and enable', async () => {
    const users = new Users(db())
    await users.add({ login: 'dis' }, '')
    expect((await users.setDisabled('DIS', true, '')).disabledAt).toEqual(expect.any(String))
    expect((await users.byLogin('dis'))?.disabledAt).toEqual(expect.any(String))
    expect((await users.setDisabled('dis', false, '')).disabledAt).toBeNull()
    await expect(users.setDisabled('nobody', true, '')).rejects.toMatchObject({ code: 'not_found' })
    expect((await users.list()).map(({ id }) => id)).toEqual(
      [...(await users.list()).map(({ id }) => id)].sort((a, b) => a - b),
    )
    expect(await users.list({ limit: 2 })).toHaveLength(2)
  })
})

describe('logins', () => {
  test.each([
    [['Ada Lovelace'], 'ada-lovelace'],
    [['Jörg@example.com'], 'jorg'],
    [['../..'], 'user'],
    [['', undefined, 'x'], 'x'],
    [['token', 'ok'], 'ok'],
    [['日本'], 'user'],
    [['a'.repeat(500)], 'a'.repeat(56)],
    [['bob\n'], 'bob'],
  ])('%j gives %s', (wishes, login) => {
    expect(loginFrom(wishes)).toBe(login)
  })
})
