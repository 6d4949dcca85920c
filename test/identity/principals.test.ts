import { describe, expect, test } from 'vitest'
import { narrow, parseScopes, printScope } from '../../src/auth/scope.ts'
import { Tokens } from '../../src/auth/tokens.ts'
import { Grants } from '../../src/identity/grants.ts'
import { OpaqueTokens } from '../../src/identity/opaque-tokens.ts'
import { IssuedPrincipals, OpaqueTokenCheck, principalOf } from '../../src/identity/principals.ts'
import { Users } from '../../src/identity/users.ts'
import { onEachDatabase } from './databases.ts'

const basic = (user: string, password: string) =>
  `Basic ${Buffer.from(`${user}:${password}`).toString('base64')}`

onEachDatabase('principals', (db) => {
  const world = () => {
    const users = new Users(db())
    const grants = new Grants(db(), [{ principal: 'group:all', scope: 'lfs:common/*:r' }])
    const tokens = new Tokens({
      secret: 'a secret of the tests, long enough for all',
      issuer: 'http://timone.example',
      requireScope: false,
      issued: new OpaqueTokenCheck(db(), new IssuedPrincipals(grants)),
    })
    return { users, grants, tokens, opaque: new OpaqueTokens(db()) }
  }

  test('an operator’s token: with the user of ours who goes by that name', async () => {
    const { users, tokens } = world()
    const token = await tokens.issueUser({ user: 'gail' })
    const before = await principalOf(`Bearer ${token}`, { tokens, users })
    expect(before).toMatchObject({ subject: 'gail', scopes: 'full' })
    expect(before?.userId).toBeUndefined()
    const { id } = await users.add({ login: 'gail' }, '')
    expect(await principalOf(basic('gail', token), { tokens, users })).toMatchObject({ userId: id })
    await users.setDisabled('gail', true, '')
    await expect(principalOf(`Bearer ${token}`, { tokens, users })).rejects.toMatchObject({
      code: 'unauthorized',
    })
    expect(await principalOf(undefined, { tokens, users })).toBeUndefined()
  })

  test('a personal token: no more than its user may do now, their own storage always', async () => {
    const { users, tokens, grants, opaque } = world()
    const user = await users.add({ login: 'hal' }, '')
    const scopes = [
      'lfs:*:rw',
      'storage:photos:rw',
      'lease:idp1:token',
      'lease:github/a/b:contents=write',
      'users:*:rw',
    ]
    const { token, id } = await opaque.issue({ userId: user.id, kind: 'personal', scopes, client: 'x' })
    const may = async (header = `Bearer ${token}`) => {
      const principal = await principalOf(header, { tokens, users })
      expect(principal).toMatchObject({ subject: 'hal', userId: user.id, tokenId: id })
      return principal?.scopes === 'full' ? 'full' : principal?.scopes.map(printScope).sort()
    }
    expect(await may()).toEqual(['lease:idp1:token', 'storage:photos:rw'])
    await grants.grant('user:hal', 'lfs:foo/bar:rw')
    await grants.setGroups(user.id, ['all', 'all', ''])
    expect(await may(basic('hal', token))).toEqual([
      'lease:idp1:token',
      'lfs:common/*:r',
      'lfs:foo/bar:rw',
      'storage:photos:rw',
    ])
    await grants.revoke('user:hal', 'lfs:foo/bar:rw')
    await grants.setGroups(user.id, [])
    expect(await may()).toEqual(['lease:idp1:token', 'storage:photos:rw'])
    await expect(principalOf(basic('bob', token), { tokens, users })).rejects.toMatchObject({
      code: 'unauthorized',
    })
    await opaque.revoke(id)
    await expect(may()).rejects.toMatchObject({ code: 'unauthorized' })
  })

  test('a session’s token or a code is no password', async () => {
    const { users, tokens, opaque } = world()
    const { id: userId } = await users.add({ login: 'ida' }, '')
    for (const kind of ['session', 'code', 'jwt'] as const) {
      const { token } = await opaque.issue({ userId, kind, scopes: ['lfs:*:rw'], client: 'x' })
      await expect(principalOf(`Bearer ${token}`, { tokens, users })).rejects.toMatchObject({
        code: 'unauthorized',
      })
    }
  })

  test('grants: given once, listed, taken', async () => {
    const { grants } = world()
    expect(await grants.grant('user:Jo', 'lfs:a/b:rw')).toBe(true)
    expect(await grants.grant('user:jo', 'lfs:a/b:rw')).toBe(false)
    expect(await grants.list('user:jo')).toEqual([
      { principal: 'user:jo', scope: 'lfs:a/b:rw', fixed: false },
    ])
    expect(await grants.list('group:all')).toEqual([
      { principal: 'group:all', scope: 'lfs:common/*:r', fixed: true },
    ])
    expect(await grants.revoke('user:jo', 'lfs:a/b:rw')).toBe(true)
    expect(await grants.revoke('user:jo', 'lfs:a/b:rw')).toBe(false)
    for (const [who, what] of [
      ['jo', 'lfs:*:r'],
      ['user:../x', 'lfs:*:r'],
      ['group:', 'lfs:*:r'],
      ['user:jo', 'all'],
    ])
      await expect(grants.grant(who as string, what as string)).rejects.toMatchObject({ code: 'invalid' })
  })
})

describe('what two lists of scopes have in common', () => {
  test.each([
    ['lfs:*:rw', 'lfs:foo/bar:r', 'lfs:foo/bar:r'],
    ['lfs:foo/bar:r', 'lfs:*:rw', 'lfs:foo/bar:r'],
    ['lfs:foo/*:rw', 'lfs:*/bar:r', 'lfs:foo/bar:r'],
    ['lfs:foo/bar:rw', 'lfs:foo/baz:rw', ''],
    ['lfs:*:rw', 'lfs:a/b:r lfs:a/b:rw lfs:a/*:r', 'lfs:a/b:rw lfs:a/*:r'],
    ['lfs:*:rw', 'users:*:rw', ''],
    ['lease:github/a/b:contents=read,issues=read', 'lease:*:contents=read', 'lease:github/a/b:contents=read'],
    ['', 'lfs:*:rw', ''],
    ['lfs:*:rw lfs:a/b:r', 'lfs:*:rw', 'lfs:*:rw'],
  ])('%s and %s: %s', (one, two, both) => {
    expect(narrow(parseScopes(one), parseScopes(two)).map(printScope).join(' ')).toBe(both)
  })
})
