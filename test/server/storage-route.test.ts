import { spawnSync } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { mkdirSync, mkdtempSync, readdirSync, rmSync, utimesSync, writeFileSync } from 'node:fs'
import { request as httpRequest, type IncomingHttpHeaders } from 'node:http'
import { connect as connectTcp } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { default as exported } from 'remotestoragejs'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { OpaqueTokens } from '../../src/identity/opaque-tokens.ts'
import { Users } from '../../src/identity/users.ts'
import { filesIn, type Running, startOnFiles, until } from './harness.ts'

const APP = 'https://app.example'
const QUOTA = 4_000_000

let running: Running & { root: string }
let root: string
let tokens: OpaqueTokens
let full: string

async function tokenOf(login: string, ...scopes: string[]): Promise<string> {
  const users = new Users(running.database.db)
  const user = (await users.byLogin(login)) ?? (await users.add({ login }, ''))
  return (await tokens.issue({ userId: user.id, kind: 'app', scopes, client: APP })).token
}

beforeAll(async () => {
  root = mkdtempSync(join(tmpdir(), 'timone-storage-'))
  running = await startOnFiles({ remoteStorage: { root, large: 65_536, quota: QUOTA } })
  tokens = new OpaqueTokens(running.database.db)
  full = await tokenOf('bob', 'storage:*:rw')
})
afterAll(async () => {
  await running.stop()
  rmSync(root, { recursive: true, force: true })
})

interface Answer {
  status: number
  headers: IncomingHttpHeaders
  body: Buffer
}

interface Asked {
  token?: string | undefined
  headers?: Record<string, string>
  body?: Buffer | string
}

/** The path goes out just as it is; `fetch` would resolve it. */
function ask(
  method: string,
  path: string,
  { token = full, headers = {}, body }: Asked = {},
): Promise<Answer> {
  return new Promise((resolve, reject) => {
    const { hostname, port } = new URL(running.url)
    const auth: Record<string, string> = token === '' ? {} : { authorization: `Bearer ${token}` }
    const options = { hostname, port, method, path, headers: { origin: APP, ...auth, ...headers } }
    const request = httpRequest(options, (response) => {
      const chunks: Buffer[] = []
      response.on('data', (chunk: Buffer) => chunks.push(chunk))
      response.once('end', () =>
        resolve({
          status: response.statusCode ?? 0,
          headers: response.headers,
          body: Buffer.concat(chunks),
        }),
      )
    })
    request.once('error', reject)
    request.end(body)
  })
}

const put = (path: string, body: Buffer | string, headers: Record<string, string> = {}, token = full) =>
  ask('PUT', path, { token, body, headers: { 'content-type': 'text/plain', ...headers } })

function fsck(): void {
  for (const name of readdirSync(root).filter((file) => file.endsWith('.git'))) {
    const args = ['--git-dir', join(root, name), 'fsck', '--strict', '--no-progress']
    expect(spawnSync('git', args, { encoding: 'utf8' })).toMatchObject({ stderr: '', status: 0 })
  }
}

