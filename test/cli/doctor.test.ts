import { chmod, mkdir, readFile, writeFile } from 'node:fs/promises'
import { createServer, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import path from 'node:path'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { checkRoom } from '../../src/cli/doctor-machine.ts'
import type { Finding } from '../../src/cli/doctor-report.ts'
import { VERSION } from '../../src/version.ts'
import { fakeStore, type Running, startOnFiles } from '../server/harness.ts'
import { makeSandbox, type Sandbox } from './run-cli.ts'

let box: Sandbox
let running: Running | undefined
let other: Server | undefined

beforeEach(async () => {
  box = await makeSandbox()
  await box.git(['lfs', 'install', '--skip-repo'])
  await box.git(['config', '--global', 'credential.helper', 'store'])
})

afterEach(async () => {
  await running?.stop()
  running = undefined
  other?.closeAllConnections()
  other?.close()
  other = undefined
  await box.remove()
})

const credentials = (): string => path.join(box.env.HOME as string, '.git-credentials')

/** A clone of org/repo of a running server, with the agent installed. */
async function inClone(name = 'org/repo'): Promise<Running> {
  running ??= await startOnFiles()
  await box.git(['init', '--quiet', '.'])
  await box.git(['config', 'lfs.url', `${running.url}/${name}/info/lfs`])
  await install()
  return running
}

/** As the sandbox's program, which is not there, but a file of the same name that can be started. */
async function install(): Promise<void> {
  await box.timone(['install'], { program: program() })
}

const program = () => ({
  execPath: process.execPath,
  script: path.resolve('src/main.ts'),
  platform: process.platform,
})

async function signIn(scope: string | undefined, expiresIn = 14 * 24 * 3600): Promise<string> {
  const { url, tokens } = running as Running
  const token = await tokens.issueUser({
    user: 'ada',
    ...(scope === undefined ? {} : { scopes: [scope] }),
    expiresIn,
  })
  await store('ada', token, url)
  return token
}

async function store(user: string, password: string, url: string): Promise<void> {
  const { host } = new URL(url)
  await writeFile(credentials(), `http://${user}:${password}@${host}\n`, { mode: 0o600 })
}

async function doctor(
  args: string[] = [],
  options: { env?: Record<string, string>; cwd?: string } = {},
): Promise<{ code: number; checks: Record<string, Finding>; text: string }> {
  const env = { ...box.env, ...options.env }
  const given = { ...options, env, program: program() }
  const { code, stdout, stderr } = await box.timone(['doctor', '--json', ...args], given)
  expect(stderr).toBe('')
  const { ok, checks } = JSON.parse(stdout) as { ok: boolean; checks: Finding[] }
  expect(ok).toBe(code === 0)
  for (const { status, fix, message } of checks) {
    if (status === 'fail' || status === 'warn') expect(fix, message).toMatch(/\w/)
  }
  return { code, checks: Object.fromEntries(checks.map((one) => [one.name, one])), text: stdout }
}

describe('doctor', () => {
  test('finds everything in order', async () => {
    const { url } = await inClone()
    const token = await signIn('lfs:org/*:rw')
    const { code, checks, text } = await doctor()
    expect(Object.values(checks).filter(({ status }) => status === 'fail' || status === 'warn')).toEqual([])
    expect(code).toBe(0)
    expect(Object.keys(checks)).toEqual([
      'git',
      'git-lfs',
      'install',
      'settings',
      'server',
      'clock',
      'token',
      'storage credentials',
      'storage',
      'cache',
      'disk space',
    ])
    expect(checks.server?.message).toBe(`${url} is ready, version ${VERSION}`)
    expect(checks.token?.message).toMatch(
      /^the token of ada may read and write here, scopes lfs:org\/\*:rw, good for 13 days 23 hours$/,
    )
    expect(checks['storage credentials']?.message).toContain('signs a URL')
    expect(text).not.toContain(token)
  })

  test('prints one line for each check, and a last one', async () => {
    await inClone()
    await signIn('lfs:org/repo:rw')
    const { code, stdout } = await box.timone(['doctor'], { program: program() })
    expect(code).toBe(0)
    const lines = stdout.trimEnd().split('\n')
    expect(lines).toHaveLength(12)
    expect(lines[0]).toMatch(/^ok {4}git +\d/)
    expect(lines.at(-1)).toBe('everything is in order')
  })

  test('outside a clone it says so, and takes an address', async () => {
    running = await startOnFiles()
    await install()
    await signIn('lfs:org/repo:rw')
    const outside = await doctor()
    expect(outside.checks.server?.status).toBe('skip')
    expect(outside.code).toBe(0)
    const { code, checks } = await doctor([`${running.url}/org/repo`])
    expect([code, checks.token?.status, checks.storage?.status]).toEqual([0, 'ok', 'ok'])
  })

  test('git is missing', async () => {
    const { code, checks } = await doctor([], { env: { PATH: '/nonexistent' } })
    expect(code).toBe(1)
    expect(checks.git).toMatchObject({ status: 'fail', fix: 'sudo apt-get install git' })
    expect(checks.server?.status).toBe('skip')
  })

  test('git-lfs is missing, or git does not know its filter', async () => {
    await inClone()
    await signIn('lfs:org/repo:rw')
    const bin = path.join(box.cwd, 'bin')
    await mkdir(bin)
    await writeFile(path.join(bin, 'git'), '#!/bin/sh\n[ "$1" = lfs ] && exit 1\nexec /usr/bin/git "$@"\n')
    await chmod(path.join(bin, 'git'), 0o755)
    const without = await doctor([], { env: { PATH: `${bin}:${box.env.PATH}` } })
    expect(without.checks['git-lfs']).toMatchObject({
      status: 'fail',
      fix: 'sudo apt-get install git-lfs',
    })
    await box.git(['config', '--global', '--remove-section', 'filter.lfs'])
    const unknown = await doctor()
    expect(unknown.checks['git-lfs']).toMatchObject({ status: 'fail', fix: 'git lfs install' })
  })

  test.each([
    ['not at all', '--remove-section lfs.customtransfer.timone', 'fail', /does not know timone/],
    ['gone', 'lfs.customtransfer.timone.path /gone/timone', 'fail', /\/gone\/timone, which is not there/],
    ['another', 'lfs.customtransfer.timone.args other.js', 'warn', /starts another timone: .*other\.js/],
    ['one at a time', 'lfs.customtransfer.timone.concurrent false', 'warn', /one agent at a time/],
  ])('installed wrongly: %s', async (_name, change, status, message) => {
    await inClone()
    await box.git(['config', '--global', ...change.split(' ')])
    const { checks } = await doctor()
    expect(checks.install).toMatchObject({ status, fix: 'timone install' })
    expect(checks.install?.message).toMatch(message)
  })

  test('a setting that cannot be', async () => {
    await inClone()
    await box.git(['config', '--global', 'timone.parallelParts', '1000'])
    const { code, checks } = await doctor()
    expect(code).toBe(1)
    expect(checks.settings).toMatchObject({
      status: 'fail',
      fix: 'git config --global --unset-all timone.parallelParts',
    })
  })

  test('no server is named', async () => {
    await box.git(['init', '--quiet', '.'])
    const { checks } = await doctor()
    expect(checks.server).toMatchObject({ status: 'fail', fix: 'timone init https://HOST/ORG/REPO' })
  })

  test('the server is away', async () => {
    const { url } = await inClone()
    await running?.stop()
    running = undefined
    const { code, checks } = await doctor()
    expect(code).toBe(1)
    expect(checks.server?.status).toBe('fail')
    expect(checks.server?.fix).toContain(`curl -v ${url}/healthz`)
    expect(checks.token?.status).toBe('skip')
  })

  test('the server is another one', async () => {
    const { checks } = await withServer({ health: '<html>' })
    expect(checks.server).toMatchObject({ status: 'warn', fix: 'timone init https://HOST/ORG/REPO' })
  })

  test('what is behind the server does not work', async () => {
    running = await startOnFiles({
      store: fakeStore({
        check: async () => {
          throw new Error('the disk is on fire')
        },
      }),
    })
    await inClone()
    const { checks } = await doctor()
    expect(checks.server).toMatchObject({ status: 'fail' })
    expect(checks.server?.message).toContain('storage: internal')
  })

  test.each([
    [-90, 'warn', /1 minute 30 seconds|1 minute 29 seconds/],
    [600, 'fail', /clock is (10 minutes|9 minutes 59 seconds).* behind/],
    [-600, 'fail', /ahead of the server's/],
  ])('a clock that is off by %i s', async (seconds, status, message) => {
    const { checks } = await withServer({ seconds })
    expect(checks.clock).toMatchObject({ status, fix: 'sudo timedatectl set-ntp true' })
    expect(checks.clock?.message).toMatch(message)
  })

  test('nobody has signed in', async () => {
    const { url } = await inClone()
    const { code, checks } = await doctor()
    expect(code).toBe(1)
    expect(checks.token).toMatchObject({ status: 'fail', fix: `timone login ${url}` })
  })

  test('nobody has signed in, and need not to read', async () => {
    const { url } = await inClone('open/source')
    const { code, checks } = await doctor()
    expect(code).toBe(0)
    expect(checks.token).toMatchObject({ status: 'warn', fix: `timone login ${url}` })
  })

  test('an expired token, one that soon will, and a wrong one; none is taken from the helper', async () => {
    const { url } = await inClone()
    const soon = await signIn('lfs:org/repo:rw', 3600)
    const warned = await doctor()
    expect(warned.checks.token).toMatchObject({ status: 'warn', fix: `timone login ${url}` })
    expect(warned.checks.token?.message).toContain('good for 59 minutes')

    await store('ada', `${soon.slice(0, -4)}AAAA`, url)
    const wrong = await doctor()
    expect(wrong.checks.token).toMatchObject({ status: 'fail', fix: `timone login ${url}` })
    expect(wrong.checks.token?.message).toContain('does not accept user ada')
    expect(wrong.text).not.toContain(soon.slice(0, 40))

    const token = await (running as Running).tokens.issueUser({ user: 'ada', expiresIn: 1 })
    await store('ada', expired(token), url)
    const gone = await doctor()
    expect(gone.checks.token?.message).toMatch(/^the token of ada expired .* ago$/)
    // git credential reject would have emptied the file.
    expect(await readFile(credentials(), 'utf8')).toContain('ada:')
  })

  test('a token for reading only, and one for another repository', async () => {
    await inClone()
    await signIn('lfs:org/repo:r')
    const reader = await doctor()
    expect(reader.code).toBe(0)
    expect(reader.checks.token?.message).toContain('may read, not write')
    expect(reader.checks.storage?.status).toBe('skip')

    await signIn('lfs:else/where:rw')
    const stranger = await doctor()
    expect(stranger.code).toBe(1)
    expect(stranger.checks.token?.fix).toContain('timone token create --user ada --scope lfs:org/repo:rw')
  })

  test('a credential helper that hangs', async () => {
    await inClone()
    await box.git(['config', '--global', '--replace-all', 'credential.helper', '!sleep 60; :'])
    const { checks } = await doctor()
    expect(checks.token?.message).toContain('gave no answer within 10 s')
    expect(checks.token?.fix).toContain('credential.helper')
  }, 30_000)

  test('a cache that cannot be written to', async () => {
    await box.git(['config', '--global', 'timone.cacheDir', path.join(box.cwd, 'file', 'cache')])
    await writeFile(path.join(box.cwd, 'file'), '')
    const { code, checks } = await doctor()
    expect(code).toBe(1)
    expect(checks.cache).toMatchObject({ status: 'fail' })
    expect(checks.cache?.fix).toContain('git config --global timone.cacheDir')
    await box.git(['config', '--global', 'timone.cacheDir', path.join(box.cwd, 'cache')])
    expect((await doctor()).checks.cache?.message).toContain('will be made')
  })

  test('a malformed address', async () => {
    expect((await box.timone(['doctor', 'ftp://host/org/repo'])).code).toBe(2)
  })
})

describe('disk space', () => {
  const folders = [{ folder: '/x', what: 'objects', fix: 'git lfs prune' }]
  test.each([
    [50 * 2 ** 20, 'fail'],
    [2 ** 30, 'warn'],
    [2 ** 40, 'ok'],
  ])('%i bytes free: %s', async (free, status) => {
    const finding = await checkRoom(folders, async () => free)
    expect(finding.status).toBe(status)
    expect(finding.fix).toBe(status === 'ok' ? undefined : 'git lfs prune')
  })
})

/** The doctor's findings with a server that says `health`, or tells another time. */
async function withServer(options: { health?: string; seconds?: number }) {
  const { health = '{"status":"ok"}', seconds = 0 } = options
  other = createServer((request, response) => {
    response.setHeader('Date', new Date(Date.now() + seconds * 1000).toUTCString())
    const path = request.url ?? ''
    if (path.endsWith('/objects/batch')) response.writeHead(401).end('{}')
    else response.end(path === '/healthz' ? health : '{"status":"ok"}')
  })
  await new Promise<void>((resolve) => other?.listen(0, '127.0.0.1', resolve))
  const url = `http://127.0.0.1:${(other.address() as AddressInfo).port}`
  await box.git(['init', '--quiet', '.'])
  await box.git(['config', 'lfs.url', `${url}/org/repo/info/lfs`])
  return doctor()
}

/** The token with an end in the past; its signature no longer fits. */
function expired(token: string): string {
  const [header, payload, signature] = token.split('.') as [string, string, string]
  const claims = JSON.parse(Buffer.from(payload, 'base64url').toString('utf8')) as { exp: number }
  const changed = Buffer.from(JSON.stringify({ ...claims, exp: claims.exp - 7200 })).toString('base64url')
  return [header, changed, signature].join('.')
}
