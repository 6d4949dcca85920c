import { chmodSync, readdirSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { entryPath } from '../../src/agent/cache-folder.ts'
import { parseOid } from '../../src/oid.ts'
import { type BatchObject, batch } from '../helpers/agent.ts'
import { type AgentWorld, agentWorld, sha256Of } from '../helpers/agent-world.ts'
import type { SeenRequest } from '../helpers/fault-proxy.ts'
import { gitLfsVersions } from '../helpers/git-lfs.ts'
import { withTmpfs } from '../helpers/tmpfs.ts'
import { hashTree, lfsObject, World, writeRandom } from '../helpers/world.ts'

const MIB = 2 ** 20

const isObject = ({ url }: SeenRequest): boolean => /\/[0-9a-f]{64}(\?|$)/.test(url)

/** How often storage credentials were asked for, by the server's log. */
const credentialsIn = (log: string): number => log.split('/credentials').length - 1

describe.each(gitLfsVersions())('the shared cache through $name', (gitLfs) => {
  if (gitLfs.missing !== undefined) {
    test.skip(`SKIPPED: ${gitLfs.missing}`, () => {})
    return
  }

  let here: AgentWorld
  let world: World
  let origin: string
  let work: string
  let cache: string
  let hashes: Record<string, string>
  beforeAll(async () => {
    here = await agentWorld('s3-sts')
    world = await World.create(gitLfs.folder === undefined ? {} : { gitLfs: gitLfs.folder })
    await world.signIn(here.server)
    await world.install()
    cache = world.path('home', 'cache')
    await world.git(world.folder, 'config', '--global', 'timone.cacheDir', '~/cache')
    // Two agents at once show all there is to see.
    await world.git(world.folder, 'config', '--global', 'lfs.concurrenttransfers', '2')
    ;({ origin, work } = await world.repository(here.server, 'org/cached'))
    for (const [name, size] of Object.entries({ large: 12 * MIB, small: 100_000, other: 2 * MIB, empty: 0 }))
      await writeRandom(join(work, `${name}.bin`), size)
    hashes = await hashTree(work)
    await world.commit(work)
  })
  afterAll(async () => {
    await world?.remove()
    await here?.close()
  })

  let clones = 0
  /** A fresh clone, with the requests for objects and the bytes that it took. */
  async function clone(): Promise<{ path: string; requests: number; sent: number; credentials: number }> {
    const path = world.path(`clone${clones++}`)
    here.proxy.requests.length = 0
    here.proxy.sent = 0
    const before = credentialsIn(here.server.log())
    await world.git(world.folder, 'clone', '-q', origin, path)
    expect(await hashTree(path)).toEqual(hashes)
    return {
      path,
      requests: here.proxy.requests.filter((request) => isObject(request) && request.method === 'GET').length,
      sent: here.proxy.sent,
      credentials: credentialsIn(here.server.log()) - before,
    }
  }

  test('a download fills it; the next clone moves no byte and asks for no credentials', async () => {
    await world.git(work, '-c', 'timone.cacheDir=', 'push', '-q', 'origin', 'main')
    const first = await clone()
    expect(first.requests).toBeGreaterThanOrEqual(3)
    expect(first.sent).toBeGreaterThan(14 * MIB)
    expect(first.credentials).toBeGreaterThan(0)
    const second = await clone()
    expect(second).toMatchObject({ requests: 0, credentials: 0 })
    expect(second.sent).toBeLessThan(100_000)
    // Nothing else is left beside the objects.
    expect(readdirSync(join(second.path, '.git/lfs/timone'))).toEqual([])
    expect(await world.git(second.path, 'status', '--porcelain')).toBe('')
    await world.git(second.path, 'lfs', 'fsck')
  })

  test('an upload fills it too', async () => {
    await writeRandom(join(work, 'new.bin'), 3 * MIB)
    hashes = await hashTree(work)
    await world.commit(work)
    await world.git(work, 'push', '-q', 'origin', 'main')
    expect(await clone()).toMatchObject({ requests: 0, credentials: 0 })
  })

  test('changed through a clone: noticed, fetched again, and good for the next', async () => {
    const { path } = await clone()
    const oid = parseOid(hashes['large.bin'])
    const object = lfsObject(path, oid)
    chmodSync(object, 0o644)
    writeFileSync(object, 'changed', { flag: 'r+' })
    const reached = statSync(entryPath(cache, oid)).ino === statSync(object).ino
    expect((await clone()).requests).toBe(reached ? 1 : 0)
    expect(await sha256Of(entryPath(cache, oid))).toBe(oid)
    expect(await clone()).toMatchObject({ requests: 0 })
  })

  test('cut short on the disk: fetched again', async () => {
    const oid = parseOid(hashes['other.bin'])
    const entry = entryPath(cache, oid)
    rmSync(entry)
    writeFileSync(entry, 'short')
    expect((await clone()).requests).toBe(1)
    expect(await clone()).toMatchObject({ requests: 0 })
  })

  test('on a disk of its own, that is full: every clone works', async () => {
    await withTmpfs('1m', async (disk) => {
      await world.git(world.folder, 'config', '--global', 'timone.cacheDir', disk)
      try {
        expect((await clone()).requests).toBeGreaterThanOrEqual(4)
        expect(readdirSync(join(disk, 'tmp'))).toEqual([])
        // What fits is there.
        const second = await clone()
        expect(second.requests).toBe(3)
      } finally {
        await world.git(world.folder, 'config', '--global', 'timone.cacheDir', '~/cache')
      }
    })
  })

  test('.lfsconfig does not turn it on', async () => {
    const trap = world.path('trap')
    await world.git(work, 'config', '-f', '.lfsconfig', 'timone.cacheDir', trap)
    await world.commit(work)
    await world.git(work, 'push', '-q', 'origin', 'main')
    await world.git(world.folder, 'config', '--global', '--unset', 'timone.cacheDir')
    try {
      expect((await clone()).requests).toBeGreaterThanOrEqual(4)
      expect(readdirSync(world.folder)).not.toContain('trap')
    } finally {
      await world.git(world.folder, 'config', '--global', 'timone.cacheDir', '~/cache')
    }
  })

  test('an agent that is told of a hit reports its whole size', async () => {
    const oid = hashes['large.bin'] as string
    const [asked] = await batch(here.server, here.token, 'download', [{ oid, size: 12 * MIB }], 'org/cached')
    await world.git(here.work, 'config', 'timone.cacheDir', cache)
    const agent = here.agent()
    await agent.init('download')
    const answer = await agent.transfer('download', asked as BatchObject)
    expect(answer.error).toBeUndefined()
    expect(await sha256Of(answer.path as string)).toBe(oid)
    expect(agent.answers.filter(({ event }) => event === 'progress').at(-1)).toMatchObject({
      bytesSoFar: 12 * MIB,
    })
    expect(await agent.terminate()).toBe(0)
  })
})
