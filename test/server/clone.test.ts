import { execFile, execFileSync } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { request as httpRequest } from 'node:http'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { OpaqueTokens } from '../../src/identity/opaque-tokens.ts'
import { Users } from '../../src/identity/users.ts'
import { type Running, startOnFiles } from './harness.ts'

const APP = 'https://app.example'

let running: Running
let folder: string
let env: Record<string, string>
let full: string
const large = randomBytes(300_000)

async function tokenOf(login: string, scope: string): Promise<string> {
  const users = new Users(running.database.db)
  const user = (await users.byLogin(login)) ?? (await users.add({ login }, ''))
  const tokens = new OpaqueTokens(running.database.db)
  return (await tokens.issue({ userId: user.id, kind: 'app', scopes: [scope], client: APP })).token
}

const git = async (token: string, cwd: string, ...args: string[]): Promise<string> =>
  (await promisify(execFile)('git', args, { cwd, env: { ...env, TOKEN: token } })).stdout

const put = async (path: string, body: string | Buffer): Promise<void> => {
  const headers = { authorization: `Bearer ${full}`, origin: APP, 'content-type': 'text/plain' }
  const bytes = typeof body === 'string' ? body : new Uint8Array(body)
  const response = await fetch(`${running.url}/storage/bob/${path}`, { method: 'PUT', headers, body: bytes })
  expect(response.ok).toBe(true)
}

beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), 'timone-clone-'))
  env = {
    PATH: process.env.PATH ?? '',
    HOME: folder,
    GIT_CONFIG_NOSYSTEM: '1',
    GIT_TERMINAL_PROMPT: '0',
  }
  const root = join(folder, 'spaces')
  running = await startOnFiles({ remoteStorage: { root, large: 65_536, quota: 10_000_000 } })
  full = await tokenOf('bob', 'storage:*:rw')
  const helper = '!f() { test "$1" = get && echo username=bob && echo "password=$TOKEN"; }; f'
  for (const args of [
    ['config', '--global', 'credential.helper', helper],
    ['lfs', 'install', '--skip-repo'],
  ])
    execFileSync('git', args, { cwd: folder, env, stdio: 'pipe' })
  await put('notes/a b.txt', 'one')
  await put('notes/a b.txt', 'two')
  await put('films/large.bin', large)
}, 60_000)
afterAll(async () => {
  await running.stop()
  rmSync(folder, { recursive: true, force: true })
})

test('git clones a storage with its history and its large documents, and pulls what is new', async () => {
  const token = await tokenOf('bob', 'storage:*:r')
  await git(token, folder, 'clone', '--quiet', `${running.url}/storage/bob.git`, 'copy')
  const copy = join(folder, 'copy')
  expect(readFileSync(join(copy, 'notes', 'a b.txt'), 'utf8')).toBe('two')
  expect(readFileSync(join(copy, 'films', 'large.bin')).equals(large)).toBe(true)
  expect((await git(token, copy, 'log', '--format=%s')).trim().split('\n')).toHaveLength(3)
  expect((await git(token, copy, 'lfs', 'ls-files')).trim()).toMatch(/ \* films\/large\.bin$/)
  expect(await git(token, copy, 'status', '--porcelain')).toBe('')
  for (let at = 0; at < 20; at++) await put(`more/${at}.txt`, `text ${at}`)
  await git(token, copy, 'pull', '--quiet')
  expect(readFileSync(join(copy, 'more', '19.txt'), 'utf8')).toBe('text 19')
  // Written to by apps only.
  await git(full, copy, '-c', 'user.name=x', '-c', 'user.email=x', 'commit', '--allow-empty', '-qm', 'mine')
  await expect(git(full, copy, 'push', '--no-verify', 'origin', 'main')).rejects.toThrow(/403/)
}, 60_000)

