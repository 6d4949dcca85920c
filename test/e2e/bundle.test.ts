import { copyFile, mkdir, symlink, writeFile } from 'node:fs/promises'
import { join, resolve } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { run, World } from '../helpers/world.ts'

/** The one file, whatever program the other tests run. */
const TIMONE = resolve('dist/timone.js')

const INIT =
  '{"event":"init","operation":"download","remote":"origin","concurrent":true,"concurrenttransfers":8}\n'

let world: World
let copied: string
beforeAll(async () => {
  world = await World.create()
  copied = world.path('somewhere else', 'timone.js')
  await mkdir(join(copied, '..'))
  await copyFile(TIMONE, copied)
})
afterAll(() => world.remove())

/** Runs the one file with this Node, far from the repository and its packages. */
const timone = (file: string, args: string[], input = '') =>
  run(process.execPath, [file, ...args], { cwd: world.folder, env: world.env, input })

describe('dist/timone.js', () => {
  test('needs nothing but Node: agent and server commands run from a copy, and say nothing of their own', async () => {
    expect(await timone(copied, ['agent'], INIT)).toEqual({ code: 0, stdout: '{}\n', stderr: '' })
    const version = await timone(copied, ['--version'])
    expect(version).toMatchObject({ code: 0, stderr: '' })
    const config = await timone(copied, ['config'])
    expect(config).toMatchObject({ code: 0, stderr: '' })
    expect(config.stdout).toContain('server.listen')
  })

  test('runs beside a package.json of modules, and through a link', async () => {
    await writeFile(join(copied, '../package.json'), '{"type":"module"}')
    const link = world.path('timone')
    await symlink(copied, link)
    for (const file of [copied, link]) {
      expect(await timone(file, ['--version'])).toMatchObject({ code: 0, stderr: '' })
      expect((await timone(file, ['agent'], INIT)).stdout).toBe('{}\n')
    }
  })

  test('without arguments and without a terminal it is the agent', async () => {
    expect((await timone(copied, [], INIT)).stdout).toBe('{}\n')
  })

  test('a reader that has seen enough ends it quietly', async () => {
    const ran = await run(
      'bash',
      ['-c', `"$0" serve --help | head -c 1; echo " \${PIPESTATUS[0]}"`, copied],
      {
        cwd: world.folder,
        env: world.env,
      },
    )
    // The help may fit into the pipe before its reader is gone.
    expect(ran.stdout).toMatch(/^U (0|141)\n$/)
    expect(ran.stderr).toBe('')
  })

  test('on a Node that is too old it says so in one line', async () => {
    const pretend = `Object.defineProperty(process, 'versions', { value: { ...process.versions, node: '20.20.2' } }); require(${JSON.stringify(TIMONE)})`
    const ran = await run(process.execPath, ['-e', pretend], { cwd: world.folder, env: world.env })
    expect(ran.code).toBe(2)
    expect(ran.stdout).toBe('')
    expect(ran.stderr).toMatch(/^timone: needs Node\.js 24\.5 or newer, this is 20\.20\.2: .*\n$/)
  })
})
