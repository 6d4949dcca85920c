import { spawnSync } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { generateKey } from '../../src/auth/secret-box.ts'
import { type Serving, startServing } from '../helpers/serving.ts'
import { addOwners, type Owner, StorageClient } from '../helpers/storage-client.ts'

const CLIENTS = 16
const USERS = 64

let folder: string
let owners: Owner[]
let servers: Serving[]

beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), 'timone-storage-load-'))
  const database = `sqlite:${join(folder, 'timone.db')}`
  owners = await addOwners(
    database,
    Array.from({ length: 1 + USERS }, (_, n) => `user${n}`),
  )
  const env = {
    TIMONE_TOKEN_SECRET: 'the secret of the tests with many clients',
    TIMONE_SECRET_KEYS: generateKey(),
    TIMONE_DATABASE_URL: database,
    TIMONE_REMOTESTORAGE_ROOT: join(folder, 'spaces'),
    TIMONE_LOG_LEVEL: 'warn',
  }
  // They share the file system alone: nothing but the repository keeps them apart.
  servers = [await startServing(env), await startServing(env)]
})
afterAll(async () => {
  for (const server of servers ?? []) await server.stop()
  rmSync(folder, { recursive: true, force: true })
})

const serverOf = (n: number): string => (servers[n % servers.length] as Serving).url

function git({ id }: Owner, ...args: string[]): string {
  const done = spawnSync('git', ['--git-dir', join(folder, 'spaces', `${id}.git`), ...args], {
    encoding: 'utf8',
  })
  expect(done).toMatchObject({ stderr: '', status: 0 })
  return done.stdout.trim()
}

test('16 clients on one user, over two servers: every write is one commit, and none is lost', async () => {
  const [owner] = owners as [Owner]
  const each = 10
  const tags = new Map<string, string>()
  await Promise.all(
    Array.from({ length: CLIENTS }, async (_, client) => {
      const storage = new StorageClient(serverOf(client), owner)
      for (let n = 0; n < each; n++) {
        const path = `/notes/folder${n % 3}/c${client}-${n}`
        tags.set(path, await storage.put(path, `${client} ${n}`))
      }
      storage.close()
    }),
  )
  expect(git(owner, 'rev-list', '--count', 'main')).toBe(String(CLIENTS * each))
  for (const url of [serverOf(0), serverOf(1)]) {
    const storage = new StorageClient(url, owner)
    for (const [path, tag] of tags) expect((await storage.ask('HEAD', path)).headers.etag).toBe(tag)
    storage.close()
  }
  // All want to be the one that changes it: each version has one successor.
  const counter = '/notes/counter'
  const first = new StorageClient(serverOf(0), owner)
  await first.put(counter, '0')
  first.close()
  await Promise.all(
    Array.from({ length: CLIENTS }, async (_, client) => {
      const storage = new StorageClient(serverOf(client), owner)
      for (let done = false; !done; ) {
        const { headers, body } = await storage.ask('GET', counter)
        const { status } = await storage.ask('PUT', counter, {
          body: String(Number(body) + 1),
          headers: { 'if-match': headers.etag ?? '' },
        })
        expect([200, 412]).toContain(status)
        done = status === 200
      }
      storage.close()
    }),
  )
  expect(git(owner, 'show', 'main:notes/counter')).toBe(String(CLIENTS))
  expect(git(owner, 'rev-list', '--count', 'main')).toBe(String(CLIENTS * each + 1 + CLIENTS))
  git(owner, 'fsck', '--strict', '--no-progress', '--no-dangling')
}, 120_000)

test('64 clients on as many users: every write is one commit, and none is lost', async () => {
  const each = 4
  await Promise.all(
    owners.slice(1).map(async (owner, client) => {
      const storage = new StorageClient(serverOf(client), owner)
      for (let n = 0; n < each; n++) await storage.put(`/notes/deep/d${n}`, `${owner.login} ${n}`)
      storage.close()
    }),
  )
  for (const owner of owners.slice(1)) {
    expect(git(owner, 'rev-list', '--count', 'main')).toBe(String(each))
    expect(git(owner, 'show', 'main:notes/deep/d3')).toBe(`${owner.login} 3`)
  }
}, 120_000)