test('stores, lists, changes and deletes documents', async () => {
  const type = 'text/x-odd; charset="utf-8" ;A=b'
  const made = await put('/storage/bob/notes/a%20b.txt', 'hello', { 'content-type': type })
  expect(made.status).toBe(201)
  const { etag = '' } = made.headers
  const got = await ask('GET', '/storage/bob/notes/a%20b.txt')
  expect(got).toMatchObject({ status: 200, headers: { etag, 'content-type': type, 'content-length': '5' } })
  expect(got.headers).toMatchObject({
    'cache-control': 'no-cache',
    'access-control-allow-origin': APP,
    'x-content-type-options': 'nosniff',
    'content-security-policy': expect.stringMatching(/^sandbox; default-src 'none'/),
    'last-modified': expect.stringMatching(/GMT$/),
  })
  expect(got.body.toString()).toBe('hello')
  const head = await ask('HEAD', '/storage/bob/notes/a%20b.txt')
  expect(head).toMatchObject({ status: 200, headers: { etag, 'content-length': '5' } })
  expect(head.body).toHaveLength(0)

  const list = await ask('GET', '/storage/bob/notes/')
  expect(list.headers['content-type']).toBe('application/ld+json')
  expect(JSON.parse(list.body.toString())).toEqual({
    '@context': 'http://remotestorage.io/spec/folder-description',
    items: {
      'a b.txt': {
        ETag: etag.slice(1, -1),
        'Content-Type': type,
        'Content-Length': 5,
        'Last-Modified': got.headers['last-modified'],
      },
    },
  })
  const above = JSON.parse((await ask('GET', '/storage/bob/')).body.toString())
  expect(above.items['notes/']).toEqual({ ETag: list.headers.etag?.slice(1, -1) })

  const fresh = { 'if-none-match': `"x", ${etag}` }
  expect((await ask('GET', '/storage/bob/notes/a%20b.txt', { headers: fresh })).status).toBe(304)
  const unchanged = { 'if-none-match': list.headers.etag ?? '' }
  expect((await ask('GET', '/storage/bob/notes/', { headers: unchanged })).status).toBe(304)
  expect((await put('/storage/bob/notes/a%20b.txt', 'new', { 'if-match': '"x"' })).status).toBe(412)
  expect((await put('/storage/bob/notes/a%20b.txt', 'new', { 'if-none-match': '*' })).status).toBe(412)
  expect((await put('/storage/bob/notes/a%20b.txt', 'new', { 'if-match': etag })).status).toBe(200)
  const range = await ask('GET', '/storage/bob/notes/a%20b.txt', { headers: { range: 'bytes=1-' } })
  expect(range).toMatchObject({ status: 206, headers: { 'content-range': 'bytes 1-2/3' } })
  expect(range.body.toString()).toBe('ew')
  const behind = await ask('GET', '/storage/bob/notes/a%20b.txt', { headers: { range: 'bytes=9-' } })
  expect(behind).toMatchObject({ status: 416, headers: { 'content-range': 'bytes */3' } })

  const gone = { headers: { 'if-match': etag } }
  expect((await ask('DELETE', '/storage/bob/notes/a%20b.txt', gone)).status).toBe(412)
  const deleted = await ask('DELETE', '/storage/bob/notes/a%20b.txt')
  expect(deleted).toMatchObject({ status: 200, headers: { etag: expect.any(String) } })
  expect((await ask('GET', '/storage/bob/notes/a%20b.txt')).status).toBe(404)
  expect(JSON.parse((await ask('GET', '/storage/bob/notes/')).body.toString()).items).toEqual({})
  fsck()
})

test('answers every preflight, and lets pages read errors', async () => {
  const options = await ask('OPTIONS', '/storage/bob/notes/x', { token: '' })
  expect(options).toMatchObject({
    status: 204,
    headers: {
      'access-control-allow-origin': APP,
      'access-control-allow-methods': expect.stringContaining('PUT'),
      'access-control-allow-headers': expect.stringContaining('If-None-Match'),
    },
  })
  for (const [method, path] of [
    ['GET', '/storage/bob/notes/x'],
    ['GET', '/storage/bob/%2e%2e/x'],
    ['PATCH', '/storage/bob/notes/x'],
    ['GET', '/storage/nobody/notes/x'],
  ] as const) {
    const { status, headers } = await ask(method, path)
    expect(status).toBeGreaterThanOrEqual(400)
    expect(headers).toMatchObject({
      'access-control-allow-origin': APP,
      'access-control-expose-headers': expect.stringContaining('ETag'),
      'content-security-policy': expect.stringContaining('sandbox'),
    })
  }
})

