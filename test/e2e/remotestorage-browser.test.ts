import { execFileSync } from 'node:child_process'
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { createServer, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { Page } from 'playwright-core'
import { afterAll, beforeAll, expect, test, vi } from 'vitest'
import { startBrowser, type TestBrowser } from '../helpers/browser.ts'
import { startOidcProvider, type TestOidcProvider } from '../helpers/oidc-provider.ts'
import { type Serving, startServing } from '../helpers/serving.ts'

/** What the app's page offers to this test: a note is a text document in `/notes/`. */
interface App {
  connect(address: string): void
  isConnected(): boolean
  write(name: string, text: string): Promise<unknown>
  read(name: string): Promise<string | undefined>
  remove(name: string): Promise<unknown>
  sync(): Promise<void>
  /** Changes that the library told of since the page was opened, e.g. `conflict a.txt`. */
  readonly changes: readonly string[]
  /** Names of the errors that it told of. */
  readonly errors: readonly string[]
}
declare const app: App

const LIBRARY = readFileSync('node_modules/remotestoragejs/release/remotestorage.js')
const PAGE = `<!doctype html><title>Notes</title><script src="/remotestorage.js"></script><script>
const remote = new RemoteStorage({
  changeEvents: { local: false, window: false, remote: true, conflict: true },
  // What is younger than this is not asked for again.
  syncInterval: 300, backgroundSyncInterval: 300,
})
remote.access.claim('notes', 'rw')
remote.caching.enable('/notes/')
const notes = remote.scope('/notes/')
const changes = []
notes.on('change', ({ origin, relativePath }) => changes.push(origin + ' ' + relativePath))
const errors = []
remote.on('error', ({ name }) => errors.push(name))
const app = {
  changes, errors,
  connect: (address) => remote.connect(address),
  isConnected: () => remote.connected,
  write: (name, text) => notes.storeFile('text/plain', name, text),
  read: async (name) => (await notes.getFile(name, false)).data,
  remove: (name) => notes.remove(name),
  sync: () => remote.startSync(),
}
</script>`

let provider: TestOidcProvider
let server: Serving
let browser: TestBrowser
let apps: Server
let origin: string
let root: string

beforeAll(async () => {
  provider = await startOidcProvider()
  root = mkdtempSync(join(tmpdir(), 'timone-notes-'))
  server = await startServing({
    TIMONE_TOKEN_SECRET: 'the secret of the tests of apps in a browser',
    TIMONE_REMOTESTORAGE_ROOT: root,
    TIMONE_LOGIN_ISSUER: provider.issuer,
    TIMONE_LOGIN_CLIENT_ID: provider.clientId,
    TIMONE_LOGIN_CLIENT_SECRET: provider.clientSecret,
  })
  provider.allowRedirect(`${server.url}/auth/callback`)
  apps = createServer(({ url }, response) => {
    if (url === '/remotestorage.js') response.setHeader('Content-Type', 'text/javascript').end(LIBRARY)
    else response.setHeader('Content-Type', 'text/html').end(PAGE)
  })
  await new Promise<void>((resolve) => apps.listen(0, '127.0.0.1', resolve))
  origin = `http://127.0.0.1:${(apps.address() as AddressInfo).port}`
  browser = await startBrowser()
}, 60_000)
afterAll(async () => {
  await browser?.close()
  apps?.close()
  await server?.stop()
  await provider?.close()
  rmSync(root, { recursive: true, force: true })
})

const git = (...args: string[]): string => {
  const [name = ''] = readdirSync(root).filter((file) => /^\d+\.git$/.test(file))
  return execFileSync('git', ['--git-dir', join(root, name), ...args], { encoding: 'utf8', stdio: 'pipe' })
}

async function signIn(page: Page): Promise<void> {
  await page.fill('input[name=login]', 'ada')
  await page.fill('input[name=password]', 'any')
  await page.click('button[type=submit]')
  if (page.url().startsWith(provider.issuer)) await page.click('button[type=submit]')
}

/** Opens the app and connects it by the user's address, as far as the first page of somebody else. */
async function connect(page: Page): Promise<void> {
  await page.goto(origin)
  await page.waitForFunction(() => typeof app === 'object')
  await page.evaluate((address) => app.connect(address), `ada@${new URL(server.url).host}`)
  await page.waitForURL((url) => url.origin !== origin)
}

async function isBack(page: Page): Promise<void> {
  await page.waitForURL((url) => url.origin === origin)
  await page.waitForFunction(() => app.isConnected())
}

const write = (page: Page, name: string, text: string) =>
  page.evaluate(([n, t]) => app.write(n, t), [name, text] as const)
const read = (page: Page, name: string) => page.evaluate((n) => app.read(n), name)

/** Syncs until the page has this text. */
async function expectNote(page: Page, name: string, text: string | undefined): Promise<void> {
  await vi.waitFor(
    async () => {
      await page.evaluate(() => app.sync())
      expect(await read(page, name)).toBe(text)
    },
    { timeout: 15_000, interval: 100 },
  )
}

/** Syncs until Git has this text. */
async function expectCommitted(page: Page, name: string, text: string): Promise<void> {
  await vi.waitFor(
    async () => {
      await page.evaluate(() => app.sync())
      expect(git('show', `main:notes/${name}`)).toBe(text)
    },
    { timeout: 15_000, interval: 100 },
  )
}

test('an app on the client library: connect, store, sync, work offline, meet a conflict', async () => {
  // The person has been here before, so that the server knows them; with another browser.
  const first = await browser.fresh()
  await first.goto(`${server.url}/auth/login?return_to=/account`)
  await signIn(first)
  expect(first.url()).toBe(`${server.url}/account`)

  // By the address alone to the sign-in, to the question, and back with a token that is in the page's address no more.
  const laptop = await browser.fresh()
  await connect(laptop)
  await signIn(laptop)
  expect(await laptop.locator('code').first().textContent()).toBe(origin)
  expect(await laptop.locator('li').allTextContents()).toEqual([
    'read, change and delete what is in “notes”, and in its public folder',
  ])
  await laptop.getByRole('button', { name: 'Allow' }).click()
  await isBack(laptop)
  expect(laptop.url()).not.toContain('access_token')

  await write(laptop, 'a.txt', 'milk')
  await expectCommitted(laptop, 'a.txt', 'milk')

  // A second tab, and a second device, where the question is not asked again.
  const tab = await laptop.context().newPage()
  await tab.goto(origin)
  await tab.waitForFunction(() => app.isConnected())
  await expectNote(tab, 'a.txt', 'milk')
  const phone = await browser.fresh()
  await connect(phone)
  await signIn(phone)
  await isBack(phone)
  await expectNote(phone, 'a.txt', 'milk')

  await write(tab, 'a.txt', 'milk, bread')
  await expectCommitted(tab, 'a.txt', 'milk, bread')
  await expectNote(laptop, 'a.txt', 'milk, bread')
  await expectNote(phone, 'a.txt', 'milk, bread')
  expect(await phone.evaluate(() => app.changes)).toContain('remote a.txt')

  // Offline, and online again.
  await phone.context().setOffline(true)
  await write(phone, 'b.txt', 'written in a tunnel')
  await phone.evaluate(() => app.sync())
  expect(await read(phone, 'b.txt')).toBe('written in a tunnel')
  expect(git('ls-tree', '--name-only', 'main:notes')).not.toContain('b.txt')
  await phone.context().setOffline(false)
  await expectCommitted(phone, 'b.txt', 'written in a tunnel')
  await expectNote(laptop, 'b.txt', 'written in a tunnel')

  // Both change the same note; the second to come finds out, and the app settles it.
  await phone.context().setOffline(true)
  await write(phone, 'a.txt', 'milk, bread, eggs')
  await phone.evaluate(() => app.sync())
  await write(laptop, 'a.txt', 'milk, bread, apples')
  await expectCommitted(laptop, 'a.txt', 'milk, bread, apples')
  await phone.context().setOffline(false)
  await vi.waitFor(
    async () => {
      await phone.evaluate(() => app.sync())
      expect(await phone.evaluate(() => app.changes)).toContain('conflict a.txt')
    },
    { timeout: 15_000, interval: 100 },
  )
  expect(git('show', 'main:notes/a.txt')).toBe('milk, bread, apples')
  await expectNote(phone, 'a.txt', 'milk, bread, apples')
  await write(phone, 'a.txt', 'milk, bread, apples, eggs')
  await expectCommitted(phone, 'a.txt', 'milk, bread, apples, eggs')
  await expectNote(laptop, 'a.txt', 'milk, bread, apples, eggs')

  await laptop.evaluate(() => app.remove('b.txt'))
  await expectNote(laptop, 'b.txt', undefined)
  await expectNote(phone, 'b.txt', undefined)

  // Every change that came through is a commit, in order, with the app's name.
  expect(git('log', '--reverse', '--format=%s', 'main').trim().split('\n')).toEqual([
    'PUT /notes/a.txt',
    'PUT /notes/a.txt',
    'PUT /notes/b.txt',
    'PUT /notes/a.txt',
    'PUT /notes/a.txt',
    'DELETE /notes/b.txt',
  ])
  expect(git('log', '-1', '--format=%an %(trailers:key=Client,valueonly)', 'main').trim()).toBe(
    `ada ${origin}`,
  )
  git('fsck', '--strict', '--no-progress')

  // Taken back on the account page, on both devices, and the app is out.
  expect(await phone.evaluate(() => app.errors)).not.toContain('Unauthorized')
  await laptop.goto(`${server.url}/account`)
  const revoke = laptop.getByRole('button', { name: `Revoke ${origin}` })
  for (let left = await revoke.count(); left > 0; left--) {
    await revoke.first().click()
    await vi.waitUntil(async () => (await revoke.count()) === left - 1)
  }
  await vi.waitFor(
    async () => {
      await phone.evaluate(() => app.sync())
      expect(await phone.evaluate(() => app.errors)).toContain('Unauthorized')
    },
    { timeout: 15_000, interval: 100 },
  )
}, 120_000)
