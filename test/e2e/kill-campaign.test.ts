import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { readdir, readFile, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { ListMultipartUploadsCommand, S3Client } from '@aws-sdk/client-s3'
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest'
import { type AgentWorld, agentWorld } from '../helpers/agent-world.ts'
import { agentsOf, enginesOf, processesOf } from '../helpers/processes.ts'
import { testS3 } from '../helpers/s3.ts'
import { hashTree, run, TIMONE, World, writeRandom } from '../helpers/world.ts'

const LONG = process.env.TIMONE_TEST_LONG === '1'
const ROUNDS = LONG ? 100 : 6
const MIB = 2 ** 20
/** Longer than a push or a pull takes here, milliseconds: some rounds kill nothing, which must do no harm either. */
const LATEST = 1500
/** Tries until it must have worked; only the first is disturbed. */
const TRIES = 3

const VICTIMS = ['agent', 'engine', 'git-lfs'] as const
type Victim = (typeof VICTIMS)[number]

/** Numbers from 0 to 1 that are the same for the same seed (mulberry32). */
function random(seed: number): () => number {
  let state = seed
  return () => {
    state = (state + 0x6d2b79f5) | 0
    let t = Math.imul(state ^ (state >>> 15), 1 | state)
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32
  }
}

describe(`kill -9 at random points, ${ROUNDS} rounds`, () => {
  let here: AgentWorld
  let world: World
  beforeAll(async () => {
    here = await agentWorld('s3-sts')
    world = await World.create()
    await world.install()
    await world.signIn(here.server)
    await world.git(world.folder, 'config', '--global', 'timone.partSize', '5m')
    Object.assign(world.env, { XDG_RUNTIME_DIR: world.folder, GIT_LFS_SKIP_SMUDGE: '1' })
  })
  afterAll(async () => {
    await world?.remove()
    await here?.close()
  })

  async function victimsOf(kind: Victim): Promise<number[]> {
    if (kind === 'engine') return (await enginesOf(world)).map(({ pid }) => pid)
    if (kind === 'agent')
      return (await agentsOf(world))
        .filter(({ command }) => !command.includes('--engine'))
        .map(({ pid }) => pid)
    return (await processesOf(world)).filter(({ name }) => name.startsWith('git-lfs')).map(({ pid }) => pid)
  }

  function start(cwd: string, args: readonly string[]): { git: ChildProcess; said: () => string } {
    const git = spawn('git', args, { cwd, env: world.env, stdio: ['ignore', 'ignore', 'pipe'] })
    let said = ''
    git.stderr.on('data', (data: Buffer) => {
      said += data.toString()
    })
    return { git, said: () => said }
  }

  /** Runs git, kills `kind` on the way, and runs it again until it has worked. */
  async function disturbed(cwd: string, args: readonly string[], kind: Victim, after: number) {
    const first = start(cwd, args)
    const ended = once(first.git, 'exit')
    await Promise.race([sleep(after), ended])
    const pids = await victimsOf(kind)
    for (const pid of pids.slice(0, 1)) {
      try {
        process.kill(pid, 'SIGKILL')
      } catch {
        // It has just ended by itself.
      }
    }
    await ended
    await vi.waitUntil(async () => (await agentsOf(world)).length === 0, { timeout: 15_000, interval: 20 })
    const all: string[] = [first.said()]
    for (let tries = 1; tries < TRIES; tries++) {
      const again = start(cwd, args)
      const [code] = (await once(again.git, 'exit')) as [number | null]
      all.push(again.said())
      if (code === 0) return
    }
    throw new Error(`git ${args.join(' ')} did not work again:\n${all.join('\n---\n')}`)
  }

  /**
   * git-lfs writes a file of the work tree in place: killed there it leaves one cut short, which it then takes for the
   * user's own and lets be. Whoever finds it asks git for it again. What is not the beginning of the right file is not this.
   */
  async function restoreCutFiles(clone: string, work: string): Promise<void> {
    const right = await hashTree(work)
    const wrong = Object.entries(await hashTree(clone)).filter(([name, hash]) => right[name] !== hash)
    for (const [name] of wrong) {
      const [found, whole] = await Promise.all([clone, work].map((folder) => readFile(join(folder, name))))
      if (found === undefined || whole?.subarray(0, found.length).equals(found) !== true) continue
      await world.git(clone, 'checkout', '-q', '--', name)
      await world.git(clone, 'lfs', 'checkout', name)
    }
  }

  test(
    'every object is whole in the end, and nothing else is left',
    async () => {
      const seed = Number(process.env.TIMONE_TEST_SEED ?? Date.now() % 2 ** 31)
      const next = random(seed)
      const anyVictim = (): Victim => VICTIMS[Math.floor(next() * VICTIMS.length)] as Victim
      const s3 = testS3()
      const client = new S3Client({
        endpoint: s3.url,
        region: s3.region,
        forcePathStyle: true,
        credentials: s3.credentials,
      })
      const unfinished = async (): Promise<(string | undefined)[]> => {
        const { Uploads = [] } = await client.send(
          new ListMultipartUploadsCommand({
            Bucket: s3.bucket,
            Prefix: here.storage.TIMONE_STORAGE_S3_PREFIX,
          }),
        )
        return Uploads.map(({ Key }) => Key)
      }
      for (let round = 0; round < ROUNDS; round++) {
        const where = `round ${round}, TIMONE_TEST_SEED=${seed}`
        const name = `k${round}`
        const clone = world.path(`${name}-clone`)
        const { origin, work } = await world.repository(here.server, `org/${name}`, name)
        for (let number = 0; number < 10; number++) await writeRandom(join(work, `${number}.bin`), 50_000)
        await writeRandom(join(work, 'large.bin'), 12 * MIB)
        await world.commit(work)

        const [up, down] = [anyVictim(), anyVictim()]
        await disturbed(work, ['push', '-q', 'origin', 'main'], up, next() * LATEST)
        await world.git(world.folder, 'clone', '-q', origin, clone)
        await disturbed(clone, ['lfs', 'pull'], down, next() * LATEST)

        if (down === 'git-lfs') await restoreCutFiles(clone, work)
        expect(await hashTree(clone), where).toEqual(await hashTree(work))
        await world.git(clone, 'lfs', 'fsck')
        for (const folder of [work, clone]) {
          expect(await readdir(join(folder, '.git/lfs/timone')).catch(() => []), where).toEqual([])
        }
        await Promise.all([work, clone, origin].map((path) => rm(path, { recursive: true })))
      }
      // Killed between the store's answer and the note of it, an upload is the operator's to clean up: few ever are.
      expect((await unfinished()).length).toBeLessThan(Math.max(2, ROUNDS / 10))
      const swept = await run(TIMONE, ['uploads', 'abort', '--all', '--data', world.path('data')], {
        cwd: world.folder,
        env: { ...world.env, ...here.storage },
      })
      expect(swept.code, swept.stderr).toBe(0)
      expect(await unfinished()).toEqual([])
      client.destroy()
    },
    ROUNDS * 30_000,
  )
})
