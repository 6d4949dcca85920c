import { afterEach, beforeEach, expect, test } from 'vitest'
import { generateKey, SecretBox } from '../../src/auth/secret-box.ts'
import { serve } from '../../src/cli/serve.ts'
import { connect } from '../../src/database/connect.ts'
import { LeaseStore } from '../../src/leases/lease-store.ts'
import { checkSealingKeys } from '../../src/leases/sealing.ts'
import { makeSandbox, type Sandbox } from './run-cli.ts'

const KEY = { owner: 'user:1', source: 'idp1', resource: '' }
const [older, newer] = [generateKey(), generateKey()]
const id = (key: string): string => new SecretBox([key]).keyId
let box: Sandbox
let url: string

beforeEach(async () => {
  box = await makeSandbox()
  url = `sqlite:${box.cwd}/timone.db`
  const database = await connect(url)
  await checkSealingKeys(database.db, new SecretBox([older]))
  await new LeaseStore({ db: database.db, box: new SecretBox([older]) }).save(KEY, {
    accessToken: 'a',
    refreshToken: 'r',
  })
  await database.close()
})
afterEach(() => box.remove())

const rotate = (keys: readonly string[], ...args: string[]) =>
  box.timone(['secrets', 'rotate', ...args], {
    env: { ...box.env, TIMONE_DATABASE_URL: url, TIMONE_SECRET_KEYS: keys.join(',') },
  })

test('encrypts with the first key, says which keys can go, and changes nothing the second time', async () => {
  const first = await rotate([newer, older])
  expect(first).toMatchObject({
    code: 0,
    stdout: `key ${id(newer)}: 2 secrets encrypted anew, 0 were already\n`,
  })
  expect(first.stderr).toContain(`nothing needs the key ${id(older)} any more`)
  const again = await rotate([newer], '--json')
  expect(JSON.parse(again.stdout)).toEqual({ key: id(newer), changed: 0, current: 2, retired: [] })
})

test('without the key that encrypted: says its id, changes nothing', async () => {
  const { code, stderr } = await rotate([newer])
  expect(code).toBe(2)
  expect(stderr).toContain(id(older))
  expect(stderr).not.toContain(newer)
  expect((await rotate([older], '--json')).stdout).toContain('"current": 2')
})

test('a server with the wrong key does not start, and says the id of the right one', async () => {
  const env = {
    ...box.env,
    TIMONE_DATABASE_URL: url,
    TIMONE_SECRET_KEYS: newer,
    TIMONE_TOKEN_SECRET: 'x'.repeat(32),
  }
  const io = { stdout: process.stdout, stderr: process.stderr, env, cwd: box.cwd }
  await expect(serve({ listen: '127.0.0.1:0' }, io)).rejects.toMatchObject({
    code: 'config',
    message: expect.stringContaining(id(older)) as string,
  })
})

test('without any key: says where it would be', async () => {
  const { code, stderr } = await box.timone(['secrets', 'rotate'])
  expect(code).toBe(2)
  expect(stderr).toContain('TIMONE_SECRET_KEYS')
})