test.each([
  ['dot segments', '/storage/bob/a/../b', 400],
  ['encoded dot segments', '/storage/bob/a/%2e%2e/b', 400],
  ['the way to another user', '/storage/bob/../eve/x', 400],
  ['NUL', '/storage/bob/a%00', 400],
  ['an encoded slash', '/storage/bob/a%2fb', 400],
  ['overlong UTF-8', '/storage/bob/%c0%ae%c0%ae/b', 400],
  ['no UTF-8', '/storage/bob/%ff', 400],
  ['an empty name', '/storage/bob/a//b', 400],
  ['a folder', '/storage/bob/a/', 400],
  ['the root', '/storage/bob/', 400],
  ['a name that is too long', `/storage/bob/${'n'.repeat(256)}`, 414],
])('refuses to write %s', async (_, path, status) => {
  expect((await put(path, 'x')).status).toBe(status)
  expect((await ask('DELETE', path)).status).toBe(status)
})

test('keeps names that look like Git’s, or like each other, apart', async () => {
  const names = [
    '.git',
    '.GIT',
    'git~1',
    '.gitattributes',
    '.gitmodules',
    '.lfsconfig',
    'a',
    'A',
    'é',
    'e\u0301',
  ]
  for (const name of names) {
    expect((await put(`/storage/bob/odd/${encodeURIComponent(name)}`, name)).status).toBe(201)
  }
  const { items } = JSON.parse((await ask('GET', '/storage/bob/odd/')).body.toString())
  expect(Object.keys(items).sort()).toEqual([...names].sort())
  for (const name of names) {
    const { body } = await ask('GET', `/storage/bob/odd/${encodeURIComponent(name)}`)
    expect(body.toString()).toBe(name)
  }
  fsck()
})

test('does not mix folders and documents', async () => {
  await put('/storage/bob/mix/doc', 'x')
  expect((await put('/storage/bob/mix/doc/below', 'x')).status).toBe(409)
  expect((await put('/storage/bob/mix', 'x')).status).toBe(409)
  expect((await ask('GET', '/storage/bob/mix/doc/below')).status).toBe(404)
  expect((await ask('GET', '/storage/bob/mix')).status).toBe(404)
  const range = { 'content-range': 'bytes 0-0/1' }
  expect((await put('/storage/bob/mix/part', 'x', range)).status).toBe(400)
})

test('opens to each token what it is for', async () => {
  await put('/storage/bob/photos/p', 'x')
  await put('/storage/bob/public/photos/p', 'shown', { 'content-type': 'text/html' })
  const read = await tokenOf('bob', 'storage:photos:r')
  const write = await tokenOf('bob', 'storage:photos:rw')
  const status = async (method: string, path: string, token: string, headers = {}) =>
    (await ask(method, path, { token, headers, ...(method === 'PUT' ? { body: 'x' } : {}) })).status
  expect(await status('GET', '/storage/bob/photos/', read)).toBe(200)
  expect(await status('GET', '/storage/bob/public/photos/', read)).toBe(200)
  expect(await status('PUT', '/storage/bob/photos/p', read)).toBe(403)
  expect(await status('DELETE', '/storage/bob/photos/p', read)).toBe(403)
  expect(await status('GET', '/storage/bob/', read)).toBe(403)
  expect(await status('GET', '/storage/bob/photos', read)).toBe(403)
  expect(await status('GET', '/storage/bob/notes/', read)).toBe(403)
  expect(await status('GET', '/storage/bob/photos2/', read)).toBe(403)
  expect(await status('PUT', '/storage/bob/public/photos/q', write)).toBe(201)
  expect(await status('PUT', '/storage/bob/public/notes/q', write)).toBe(403)
  expect(await status('GET', '/storage/eve/photos/p', full)).toBe(403)
  expect(await status('GET', '/storage/bob/photos/p', '')).toBe(401)
  expect(await status('GET', '/storage/bob/photos/p', 'tmo_wrong')).toBe(401)
  expect(await status('GET', '/storage/bob/photos/p', full, { origin: 'https://evil.example' })).toBe(401)
  expect(await status('GET', '/storage/bob/photos/p', full, { origin: 'null' })).toBe(401)
  const lfs = (await running.as('bob', 'full')).replace('Bearer ', '')
  expect(await status('GET', '/storage/bob/photos/p', lfs)).toBe(401)

  const shown = await ask('GET', '/storage/bob/public/photos/p', { token: '' })
  expect(shown).toMatchObject({
    status: 200,
    headers: {
      'content-type': 'text/html',
      'cache-control': 'no-cache, public',
      'content-security-policy': expect.stringContaining('sandbox'),
    },
  })
  expect(await status('GET', '/storage/bob/public/photos/', '')).toBe(401)
  expect(await status('PUT', '/storage/bob/public/photos/p', '')).toBe(401)
  const [{ id } = { id: '' }] = (await tokens.list()).filter(({ scopes }) => scopes[0] === 'storage:photos:r')
  await tokens.revoke(id)
  expect(await status('GET', '/storage/bob/photos/', read)).toBe(401)
})

