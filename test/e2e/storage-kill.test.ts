import { type ChildProcess, execFileSync, spawn, spawnSync } from 'node:child_process'
import { createHash, randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { mkdtempSync, readFileSync, rmSync, statSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest'
import { gitEnvironment } from '../../src/remotestorage/git-process.ts'
import { REPACK } from '../../src/remotestorage/packing.ts'
import { type Serving, startServing } from '../helpers/serving.ts'
import { addOwners, type Owner, StorageClient } from '../helpers/storage-client.ts'

const ROUNDS = process.env.TIMONE_TEST_LONG === '1' ? 200 : 6
/** Changes of a round that are acknowledged before the server is killed, at most. */
const MOST = 60
/** Milliseconds within which housekeeping begins. */
const LATEST = 700
/** Bytes from which a document is an object of Git LFS here. */
const LARGE = 65_536
/** Milliseconds until a lock that a killed git left is known to be nobody's, with some to spare. */
const PATIENCE = 20_000

interface Version {
  etag: string
  content: Buffer
}
/** What somebody stored at a path; `maybe`: what was under way when the server was killed, undefined for a DELETE. */
interface Place {
  now: Version | undefined
  maybe?: { content: Buffer | undefined }
}

/** Writes documents of its own, one request after another, until the server is gone. */
class Writer {
  readonly owner: Owner
  readonly places = new Map<string, Place>()
  /** Changes that were acknowledged, and those that may have happened though nobody heard of it. */
  acknowledged: Version[] = []
  unheard = 0
  readonly #name: string

  constructor(owner: Owner, name: string) {
    this.owner = owner
    this.#name = name
  }

  async run(url: string): Promise<void> {
    const client = new StorageClient(url, this.owner)
    try {
      for (;;) await this.#step(client)
    } catch (error) {
      if (error instanceof Refused) throw error
    } finally {
      client.close()
    }
  }

  async #step(client: StorageClient): Promise<void> {
    const n = Math.floor(Math.random() * 8)
    const path = n < 5 ? `/notes/${this.#name}/deep/d${n}` : `/shared/${this.#name}-${n}`
    const place = this.places.get(path) ?? { now: undefined }
    this.places.set(path, place)
    const kind = Math.random()
    const content =
      kind < 0.15 && place.now !== undefined
        ? undefined
        : randomBytes(kind < 0.3 ? LARGE + Math.floor(Math.random() * 200_000) : 1024)
    const old = place.now
    place.maybe = { content }
    this.unheard++
    const etag = await send(client, path, content)
    this.unheard--
    delete place.maybe
    place.now = content === undefined ? undefined : { etag, content }
    this.acknowledged.push({ etag, content: content ?? (old as Version).content })
  }

  /** Finds out what became of what was under way; everything else must be as it was acknowledged. */
  async check(url: string): Promise<void> {
    const client = new StorageClient(url, this.owner)
    for (const [path, place] of this.places) {
      const { status, headers, body } = await client.ask('GET', path)
      const found = status === 404 ? undefined : { etag: headers.etag ?? '', content: body }
      const isOld =
        place.now === undefined
          ? found === undefined
          : found?.etag === place.now.etag && body.equals(place.now.content)
      const isNew =
        place.maybe !== undefined &&
        (place.maybe.content === undefined ? found === undefined : body.equals(place.maybe.content))
      expect([isOld || isNew, status === 404 || status === 200], path).toEqual([true, true])
      place.now = found
      delete place.maybe
    }
    client.close()
  }
}

/** An answer that must not come; a connection that breaks is another thing. */
class Refused extends Error {}

/** PUT, or DELETE without content; as often as it takes while the server says that others are writing. */
async function send(client: StorageClient, path: string, content: Buffer | undefined): Promise<string> {
  const until = Date.now() + PATIENCE
  for (;;) {
    const { status, headers, body } = await (content === undefined
      ? client.ask('DELETE', path)
      : client.ask('PUT', path, { body: content }))
    if (status === 200 || status === 201) return headers.etag ?? ''
    if (status !== 429 || Date.now() > until) throw new Refused(`${path} was answered ${status}: ${body}`)
    await sleep(200)
  }
}

describe(`kill -9 of the server while documents are written, ${ROUNDS} rounds`, () => {
  let folder: string
  let owners: Owner[]
  let server: Serving | undefined
  const start = async (): Promise<Serving> => {
    server = await startServing(
      {
        TIMONE_TOKEN_SECRET: 'the secret of the tests that kill, long enough',
        TIMONE_DATA: folder,
        TIMONE_REMOTESTORAGE_ROOT: join(folder, 'spaces'),
        TIMONE_REMOTESTORAGE_LARGE: String(LARGE),
        TIMONE_LOG_LEVEL: 'warn',
      },
      folder,
    )
    return server
  }
  const gitDir = ({ id }: Owner): string => join(folder, 'spaces', `${id}.git`)
  const git = (owner: Owner, ...args: string[]): string =>
    execFileSync('git', ['--git-dir', gitDir(owner), ...args], { encoding: 'utf8', maxBuffer: 2 ** 28 })

  beforeAll(async () => {
    folder = mkdtempSync(join(tmpdir(), 'timone-storage-kill-'))
    owners = await addOwners(`sqlite:${join(folder, 'timone.db')}`, ['ada', 'bob'])
  })
  afterAll(async () => {
    await server?.stop()
    rmSync(folder, { recursive: true, force: true })
  })

  /** Packs as the server does when nobody uses a space; here beside everything else. */
  async function pack(owner: Owner): Promise<ChildProcess> {
    await sleep(Math.random() * LATEST)
    const args = ['--git-dir', gitDir(owner), ...REPACK]
    return spawn('git', args, { env: gitEnvironment(), detached: true, stdio: 'ignore' })
  }

  function checkHistory(owner: Owner, writers: readonly Writer[]): void {
    const args = ['--git-dir', gitDir(owner), 'fsck', '--strict', '--full', '--no-progress', '--no-dangling']
    expect(spawnSync('git', args, { encoding: 'utf8' })).toMatchObject({ stderr: '', status: 0 })
    const reachable = new Set(git(owner, 'rev-list', '--objects', 'main').split(/[ \n]/))
    let acknowledged = 0
    let unheard = 0
    for (const writer of writers) {
      for (const { etag, content } of writer.acknowledged) {
        const oid = etag.slice(1, 41)
        expect(reachable.has(oid), etag).toBe(true)
        if (content.length < LARGE) continue
        const sha256 = createHash('sha256').update(content).digest('hex')
        const object = `objects/~${owner.id}/storage/${sha256.slice(0, 2)}/${sha256.slice(2, 4)}/${sha256}`
        expect(statSync(join(folder, object)).size).toBe(content.length)
      }
      acknowledged += writer.acknowledged.length
      unheard += writer.unheard
    }
    const commits = Number(git(owner, 'rev-list', '--count', 'main'))
    expect(commits).toBeGreaterThanOrEqual(acknowledged)
    expect(commits).toBeLessThanOrEqual(acknowledged + unheard)
  }

  test(
    'what was acknowledged is there, the repository is sound, and the next write works',
    async () => {
      const [ada, bob] = owners as [Owner, Owner]
      const writers = [
        ...Array.from({ length: 6 }, (_, n) => new Writer(ada, `a${n}`)),
        ...Array.from({ length: 2 }, (_, n) => new Writer(bob, `b${n}`)),
      ]
      const acknowledged = () => writers.reduce((sum, writer) => sum + writer.acknowledged.length, 0)
      let running = await start()
      for (let round = 0; round < ROUNDS; round++) {
        const writing = Promise.all(writers.map((writer) => writer.run(running.url)))
        const packing = pack(ada)
        const before = acknowledged()
        const target = before + Math.floor(Math.random() * MOST)
        await vi.waitUntil(() => acknowledged() >= target, { timeout: 30_000, interval: 2 })
        await sleep(Math.random() * 20)
        const { pid } = running.child as { pid: number }
        // Some rounds take its git processes, or the packing, with it.
        const doomed = [pid]
        if (round % 2 === 1)
          doomed.push(
            ...readFileSync(`/proc/${pid}/task/${pid}/children`, 'latin1').trim().split(' ').map(Number),
          )
        for (const one of doomed) kill(one)
        await writing
        const packer = await packing
        if (round % 3 === 2 && packer.pid !== undefined) kill(-packer.pid)
        if (packer.exitCode === null && packer.signalCode === null) await once(packer, 'exit')
        await running.stop()

        running = await start()
        for (const writer of writers) await writer.check(running.url)
        for (const owner of owners) {
          const client = new StorageClient(running.url, owner)
          const own = writers.filter((writer) => writer.owner === owner)
          const content = randomBytes(1024)
          const etag = await send(client, '/notes/next', content)
          own[0]?.acknowledged.push({ etag, content })
          client.close()
          checkHistory(owner, own)
        }
      }
      process.stderr.write(`${acknowledged()} acknowledged changes in ${ROUNDS} rounds\n`)
    },
    ROUNDS * 30_000,
  )
})

function kill(pid: number): void {
  try {
    process.kill(pid, 'SIGKILL')
  } catch {
    // It has ended by itself.
  }
}
