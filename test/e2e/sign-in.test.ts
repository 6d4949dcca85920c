import { randomBytes } from 'node:crypto'
import { chmod, readFile, writeFile } from 'node:fs/promises'
import path from 'node:path'
import type { Page } from 'playwright-core'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { localPath } from '../../src/identity/return-to.ts'
import { makeSandbox, type Sandbox } from '../cli/run-cli.ts'
import { startBrowser, type TestBrowser } from '../helpers/browser.ts'
import { startOidcProvider, type TestOidcProvider } from '../helpers/oidc-provider.ts'
import { type Running, startOnFiles } from '../server/harness.ts'

let provider: TestOidcProvider
let browser: TestBrowser
let server: Running
let ahead = 0

beforeAll(async () => {
  const claims = {
    ada: {
      preferred_username: 'ada',
      name: 'Ada L.',
      email: 'ada@example.com',
      email_verified: true,
      groups: ['art'],
    },
    bob: { preferred_username: 'bob', name: 'Bob' },
    eve: { preferred_username: 'eve' },
  }
  provider = await startOidcProvider({ claims })
  browser = await startBrowser()
  server = await startOnFiles({
    now: () => Date.now() + ahead,
    identity: {
      login: {
        issuer: provider.issuer,
        clientId: provider.clientId,
        clientSecret: provider.clientSecret,
        scope: 'openid profile email groups',
        groupsClaim: 'groups',
        tokenExpiresIn: 3600,
      },
      grants: [{ principal: 'group:art', scope: 'lfs:org/*:rw' }],
    },
  })
  provider.allowRedirect(`${server.url}/auth/callback`)
}, 60_000)
afterAll(async () => {
  await browser.close()
  await server.stop()
  await provider.close()
})
afterEach(() => {
  ahead = 0
})

const signIn = async (page: Page, at: string, login = 'ada') => {
  await page.goto(at)
  await page.fill('input[name=login]', login)
  await page.fill('input[name=password]', 'any')
  await page.click('button[type=submit]')
  if (page.url().startsWith(provider.issuer)) await page.click('button[type=submit]')
}
const form = async (route: string, fields: Record<string, string>, headers: Record<string, string> = {}) => {
  const response = await fetch(server.url + route, {
    method: 'POST',
    redirect: 'manual',
    headers,
    body: new URLSearchParams(fields),
  })
  const text = await response.text()
  return { status: response.status, headers: response.headers, text, json: () => JSON.parse(text) }
}
const begin = async () => (await form('/oauth/device_authorization', { client_id: 'test' })).json()
const poll = async (deviceCode: string, client = 'test') =>
  (
    await form('/oauth/token', {
      grant_type: 'urn:ietf:params:oauth:grant-type:device_code',
      client_id: client,
      device_code: deviceCode,
    })
  ).json()