test('keeps large documents as objects of Git LFS', async () => {
  const body = randomBytes(300_000)
  const made = await put('/storage/bob/films/a.bin', body, { 'content-type': 'video/mp4' })
  expect(made.status).toBe(201)
  const got = await ask('GET', '/storage/bob/films/a.bin')
  expect(got.headers).toMatchObject({ etag: made.headers.etag, 'content-length': '300000' })
  expect(got.body.equals(body)).toBe(true)
  const part = await ask('GET', '/storage/bob/films/a.bin', { headers: { range: 'bytes=1000-1999' } })
  expect(part.body.equals(body.subarray(1000, 2000))).toBe(true)
  const user = await new Users(running.database.db).byLogin('bob')
  const stored = (await filesIn(running.root)).filter((path) => path.includes(`~${user?.id}/storage/`))
  expect(stored).toHaveLength(1)
  // A document that reads like a pointer is none.
  const show = ['--git-dir', join(root, `${user?.id}.git`), 'show', 'main:films/a.bin']
  const pointer = spawnSync('git', show, { encoding: 'utf8' }).stdout
  expect(pointer).toMatch(/^version https:\/\/git-lfs/)
  await put('/storage/bob/films/text', pointer)
  expect((await ask('GET', '/storage/bob/films/text')).body.toString()).toBe(pointer)
  const list = ['--git-dir', join(root, `${user?.id}.git`), 'lfs', 'ls-files', '--name-only', 'main']
  expect(spawnSync('git', list, { encoding: 'utf8' }).stdout).toContain('films/a.bin')
  fsck()
})

test('stops at the quota, announced, in the middle of a body, and without an end', async () => {
  const token = await tokenOf('carol', 'storage:*:rw')
  const path = '/storage/carol/x/big'
  expect((await put('/storage/carol/x/small', 'x'.repeat(1000), {}, token)).status).toBe(201)
  expect((await put(path, Buffer.alloc(QUOTA), {}, token)).status).toBe(507)
  const chunked = { 'transfer-encoding': 'chunked' }
  expect((await put(path, Buffer.alloc(QUOTA), chunked, token)).status).toBe(507)
  expect((await put(path, Buffer.alloc(100_000), chunked, token)).status).toBe(201)
  const { hostname, port } = new URL(running.url)
  const status = await new Promise<string>((resolve, reject) => {
    const socket = connectTcp(Number(port), hostname)
    socket.write(`PUT ${path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ${token}\r\n`)
    socket.write('Transfer-Encoding: chunked\r\n\r\n')
    const piece = `10000\r\n${'x'.repeat(65_536)}\r\n`
    const timer = setInterval(() => socket.write(piece), 1)
    socket.once('error', reject)
    socket.once('data', (data) => {
      clearInterval(timer)
      socket.destroy()
      resolve(data.toString().split('\r\n', 1)[0] ?? '')
    })
  })
  expect(status).toContain('507')
  expect((await ask('GET', path, { token })).headers['content-length']).toBe('100000')
  expect(readdirSync(join(root, '.incoming'))).toEqual([])
})

