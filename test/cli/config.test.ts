import { readdir, writeFile } from 'node:fs/promises'
import path from 'node:path'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { makeSandbox, type Sandbox } from './run-cli.ts'

let box: Sandbox

beforeEach(async () => {
  box = await makeSandbox()
})

afterEach(() => box.remove())

test('prints every setting, its value and where it came from, secrets masked', async () => {
  await writeFile(path.join(box.cwd, 'timone.toml'), '[server]\nlisten = "127.0.0.1:9000"\n')
  const env = { ...box.env, TIMONE_TOKEN_SECRET: 'sesame', TIMONE_LOG_LEVEL: 'debug' }
  const { code, stdout, stderr } = await box.timone(['config', '--config', 'timone.toml'], { env })
  expect(code).toBe(0)
  expect(stderr).toContain('warning: the token secret is under 32 bytes')
  const lines = stdout
    .trimEnd()
    .split('\n')
    .map((line) => line.split(/ {2,}/))
  expect(lines).toContainEqual([
    'server.listen',
    '127.0.0.1:9000',
    `file ${path.join(box.cwd, 'timone.toml')}`,
  ])
  expect(lines).toContainEqual(['server.log_level', 'debug', 'environment TIMONE_LOG_LEVEL'])
  expect(lines).toContainEqual(['auth.token_secret', '********', 'environment TIMONE_TOKEN_SECRET'])
  expect(lines).toContainEqual(['storage.driver', 'file', 'default'])
  expect(stdout + stderr).not.toContain('sesame')
})

test('--json', async () => {
  const env = { ...box.env, TIMONE_TOKEN_SECRET: 'sesame' }
  const { code, stdout } = await box.timone(['config', '--json', '--data', 'elsewhere'], { env })
  expect(code).toBe(0)
  expect(JSON.parse(stdout)).toMatchObject({
    'server.data': {
      value: path.join(box.cwd, 'elsewhere'),
      source: 'flag',
      name: '--data',
      env: 'TIMONE_DATA',
    },
    'server.url': { value: 'http://127.0.0.1:8000', source: 'default', name: null },
    'auth.token_secret': { value: '********', source: 'environment', name: 'TIMONE_TOKEN_SECRET' },
    'storage.s3.bucket': { value: null, source: 'default' },
  })
  expect(stdout).not.toContain('sesame')
})

test('makes nothing', async () => {
  expect((await box.timone(['config'])).stdout).toContain('(generated, kept in DATA/token-secret)')
  expect(await readdir(box.cwd)).toEqual([])
})

test('complains as the server would, in one line', async () => {
  const { code, stdout, stderr } = await box.timone(['config'], { env: { ...box.env, TIMONE_LISTNE: 'x' } })
  expect({ code, stdout }).toEqual({ code: 2, stdout: '' })
  expect(stderr).toBe(
    'timone: unknown setting TIMONE_LISTNE in the environment. Did you mean TIMONE_LISTEN?\n',
  )
})
