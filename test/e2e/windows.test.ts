import { copyFile, mkdir, readFile } from 'node:fs/promises'
import { dirname, join, resolve } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { AgentProcess, batch } from '../helpers/agent.ts'
import {
  backendSettings,
  lfsObject,
  type RunningServer,
  startServer,
  World,
  writeRandom,
} from '../helpers/world.ts'

/**
 * Nobody has Windows here. This takes away what it has not (user ids, /proc, some flags of open) and tells the program
 * that it is there: then nothing on the agent's way may miss them.
 */
describe('without what only POSIX has', () => {
  let world: World
  let server: RunningServer
  let work: string
  let token: string

  beforeAll(async () => {
    world = await World.create()
    const data = world.path('data')
    server = await startServer(data, backendSettings('file', data))
    token = await world.signIn(server)
    ;({ work } = await world.repository(server))
    world.env.NODE_OPTIONS = `--require ${resolve('test/helpers/pretend-windows.cjs')}`
  })
  afterAll(async () => {
    await server?.stop()
    await world?.remove()
  })

  test('small and large objects go up and come down', async () => {
    for (const size of [1000, 20 * 2 ** 20]) {
      const source = world.path(`source-${size}`)
      const oid = await writeRandom(source, size)
      const stored = lfsObject(work, oid)
      await mkdir(dirname(stored), { recursive: true })
      await copyFile(source, stored)

      const up = new AgentProcess(work, world.env)
      await up.init('upload')
      const [sent] = await batch(server, token, 'upload', [{ oid, size }])
      const uploaded = await up.transfer('upload', sent as NonNullable<typeof sent>, stored)
      expect(uploaded.error, up.stderr).toBeUndefined()
      expect(await up.terminate()).toBe(0)

      const down = new AgentProcess(work, world.env)
      await down.init('download')
      const [wanted] = await batch(server, token, 'download', [{ oid, size }])
      const got = await down.transfer('download', wanted as NonNullable<typeof wanted>)
      expect(got.error, down.stderr).toBeUndefined()
      const [bytes, original] = await Promise.all([readFile(join(got.path as string)), readFile(source)])
      expect(bytes.equals(original)).toBe(true)
      expect(await down.terminate()).toBe(0)
    }
  })
})
