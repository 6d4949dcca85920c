import path from 'node:path'
import { Writable } from 'node:stream'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { connect } from '../../src/database/connect.ts'
import { recordEvent } from '../../src/identity/events.ts'
import { testPostgres } from '../helpers/postgres.ts'
import { until } from '../server/harness.ts'
import { makeSandbox, type Sandbox } from './run-cli.ts'

let sandbox: Sandbox
beforeEach(async () => {
  sandbox = await makeSandbox()
})
afterEach(() => sandbox.remove())

const timone = (...args: string[]) => sandbox.timone([...args, '--data', 'data'])

test('what was done is shown, with nothing that a terminal would obey', async () => {
  await timone('user', 'add', 'ada')
  await timone('user', 'disable', 'ada')
  const shown = await timone('events')
  expect(shown).toMatchObject({ code: 0, stderr: '' })
  expect(shown.stdout).toMatch(/^\S+Z {2}\S+ {2}user\.create {2}user:1 .*\n.*user\.disable {2}user:1/)
  const database = await connect(`sqlite:${path.join(sandbox.cwd, 'data', 'timone.db')}`)
  await recordEvent(database.db, { actor: 'x\u001b[2J\n', action: 'a', subject: 's', source: '' })
  await database.close()
  const last = await timone('events', '--last', '1')
  expect(last.stdout).not.toContain('\u001b')
  expect(last.stdout.split('\n')).toHaveLength(2)
  const lines = (await timone('events', '--json')).stdout.trimEnd().split('\n')
  expect(lines.map((line) => JSON.parse(line))).toMatchObject([
    { id: 1, action: 'user.create', subject: 'user:1', data: { login: 'ada' } },
    { id: 2, action: 'user.disable', subject: 'user:1' },
    { id: 3, actor: 'x\u001b[2J\n' },
  ])
  for (const count of ['-1', 'x', '10001', '1e3'])
    expect((await timone('events', '--last', count)).code).toBe(2)
})

test('new ones are shown as they happen, until the user has seen enough', async () => {
  await timone('user', 'add', 'ada')
  let shown = ''
  const stdout = new Writable({
    write(chunk: Buffer, _encoding, done) {
      shown += chunk.toString()
      done()
    },
  })
  const stop = new AbortController()
  const following = sandbox.timone(['events', '--last', '1', '--follow', '--json', '--data', 'data'], {
    stdout,
    signal: stop.signal,
  })
  await until(() => shown.includes('user.create'))
  await timone('user', 'disable', 'ada')
  await until(() => shown.includes('user.disable'))
  await timone('user', 'enable', 'ada')
  await until(() => shown.includes('user.enable'))
  stop.abort()
  expect((await following).code).toBe(130)
  const actions = shown
    .trimEnd()
    .split('\n')
    .map((line) => JSON.parse(line).action)
  expect(actions.filter((action) => action === 'user.disable')).toHaveLength(1)
})

test('timone migrate makes the tables once, also when several run at a time', async () => {
  expect((await timone('migrate')).stdout).toMatch(/^made 0001_lfs_locks\nmade 0002_identity\n/)
  expect(await timone('migrate')).toMatchObject({ code: 0, stdout: 'the tables are up to date\n' })
  const postgres = await testPostgres()
  try {
    sandbox.env.TIMONE_DATABASE_URL = postgres.url
    const outcomes = await Promise.all([1, 2, 3, 4].map(() => timone('migrate', '--json')))
    const made = outcomes.map(({ stdout }) => JSON.parse(stdout).migrated as string[])
    expect(made.filter((names) => names.length > 0)).toHaveLength(1)
    sandbox.env.TIMONE_DATABASE_URL = 'postgres://nobody:secret-word@127.0.0.1:1/none'
    const away = await timone('migrate')
    expect(away.code).toBe(1)
    expect(away.stderr).not.toContain('secret-word')
  } finally {
    await postgres.drop()
  }
})