test('opens for tokens that may read all of that storage, and no others', async () => {
  const refs = 'info/refs?service=git-upload-pack'
  const ask = async (login: string, token: string | undefined, rest = refs, origin?: string) => {
    const basic = `Basic ${Buffer.from(`x:${token}`).toString('base64')}`
    const headers = {
      ...(token === undefined ? {} : { authorization: basic }),
      ...(origin === undefined ? {} : { origin }),
    }
    return fetch(`${running.url}/storage/${login}.git/${rest}`, { headers })
  }
  expect((await ask('bob', full)).status).toBe(200)
  const unknown = await ask('bob', undefined)
  expect([unknown.status, unknown.headers.get('www-authenticate')]).toEqual([401, 'Basic realm="timone"'])
  expect((await ask('bob', 'tmo_nonsense')).status).toBe(401)
  expect((await ask('bob', full, refs, 'https://evil.example')).status).toBe(401)
  expect((await ask('bob', await tokenOf('bob', 'storage:notes:rw'))).status).toBe(403)
  expect((await ask('bob', await tokenOf('eve', 'storage:*:rw'))).status).toBe(403)
  expect((await ask('eve', await tokenOf('eve', 'storage:*:rw'))).status).toBe(404)
  expect((await ask('bob', full, 'info/refs?service=git-receive-pack')).status).toBe(403)
  for (const rest of ['HEAD', 'config', 'objects/info/packs', 'info/refs'])
    expect((await ask('bob', full, rest)).status).not.toBe(200)
  const lost = `info/lfs/objects/${'a'.repeat(64)}?size=3`
  expect((await ask('bob', full, lost)).status).toBe(404)
  expect((await ask('bob', undefined, lost)).status).toBe(401)
})

test('git-lfs may fetch what the storage holds, and put nothing into it', async () => {
  const batch = async (body: unknown, token = full) => {
    const response = await fetch(`${running.url}/storage/bob.git/info/lfs/objects/batch`, {
      method: 'POST',
      headers: { authorization: `Bearer ${token}` },
      body: typeof body === 'string' ? body : JSON.stringify(body),
    })
    return [response.status, await response.text()] as const
  }
  const objects = [{ oid: 'a'.repeat(64), size: 3 }]
  const [status, text] = await batch({ operation: 'download', objects })
  expect([status, JSON.parse(text).objects[0].error.code]).toEqual([200, 404])
  expect(text).not.toContain(full)
  expect((await batch({ operation: 'upload', objects }))[0]).toBe(403)
  expect((await batch('{'))[0]).toBe(422)
  expect((await batch({ operation: 'download', objects }, 'tmo_x'))[0]).toBe(401)
})

test('what a clone asks may not be longer than 16 MiB, nor without an end', async () => {
  const { hostname, port } = new URL(running.url)
  const ask = (size: number) =>
    new Promise<number>((resolve, reject) => {
      const request = httpRequest(
        {
          ...{ hostname, port, method: 'POST', path: '/storage/bob.git/git-upload-pack' },
          headers: {
            authorization: `Bearer ${full}`,
            'content-type': 'application/x-git-upload-pack-request',
            'transfer-encoding': 'chunked',
          },
        },
        (response) => {
          resolve(response.statusCode ?? 0)
          response.resume()
          request.destroy()
        },
      )
      request.once('error', reject)
      // Lines that git takes one after the other: each asks for a commit.
      const line = `0032want ${'a'.repeat(40)}\n`
      const piece = Buffer.from(line.repeat(1300))
      let sent = 0
      const more = (): void => {
        while (sent < size && !request.destroyed) {
          sent += piece.length
          if (!request.write(piece)) return void request.once('drain', more)
        }
        if (!request.destroyed) request.end()
      }
      more()
    })
  expect(await ask(40 * 2 ** 20)).toBe(413)
  // Another one is not affected.
  const headers = { authorization: `Bearer ${full}` }
  const refs = await fetch(`${running.url}/storage/bob.git/info/refs?service=git-upload-pack`, { headers })
  expect(refs.status).toBe(200)
}, 60_000)
