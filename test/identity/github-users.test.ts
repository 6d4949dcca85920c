import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { type FakeGithub, startGithub } from '../helpers/github.ts'
import { post, type Running, startOnFiles } from '../server/harness.ts'

const WRITER = 'ghp_writer0123456789abcdef'
const READER = 'github_pat_reader0123456789abcdef'
const JOB = 'ghs_job0123456789abcdef'

let github: FakeGithub
let server: Running
let now: number
beforeEach(async () => {
  now = Date.now()
  github = await startGithub()
  github.accounts.set(WRITER, { login: 'mona', repositories: { 'octo/site': { pull: true, push: true } } })
  github.accounts.set(READER, { login: 'hubot', repositories: { 'octo/site': { pull: true, push: false } } })
  github.accounts.set(JOB, { repositories: { 'octo/site': { pull: true, push: true } } })
  server = await startOnFiles({
    githubUsers: { apiUrl: github.url, repositories: ['octo/site', 'acme/*'] },
    now: () => now,
  })
})
afterEach(async () => {
  await server.stop()
  await github.stop()
})

const basic = (password: string): string =>
  `Basic ${Buffer.from(`x-access-token:${password}`).toString('base64')}`

async function batch(password: string, operation = 'upload', repository = 'octo/site') {
  const body = { operation, transfers: ['basic'], objects: [] }
  const answer = await post(`${server.url}/${repository}/info/lfs/objects/batch`, body, basic(password))
  expect(JSON.stringify(answer.json)).not.toContain(password)
  return answer
}

test('who may push at GitHub may upload, who may pull may download', async () => {
  expect((await batch(WRITER)).status).toBe(200)
  expect((await batch(JOB)).status).toBe(200)
  expect((await batch(READER, 'download')).status).toBe(200)
  expect((await batch(READER)).status).toBe(403)
})

test('what a token may not see does not exist', async () => {
  github.accounts.set(READER, { login: 'hubot', repositories: {} })
  expect((await batch(READER, 'download')).status).toBe(404)
})

test('a token that GitHub does not know is refused', async () => {
  expect((await batch('ghp_forged0123456789abcdef')).status).toBe(401)
})

test('GitHub is asked about the repositories of the setting only', async () => {
  expect((await batch(WRITER, 'upload', 'other/site')).status).toBe(401)
  expect(github.requests).toEqual([])
  expect((await batch(WRITER, 'upload', 'acme/tools')).status).toBe(404)
})

test('what has moved elsewhere is not followed', async () => {
  github.moved.set('octo/site', '75')
  expect((await batch(WRITER)).status).toBe(404)
  expect(github.requests.some(({ path }) => path.startsWith('/repositories/'))).toBe(false)
})

test('an answer counts for a minute: rights that are taken away end', async () => {
  for (let i = 0; i < 5; i++) expect((await batch(JOB)).status).toBe(200)
  expect(github.requests).toHaveLength(1)
  github.accounts.delete(JOB)
  now += 61_000
  expect((await batch(JOB)).status).toBe(401)
})

describe('GitHub in trouble lets nobody in', () => {
  test('limits', async () => {
    github.broken = { status: 403, headers: { 'x-ratelimit-remaining': '0', 'retry-after': '17' } }
    const answer = await batch(WRITER)
    expect(answer.status).toBe(429)
    expect(answer.headers.get('retry-after')).toBe('17')
    github.broken = { status: 429 }
    expect((await batch(WRITER)).status).toBe(429)
  })

  test('errors, nonsense and silence', async () => {
    github.broken = { status: 502 }
    expect((await batch(WRITER)).status).toBe(429)
    github.broken = { status: 200, body: '<html>' }
    expect((await batch(WRITER)).status).toBe(404)
    now += 61_000
    github.broken = { status: 200, body: '{"full_name":"evil/site","permissions":{"pull":true,"push":true}}' }
    expect((await batch(WRITER)).status).toBe(404)
    await github.stop()
    now += 61_000
    expect((await batch(WRITER)).status).toBe(429)
  })
})

test('without the setting such a password is like any other that is wrong', async () => {
  const bare = await startOnFiles()
  const body = { operation: 'download', transfers: ['basic'], objects: [] }
  expect((await post(`${bare.url}/octo/site/info/lfs/objects/batch`, body, basic(WRITER))).status).toBe(401)
  await bare.stop()
})