describe('in Chromium without JavaScript', () => {
  test('a device is approved once, and its code is good once', async () => {
    const page = await browser.fresh({ javaScript: false })
    const device = await begin()
    expect(await poll(device.device_code)).toMatchObject({ error: 'authorization_pending' })
    expect(await poll(device.device_code)).toMatchObject({ error: 'slow_down' })
    await signIn(page, device.verification_uri_complete)
    expect(await page.textContent('main')).toContain(device.user_code)
    expect(page.url()).toBe(`${server.url}/auth/device?user_code=${device.user_code}`)
    const [cookie] = (await page.context().cookies()).filter(({ name }) => name === 'timone-session')
    expect(cookie).toMatchObject({ httpOnly: true, sameSite: 'Lax' })
    await page.click('button[value=approve]')
    expect(await page.textContent('h1')).toBe('Signed in')
    expect(await poll(device.device_code, 'another')).toMatchObject({ error: 'invalid_grant' })
    const granted = await poll(device.device_code)
    expect(granted).toMatchObject({
      token_type: 'Bearer',
      username: 'ada',
      scope: 'lfs:*:rw',
      expires_in: 3600,
    })
    expect(await poll(device.device_code)).toMatchObject({ error: 'invalid_grant' })
    // The page cannot be sent again either.
    await page.goto(device.verification_uri_complete)
    expect(await page.textContent('main')).toContain('No sign-in waits')

    const denied = await begin()
    await page.goto(denied.verification_uri)
    await page.fill('input[name=user_code]', denied.user_code.toLowerCase().replace('-', ' '))
    await page.click('button')
    await page.click('button[value=deny]')
    expect(await poll(denied.device_code)).toMatchObject({ error: 'access_denied' })

    await page.goto(`${server.url}/auth/signed-in`)
    await page.click('button')
    expect(await page.textContent('h1')).toBe('Signed out')
    await page.goto(denied.verification_uri)
    expect(page.url()).not.toContain('/auth/device?')
  }, 60_000)

  test('an expired code, a form of another site, a page in a frame', async () => {
    const page = await browser.fresh({ javaScript: false })
    const device = await begin()
    await signIn(page, device.verification_uri_complete, 'bob')
    const cookies = (await page.context().cookies(server.url)).map(({ name, value }) => `${name}=${value}`)
    const cookie = cookies.join('; ')
    const answer = { user_code: device.user_code, answer: 'approve' }
    for (const csrf of [{}, { csrf: '' }, { csrf: 'guess' }])
      expect((await form('/auth/device', { ...answer, ...csrf }, { cookie })).status).toBe(403)
    expect((await form('/auth/logout', {}, { cookie })).status).toBe(403)
    // Without a session: to the sign-in, and nothing is approved.
    expect((await form('/auth/device', answer)).status).toBe(302)
    const shown = await fetch(device.verification_uri_complete, { headers: { cookie } })
    expect(shown.headers.get('content-security-policy')).toContain("frame-ancestors 'none'")
    expect(shown.headers.get('content-security-policy')).toContain("default-src 'none'")
    expect(shown.headers.get('x-frame-options')).toBe('DENY')
    ahead = 601_000
    await page.click('button[value=approve]')
    expect(await page.textContent('main')).toContain('does not wait any longer')
    expect(await poll(device.device_code)).toMatchObject({ error: 'expired_token' })
  }, 60_000)

  test('whoever guesses codes is stopped, in whatever session, and gets at no sign-in that waits', async () => {
    const page = await browser.fresh({ javaScript: false })
    await signIn(page, `${server.url}/auth/device`, 'eve')
    const cookieOf = async (from: Page) => {
      const cookies = await from.context().cookies(server.url)
      return cookies.map(({ name, value }) => `${name}=${value}`).join('; ')
    }
    const device = await begin()
    const guess = async (cookie: string, code: string) => {
      const answer = await fetch(`${server.url}/auth/device?user_code=${code}`, { headers: { cookie } })
      return { status: answer.status, wait: answer.headers.get('retry-after'), text: await answer.text() }
    }
    const cookie = await cookieOf(page)
    for (let turn = 0; turn < 10; turn++)
      expect(await guess(cookie, `BBBB-BBB${'BCDFGHJKLM'[turn]}`)).toMatchObject({ status: 404 })
    const shut = await guess(cookie, device.user_code)
    expect(shut).toMatchObject({ status: 429, text: expect.stringContaining('wait ten minutes') })
    expect(shut.text).not.toContain('Approve')
    const csrf = /name="csrf" value="([^"]+)"/.exec(
      await (await fetch(`${server.url}/account`, { headers: { cookie } })).text(),
    )
    const approve = { user_code: device.user_code, answer: 'approve', csrf: csrf?.[1] ?? '' }
    expect((await form('/auth/device', approve, { cookie })).status).toBe(429)
    // A new session of the same user is no new beginning.
    const again = await browser.fresh({ javaScript: false })
    await signIn(again, `${server.url}/auth/device`, 'eve')
    expect(await guess(await cookieOf(again), device.user_code)).toMatchObject({ status: 429 })
    // Others are not shut out.
    const ada = await browser.fresh({ javaScript: false })
    await signIn(ada, device.verification_uri_complete)
    expect(await ada.textContent('main')).toContain(device.user_code)
    expect(await poll(device.device_code)).toMatchObject({ error: 'authorization_pending' })
    ahead = 601_000
    expect(await guess(cookie, device.user_code)).toMatchObject({ status: 404 })
  }, 60_000)

  test('sign-ins cannot be begun without end', async () => {
    ahead = 7_200_000
    const answers = await Promise.all(
      Array.from(
        { length: 130 },
        async () => (await form('/oauth/device_authorization', { client_id: 'test' })).status,
      ),
    )
    expect(answers.filter((status) => status === 200).length).toBeLessThanOrEqual(120)
    expect(answers).toContain(429)
    ahead += 61_000
    expect(await begin()).toHaveProperty('device_code')
  })

  test('state mixed up, callback replayed, or begun in another browser: refused, with nobody signed in', async () => {
    const page = await browser.fresh({ javaScript: false })
    let callback = ''
    page.on('request', (request) => {
      if (request.url().startsWith(`${server.url}/auth/callback`)) callback = request.url()
    })
    await signIn(page, `${server.url}/auth/login?return_to=//evil.example/x`)
    expect(page.url()).toBe(`${server.url}/auth/signed-in`)
    expect(callback).toContain('code=')
    const other = await browser.fresh({ javaScript: false })
    await other.goto(callback)
    expect(await other.textContent('main')).toContain('not begun in this browser')
    // It has begun one of its own, whose state is another.
    await other.goto(`${server.url}/auth/login`)
    await other.goto(callback)
    expect(await other.textContent('h1')).toBe('That did not work')
    const names = (await other.context().cookies()).map(({ name }) => name)
    expect(names).not.toContain('timone-session')
    // The same browser, the same code once more.
    expect((await page.goto(callback))?.status()).toBe(403)
  }, 60_000)

  test('somebody else’s code, brought into this browser with a state of its own, signs nobody in', async () => {
    const thief = await browser.fresh({ javaScript: false })
    await thief.goto(`${server.url}/auth/login`)
    await thief.fill('input[name=login]', 'eve')
    await thief.fill('input[name=password]', 'any')
    await thief.click('button[type=submit]')
    // From here on by hand, up to the code, which this server is not shown.
    const button = thief.locator('form')
    const prompt = await button.locator('input[name=prompt]').getAttribute('value')
    const action = new URL((await button.getAttribute('action')) ?? '', thief.url()).href
    let answer = await thief.request.post(action, { form: { prompt: prompt ?? '' }, maxRedirects: 0 })
    let taken = answer.headers().location ?? ''
    while (taken.startsWith(provider.issuer)) {
      answer = await thief.request.get(taken, { maxRedirects: 0 })
      taken = answer.headers().location ?? ''
    }
    expect(taken).toContain(`${server.url}/auth/callback?`)
    const page = await browser.fresh({ javaScript: false })
    let state = ''
    page.on('request', (request) => {
      state ||= new URL(request.url()).searchParams.get('state') ?? ''
    })
    await page.goto(`${server.url}/auth/login`)
    const forged = new URL(taken)
    expect(forged.searchParams.get('code')).toMatch(/./)
    forged.searchParams.set('state', state)
    // The code is good; it is PKCE that ties it to the browser that asked for it.
    expect((await page.goto(forged.href))?.status()).toBe(403)
    const names = (await page.context().cookies()).map(({ name }) => name)
    expect(names).not.toContain('timone-session')
  }, 60_000)

  test('a clock 10 minutes off: said, and nobody is signed in', async () => {
    const page = await browser.fresh({ javaScript: false })
    await page.goto(`${server.url}/auth/login`)
    ahead = 660_000
    await page.fill('input[name=login]', 'ada')
    await page.fill('input[name=password]', 'any')
    await page.click('button[type=submit]')
    if (page.url().startsWith(provider.issuer)) await page.click('button[type=submit]')
    expect(await page.textContent('main')).toContain('longer than 10 minutes')
  }, 60_000)
})

