import { mkdtempSync, rmSync } from 'node:fs'
import { createServer, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { Sessions } from '../../src/identity/sessions.ts'
import { Users } from '../../src/identity/users.ts'
import { startBrowser, type TestBrowser } from '../helpers/browser.ts'
import { type Running, startOnFiles } from '../server/harness.ts'

let running: Running
let browser: TestBrowser
let app: Server
let origin: string
let root: string
let cookie: { name: string; value: string; url: string }

const address = () =>
  `${running.url}/oauth/bob?${new URLSearchParams({
    redirect_uri: `${origin}/back`,
    client_id: origin,
    scope: 'notes:rw',
    response_type: 'token',
    state: 'here',
  })}`

beforeAll(async () => {
  root = mkdtempSync(join(tmpdir(), 'timone-consent-'))
  running = await startOnFiles({ remoteStorage: { root, large: 65_536, quota: 1_000_000 } })
  const { id } = await new Users(running.database.db).add({ login: 'bob' }, '')
  const sessions = new Sessions({ db: running.database.db, url: running.url })
  const [name = '', value = ''] =
    (await sessions.start(id, { source: '', client: 'test' })).cookie.split(';', 1)[0]?.split('=') ?? []
  cookie = { name, value, url: running.url }
  // The app: another origin, with a page that also tries to show ours inside itself.
  app = createServer((request, response) => {
    response.setHeader('Content-Type', 'text/html')
    response.end(
      request.url === '/frame' ? `<iframe src="${address().replaceAll('&', '&amp;')}"></iframe>` : 'app',
    )
  })
  await new Promise<void>((resolve) => app.listen(0, '127.0.0.1', resolve))
  origin = `http://127.0.0.1:${(app.address() as AddressInfo).port}`
  browser = await startBrowser()
}, 60_000)
afterAll(async () => {
  await browser.close()
  app.close()
  await running.stop()
  rmSync(root, { recursive: true, force: true })
})

test('a person allows an app in, and its page uses the storage; no page shows ours inside itself', async () => {
  const page = await browser.fresh({ javaScript: true })
  await page.context().addCookies([cookie])
  await page.goto(`${origin}/frame`)
  const inside = page.frames()[1]
  expect(inside).toBeDefined()
  expect(await inside?.locator('button').count()).toBe(0)

  await page.goto(address())
  expect(await page.locator('code').first().textContent()).toBe(origin)
  expect(await page.locator('li').textContent()).toBe(
    'read, change and delete what is in “notes”, and in its public folder',
  )
  await page.getByRole('button', { name: 'Allow' }).click()
  await page.waitForURL(`${origin}/back#**`)
  const answer = new URLSearchParams(new URL(page.url()).hash.slice(1))
  expect(answer.get('state')).toBe('here')
  const statuses = await page.evaluate(
    async ([url, token]) => {
      const headers = { Authorization: `Bearer ${token}`, 'Content-Type': 'text/plain' }
      const put = await fetch(`${url}/storage/bob/notes/a.txt`, { method: 'PUT', headers, body: 'hello' })
      const get = await fetch(`${url}/storage/bob/notes/a.txt`, { headers })
      return [put.status, get.status, await get.text(), get.headers.get('etag') !== null]
    },
    [running.url, answer.get('access_token') ?? ''] as const,
  )
  expect(statuses).toEqual([201, 200, 'hello', true])
  // Not asked again.
  await page.goto('about:blank')
  await page.goto(address())
  expect(page.url()).toMatch(/\/back#access_token=/)
}, 60_000)