test('stores nothing of a body that is shorter than announced', async () => {
  for (const size of [10, 200_000]) {
    const { hostname, port } = new URL(running.url)
    await new Promise<void>((resolve, reject) => {
      const socket = connectTcp(Number(port), hostname, () => {
        socket.write(`PUT /storage/bob/short/doc HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ${full}\r\n`)
        socket.write(`Content-Length: ${size + 5}\r\n\r\n${'x'.repeat(size)}`)
        setTimeout(() => socket.destroy(), 100)
      })
      socket.once('close', () => resolve())
      socket.once('error', reject)
    })
  }
  await new Promise((resolve) => setTimeout(resolve, 200))
  expect((await ask('GET', '/storage/bob/short/doc')).status).toBe(404)
  expect(readdirSync(join(root, '.incoming'))).toEqual([])
})

test('slows down who tries tokens, and nobody else', async () => {
  const codes = new Set<number>()
  for (let turn = 0; turn < 150; turn++) {
    codes.add((await ask('GET', '/storage/bob/photos/p', { token: `wrong-${turn}` })).status)
  }
  expect([...codes]).toEqual([401, 429])
  expect((await ask('GET', '/storage/bob/photos/p')).status).toBe(200)
})

test('loses no write of 16 clients on one user', async () => {
  const token = await tokenOf('dave', 'storage:*:rw')
  const each = 10
  const answers = await Promise.all(
    Array.from({ length: 16 }, async (_, client) => {
      const statuses: number[] = []
      for (let n = 0; n < each; n++)
        statuses.push(
          (await put(`/storage/dave/m/c${n % 3}/d${client}-${n}`, `${client} ${n}`, {}, token)).status,
        )
      return statuses
    }),
  )
  expect(new Set(answers.flat())).toEqual(new Set([201]))
  const user = await new Users(running.database.db).byLogin('dave')
  const count = ['--git-dir', join(root, `${user?.id}.git`), 'rev-list', '--count', 'main']
  expect(spawnSync('git', count, { encoding: 'utf8' }).stdout.trim()).toBe(String(16 * each))
  fsck()
}, 120_000)

test('works with the client library of apps', async () => {
  const token = await tokenOf('frank', 'storage:*:rw')
  // The package is CommonJS, and its types say otherwise.
  const RemoteStorage = exported as unknown as typeof exported.default
  const remote = new RemoteStorage({ cache: false })
  remote.on('error', () => {})
  remote.access.claim('notes', 'rw')
  remote.remote.configure({
    href: `${running.url}/storage/frank`,
    token,
    storageApi: 'draft-dejong-remotestorage-22',
    userAddress: 'frank@127.0.0.1',
    properties: {},
  })
  const client = remote.scope('/notes/')
  await client.storeFile('text/plain', 'lists/today.txt', 'milk')
  expect(await client.getListing('lists/')).toHaveProperty('today.txt')
  expect(await client.getFile('lists/today.txt')).toMatchObject({ data: 'milk', contentType: 'text/plain' })
  await client.remove('lists/today.txt')
  expect(await client.getListing('lists/')).toEqual({})
  remote.disconnect()
})

test('removes what a killed server left behind, and nothing that is still arriving', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'timone-sweep-'))
  const incoming = join(folder, '.incoming')
  mkdirSync(incoming)
  for (const name of ['old', 'new']) writeFileSync(join(incoming, name), 'x')
  utimesSync(join(incoming, 'old'), 0, 0)
  const other = await startOnFiles({ remoteStorage: { root: folder, large: 65_536, quota: QUOTA } })
  try {
    await until(() => readdirSync(incoming).length === 1)
    expect(readdirSync(incoming)).toEqual(['new'])
  } finally {
    await other.stop()
    rmSync(folder, { recursive: true, force: true })
  }
})
