import { execFileSync } from 'node:child_process'
import { readFile, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import {
  backendSettings,
  hashTree,
  type RunningServer,
  startServer,
  World,
  writeRandom,
} from '../helpers/world.ts'

const MIB = 2 ** 20

describe('a server that goes away', () => {
  let world: World
  let server: RunningServer
  beforeEach(async () => {
    world = await World.create()
    server = await startServer(world.path('data'), backendSettings('file', world.path('data')))
  })
  afterEach(async () => {
    await server.stop()
    await world.remove()
  })

  test('in the middle of a push: git says on which host, nothing half-done is visible, and the next push works', async () => {
    await world.install()
    await world.signIn(server)
    const { origin, work } = await world.repository(server)
    await world.git(work, 'config', 'lfs.transfer.maxretries', '2')
    await world.git(work, 'config', 'lfs.transfer.maxretrydelay', '1')
    for (let number = 0; number < 20; number++) await writeRandom(join(work, `${number}.bin`), 4 * MIB)
    await world.commit(work)
    const push = world.tryGit(work, 'push', 'origin', 'main')
    // Killed as soon as the first object is there.
    const objects = world.path('data', 'objects', 'org', 'repo')
    while ((await stat(objects).catch(() => undefined)) === undefined)
      await new Promise((resolve) => setImmediate(resolve))
    await server.stop('SIGKILL')
    const failed = await push
    expect(failed.code).not.toBe(0)
    expect(failed.stderr).toContain(`127.0.0.1:${server.port}`)

    server = await startServer(world.path('data'), backendSettings('file', world.path('data')), {
      port: server.port,
    })
    await world.git(work, 'push', '-q', 'origin', 'main')
    const clone = world.path('clone')
    await world.git(world.folder, 'clone', '-q', origin, clone)
    expect(await hashTree(clone)).toEqual(await hashTree(work))
  })
})

describe('secrets', () => {
  test('of server and users stand in no log and no command line', async () => {
    const world = await World.create()
    const data = world.path('data')
    const settings = backendSettings('s3-sts', data)
    const server = await startServer(data, { ...settings, TIMONE_LOG_LEVEL: 'debug' })
    try {
      await world.install()
      world.env.TIMONE_LOG = world.path('agent.log')
      world.env.TIMONE_LOG_LEVEL = 'debug'
      const token = await world.signIn(server)
      const { origin, work } = await world.repository(server)
      await writeRandom(join(work, 'a.bin'), 20 * MIB)
      await world.commit(work)
      const commands = new Set<string>()
      const watch = setInterval(() => {
        try {
          commands.add(
            execFileSync('sh', ['-c', 'cat /proc/[0-9]*/cmdline 2>/dev/null | tr "\\0" " "'], {
              encoding: 'utf8',
            }),
          )
        } catch {
          // Processes come and go.
        }
      }, 50)
      await world.git(work, 'push', '-q', 'origin', 'main')
      await world.git(world.folder, 'clone', '-q', origin, world.path('clone'))
      clearInterval(watch)
      const log = await readFile(world.path('agent.log'), 'utf8')
      expect(log).toContain('upload complete')
      expect((await stat(world.path('agent.log'))).mode & 0o777).toBe(0o600)
      const seen = [log, server.log(), ...commands].join('\n')
      expect(seen).toContain('agent')
      for (const secret of [
        token,
        token.split('.')[2],
        settings.TIMONE_STORAGE_S3_SECRET,
        'X-Amz-Signature',
        'Bearer ey',
      ]) {
        expect(seen.includes(secret as string), `${String(secret).slice(0, 8)}…`).toBe(false)
      }
    } finally {
      await server.stop()
      await world.remove()
    }
  })
})
