import path from 'node:path'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { connect } from '../../src/database/connect.ts'
import { OpaqueTokens } from '../../src/identity/opaque-tokens.ts'
import { makeSandbox, type Sandbox } from './run-cli.ts'

let sandbox: Sandbox
beforeEach(async () => {
  sandbox = await makeSandbox()
})
afterEach(() => sandbox.remove())

const timone = (...args: string[]) => sandbox.timone([...args, '--data', 'data'])

test('users are added, given rights, listed, disabled', async () => {
  expect(await timone('user', 'add', 'Ada', '--email', 'ada@example.com')).toMatchObject({
    code: 0,
    stdout: 'added ada\n',
  })
  expect((await timone('user', 'add', 'ada')).code).toBe(1)
  expect((await timone('user', 'grant', 'ada', 'lfs:a/b:rw', 'lfs:c/*:r')).code).toBe(0)
  expect((await timone('user', 'grant', 'group:art', 'lfs:*:r')).code).toBe(0)
  expect((await timone('user', 'grant', 'ada', 'lfs:x/y:rw', 'everything')).code).toBe(2)
  expect((await timone('user', 'revoke', 'ada', 'lfs:c/*:r')).code).toBe(0)
  expect((await timone('user', 'revoke', 'ada', 'lfs:c/*:r')).code).toBe(1)
  const { users, grants } = JSON.parse((await timone('user', 'list', '--json')).stdout)
  expect(users).toMatchObject([{ login: 'ada', scopes: ['lfs:a/b:rw'], disabled_at: null }])
  expect(grants).toHaveLength(2)
  expect((await timone('user', 'list')).stdout).toMatch(/^ada +lfs:a\/b:rw\ngroup:art +lfs:\*:r\n$/)
  expect((await timone('user', 'disable', 'ada')).code).toBe(0)
  expect((await timone('user', 'list')).stdout).toContain('disabled')
  expect((await timone('user', 'enable', 'ada')).code).toBe(0)
  expect((await timone('user', 'disable', 'nobody')).code).toBe(1)
})

test('tokens are listed and revoked, and never printed', async () => {
  await timone('user', 'add', 'ada')
  const database = await connect(`sqlite:${path.join(sandbox.cwd, 'data', 'timone.db')}`)
  const tokens = new OpaqueTokens(database.db)
  const { token, id } = await tokens.issue({
    userId: 1,
    kind: 'personal',
    scopes: ['lfs:*:r'],
    client: 'x\u001b[2J',
  })
  const listed = await timone('token', 'list', '--user', 'ada')
  expect(listed.stdout).toContain(id)
  expect(listed.stdout).not.toContain(token)
  expect(listed.stdout).not.toContain('\u001b')
  expect((await timone('token', 'revoke', id)).code).toBe(0)
  expect(await tokens.find(token)).toBeUndefined()
  expect((await timone('token', 'revoke', id)).code).toBe(1)
  expect((await timone('token', 'list', '--user', 'nobody')).code).toBe(1)
  await database.close()
})
