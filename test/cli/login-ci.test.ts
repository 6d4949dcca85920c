import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from 'vitest'
import { type CiIssuer, CLAIMS, startCiIssuer } from '../helpers/ci-issuer.ts'
import { type Running, startOnFiles } from '../server/harness.ts'
import { makeSandbox, type Sandbox } from './run-cli.ts'

const AUDIENCE = 'https://lfs.example'

let issuer: CiIssuer
let server: Running
let sandbox: Sandbox
let env: Record<string, string>
beforeAll(async () => {
  issuer = await startCiIssuer()
  issuer.claims = CLAIMS.github
  const match = { repository_id: ['74'] }
  server = await startOnFiles({
    trust: [{ issuer: issuer.url, audience: AUDIENCE, match, scopes: ['lfs:octo/site:rw'], ttl: 600 }],
  })
})
afterAll(async () => {
  await server.stop()
  await issuer.stop()
})
beforeEach(async () => {
  sandbox = await makeSandbox()
  env = {
    ...sandbox.env,
    ...issuer.githubEnv,
    TIMONE_ID_TOKEN_AUDIENCE: AUDIENCE,
    GIT_TERMINAL_PROMPT: '0',
  }
  const file = join(sandbox.cwd, '..', 'credentials')
  await sandbox.git(['config', '--global', 'credential.helper', `store --file='${file}'`])
  await sandbox.git(['config', '--global', 'user.name', 'CI'])
  await sandbox.git(['config', '--global', 'user.email', 'ci@example.org'])
})
afterEach(() => sandbox.remove())

test('timone login --ci keeps the token where git finds it, and says no secret', async () => {
  const { code, stdout, stderr } = await sandbox.timone(['login', server.url, '--ci'], { env })
  expect({ code, stdout }).toEqual({ code: 0, stdout: '' })
  expect(stderr).toContain('GitHub Actions')
  expect(stderr).toContain('lfs:octo/site:rw')
  expect(stderr).not.toMatch(/eyJ/)
})

test('without a helper it says which command sets one', async () => {
  await sandbox.git(['config', '--global', '--unset', 'credential.helper'])
  const { code, stderr } = await sandbox.timone(['login', server.url, '--ci'], { env })
  expect(code).toBe(2)
  expect(stderr).toContain('git config --global credential.helper')
})

test('outside a job it says what is missing', async () => {
  const { code, stderr } = await sandbox.timone(['login', server.url, '--ci'])
  expect(code).toBe(2)
  expect(stderr).toContain('TIMONE_ID_TOKEN')
})

test('push and pull in a job need no sign-in', async () => {
  const run = async (cwd: string, ...args: string[]): Promise<void> => {
    const { code, stderr } = await sandbox.timone(args, { env, cwd })
    expect({ code, stderr: code === 0 ? '' : stderr }).toEqual({ code: 0, stderr: '' })
  }
  const { git, cwd } = sandbox
  await git(['lfs', 'install', '--skip-repo'])
  await git(['config', '--global', 'lfs.url', `${server.url}/octo/site/info/lfs`])
  await git(['init', '-q', '--bare', 'origin.git'])
  await git(['clone', '-q', 'origin.git', 'work'])
  const work = join(cwd, 'work')
  await git(['lfs', 'track', '*.bin'], work)
  await writeFile(join(work, 'a.bin'), 'large')
  await git(['add', '-A'], work)
  await git(['commit', '-qm', 'files'], work)
  await run(work, 'push')
  await git(['-c', 'core.hooksPath=/dev/null', 'push', '-q', 'origin', 'HEAD'], work)
  await git([
    '-c',
    'filter.lfs.smudge=',
    '-c',
    'filter.lfs.process=',
    '-c',
    'filter.lfs.required=false',
    'clone',
    '-q',
    'origin.git',
    'other',
  ])
  await run(join(cwd, 'other'), 'pull')
  expect(await git(['lfs', 'fsck'], join(cwd, 'other'))).toContain('OK')
  // The token of the job was never given to a helper.
  expect(await git(['config', '--get-all', 'credential.helper'])).toContain('store')
})