test.each([
  ['/a?b=c', '/a?b=c'],
  ['/auth/device?user_code=X', '/auth/device?user_code=X'],
  ['//evil.example', '/auth/signed-in'],
  ['/\\evil.example', '/auth/signed-in'],
  ['/\t/evil.example', '/auth/signed-in'],
  ['https://evil.example/', '/auth/signed-in'],
  ['javascript:alert(1)', '/auth/signed-in'],
  ['/.//evil.example', '/auth/signed-in'],
  ['/x/..//evil.example', '/auth/signed-in'],
  ['/%0d%0aSet-Cookie:x', '/%0d%0aSet-Cookie:x'],
  [undefined, '/auth/signed-in'],
])('return_to %s leads to %s', (given, path) => {
  expect(localPath(given)).toBe(path)
})

describe('timone login', () => {
  let sandbox: Sandbox
  let kept: string
  beforeEach(async () => {
    sandbox = await makeSandbox()
    kept = path.join(sandbox.env.HOME as string, 'credentials')
  })
  afterEach(() => sandbox.remove())
  const useStore = () => sandbox.git(['config', '--global', 'credential.helper', `store --file='${kept}'`])

  test('device, git store, git-lfs push, whoami, logout', async () => {
    await useStore()
    const page = await browser.fresh({ javaScript: false })
    const approve = async (said: string) => {
      const [address] = /http:\/\/\S+user_code=\S+/.exec(said) ?? []
      await signIn(page, address as string)
      await page.click('button[value=approve]')
    }
    const { Writable } = await import('node:stream')
    let said = ''
    let approved: Promise<void> | undefined
    const stderr = new Writable({
      write(chunk: Buffer, _encoding, done) {
        said += chunk.toString()
        if (approved === undefined && /approve the code/.test(said)) approved = approve(said)
        done()
      },
    })
    const outcome = await sandbox.timone(['login', server.url], { stderr })
    await approved
    expect(said).toContain('approve the code')
    expect(outcome).toMatchObject({ code: 0 })
    expect(outcome.stdout).toContain('as ada')
    const stored = await readFile(kept, 'utf8')
    expect(stored).toMatch(/^http:\/\/ada:[^@]+@127\.0\.0\.1/)
    const token = /ada:([^@]+)@/.exec(stored)?.[1] as string
    expect(said + outcome.stdout).not.toContain(token)

    const who = await sandbox.timone(['whoami', server.url, '--json'])
    expect(JSON.parse(who.stdout)).toEqual({
      user: 'ada',
      name: 'Ada L.',
      email: 'ada@example.com',
      scopes: ['lfs:org/*:rw'],
      expires_at: expect.any(String) as string,
      server: server.url,
    })

    const work = path.join(sandbox.cwd, 'repo')
    const bare = path.join(sandbox.cwd, 'bare.git')
    await sandbox.git(['init', '-q', '--bare', bare])
    await sandbox.git(['init', '-q', '-b', 'main', work])
    const git = (...args: string[]) =>
      sandbox.git(['-c', 'user.name=a', '-c', 'user.email=a@example.com', ...args], work)
    await git('lfs', 'install', '--local')
    await git('config', 'lfs.url', `${server.url}/org/repo/info/lfs`)
    await git('lfs', 'track', '*.bin')
    await writeFile(path.join(work, 'a.bin'), randomBytes(20_000))
    await git('add', '-A')
    await git('commit', '-qm', 'one')
    await git('remote', 'add', 'origin', bare)
    await git('push', '-q', 'origin', 'main')
    expect(await sandbox.git(['lfs', 'ls-files'], work)).toContain('a.bin')

    // Without an address: the server of the clone.
    const here = await sandbox.timone(['whoami', '--json'], { cwd: work })
    expect(JSON.parse(here.stdout)).toMatchObject({ user: 'ada', server: server.url })
    const nowhere = await sandbox.timone(['whoami'])
    expect(nowhere.code).toBe(2)
    expect(nowhere.stderr).toContain('no clone here says which server is meant: give its address')

    const out = await sandbox.timone(['logout'], { cwd: work })
    expect(out).toMatchObject({ code: 0, stderr: '' })
    expect(await readFile(kept, 'utf8')).toBe('')
    const late = await fetch(`${server.url}/auth/whoami`, { headers: { authorization: `Bearer ${token}` } })
    expect(late.status).toBe(401)
    expect((await sandbox.timone(['whoami', server.url])).code).toBe(1)
    expect((await sandbox.timone(['logout', server.url])).code).toBe(0)
  }, 120_000)

  test('an operator’s token from stdin; it outlives the logout, which says so', async () => {
    await useStore()
    const token = (await server.as('olga')).replace('Bearer ', '')
    expect(
      await sandbox.timone(['login', server.url, '--token-stdin'], { input: `${token}\n` }),
    ).toMatchObject({ code: 0 })
    expect((await sandbox.timone(['whoami', server.url])).stdout).toMatch(/user +olga\n.*\nexpires +never/)
    const out = await sandbox.timone(['logout', `${server.url}/org/repo.git/info/lfs`])
    expect(out.code).toBe(1)
    expect(out.stderr).toContain('the operator signed that token')
    for (const input of ['', 'a b', 'x'.repeat(70_000), 'forged.forged.forged'])
      expect((await sandbox.timone(['login', server.url, '--token-stdin'], { input })).code).not.toBe(0)
  })

  test('no helper, one that lies, one that hangs: said, with the command that sets one', async () => {
    const token = (await server.as('olga')).replace('Bearer ', '')
    const attempt = () => sandbox.timone(['login', server.url, '--token-stdin'], { input: token })
    const none = await attempt()
    expect(none.code).toBe(2)
    expect(none.stderr).toContain('git config --global credential.helper')
    const helper = path.join(sandbox.env.HOME as string, 'helper')
    const use = async (script: string) => {
      await writeFile(helper, `#!/bin/sh\n${script}\n`)
      await chmod(helper, 0o755)
      await sandbox.git(['config', '--global', 'credential.helper', `!'${helper}'`])
      return attempt()
    }
    expect((await use('exit 0')).stderr).toContain('did not keep the token')
    expect((await use('[ $1 = get ] && printf "username=olga\\npassword=other\\n"')).stderr).toContain(
      'did not keep',
    )
    Object.assign(sandbox.env, { TIMONE_TEST_CREDENTIAL_PATIENCE: '700' })
    const hangs = await use('sleep 300')
    expect(hangs.code).toBe(1)
    expect(hangs.stderr).toContain('does not answer')
    expect(hangs.stderr).not.toContain(token)
  }, 30_000)

  test('credential.useHttpPath: the token is kept for one repository, where git-lfs finds it', async () => {
    await useStore()
    await sandbox.git(['config', '--global', 'credential.useHttpPath', 'true'])
    const token = (await server.as('olga')).replace('Bearer ', '')
    const signIn = (address: string) =>
      sandbox.timone(['login', address, '--token-stdin'], { input: `${token}\n` })
    const whole = await signIn(server.url)
    expect(whole).toMatchObject({ code: 2, stderr: expect.stringContaining(`${server.url}/ORG/REPO`) })
    expect((await sandbox.timone(['whoami', server.url])).code).toBe(2)
    expect((await sandbox.timone(['logout', server.url])).code).toBe(2)

    expect((await signIn(`${server.url}/org/one`)).code).toBe(0)
    expect(await readFile(kept, 'utf8')).toMatch(/^http:\/\/olga:[^@]+@127[^/]+\/org\/one\/info\/lfs\n$/)
    expect((await sandbox.timone(['whoami', `${server.url}/org/one/info/lfs`])).code).toBe(0)
    expect((await sandbox.timone(['whoami', `${server.url}/org/two`])).code).toBe(1)

    // git-lfs, and timone's own commands, find it for this repository and for no other.
    const push = async (repository: string) => {
      const work = path.join(sandbox.cwd, repository)
      const bare = path.join(sandbox.cwd, `${repository}.git`)
      await sandbox.git(['init', '-q', '--bare', bare])
      await sandbox.git(['init', '-q', '-b', 'main', work])
      const git = (...args: string[]) =>
        sandbox.git(['-c', 'user.name=a', '-c', 'user.email=a@example.com', ...args], work)
      await git('lfs', 'install', '--local')
      await git('config', 'lfs.url', `${server.url}/org/${repository}/info/lfs`)
      await git('lfs', 'track', '*.bin')
      for (const name of ['a.bin', 'b.bin']) await writeFile(path.join(work, name), randomBytes(2000))
      await git('add', '-A')
      await git('commit', '-qm', 'one')
      await git('remote', 'add', 'origin', bare)
      Object.assign(sandbox.env, { GIT_TERMINAL_PROMPT: '0' })
      const own = await sandbox.timone(['push'], { cwd: work })
      const byGit = await git('push', '-q', 'origin', 'main').then(
        () => 0,
        () => 1,
      )
      return [own.code, byGit]
    }
    expect(await push('one')).toEqual([0, 0])
    expect(await push('two')).toEqual([1, 1])

    expect((await sandbox.timone(['logout', `${server.url}/org/one`])).stderr).toContain(
      'the operator signed',
    )
    expect(await readFile(kept, 'utf8')).toBe('')
  }, 60_000)

  test('addresses that are refused', async () => {
    for (const address of [
      'lfs.example.com',
      'http://lfs.example.com',
      'https://a:b@lfs.example.com',
      'ftp://x',
    ])
      expect((await sandbox.timone(['login', address])).code).toBe(2)
  })
})
