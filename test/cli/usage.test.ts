import { mkdir, rm, writeFile } from 'node:fs/promises'
import path from 'node:path'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { sample } from '../server/harness.ts'
import { makeSandbox, type Sandbox } from './run-cli.ts'

let box: Sandbox
beforeEach(async () => {
  box = await makeSandbox()
})
afterEach(() => box.remove())

async function put(repository: string, size: number): Promise<string> {
  const { oid, bytes } = sample(size)
  const folder = path.join(box.cwd, 'data', 'objects', repository, oid.slice(0, 2), oid.slice(2, 4))
  await mkdir(folder, { recursive: true })
  const file = path.join(folder, oid)
  await writeFile(file, bytes)
  return file
}

const usage = (...args: string[]) => box.timone(['usage', '--data', 'data', ...args])

describe('usage', () => {
  test('nothing is counted at first; a recount looks into the store', async () => {
    await put('org/a', 100)
    const extra = await put('org/a', 50)
    await put('org/b', 2048)
    await writeFile(path.join(box.cwd, 'data', 'objects', 'org', 'notes.txt'), 'not ours')
    const before = await usage()
    expect(before).toMatchObject({ code: 0, stdout: '' })
    expect(before.stderr).toContain('timone usage --recount')
    const counted = await usage('--recount')
    expect(counted.stdout).toBe('org/a  150 B in 2 objects\norg/b  2.0 KiB in 1 object\n')

    await rm(extra)
    await rm(path.join(box.cwd, 'data', 'objects', 'org', 'b'), { recursive: true })
    expect((await usage('org/a', '--recount')).stdout).toBe('org/a  100 B in 1 object\n')
    expect((await usage('org/b')).stdout).toBe('org/b  2.0 KiB in 1 object\n')
    expect(JSON.parse((await usage('--recount', '--json')).stdout)).toEqual({
      quota: 0,
      repositories: [{ repository: 'org/a', bytes: 100, objects: 1 }],
    })
    expect((await usage('org/c', '--recount')).stdout).toBe('org/c  0 B in 0 objects\n')
  })

  test('with a quota it says how full', async () => {
    await put('org/a', 1536)
    const env = { ...box.env, TIMONE_QUOTA: '2k' }
    const { stdout } = await box.timone(['usage', '--recount', '--data', 'data'], { env })
    expect(stdout).toBe('org/a  1.5 KiB in 1 object  75 % of 2.0 KiB\n')
  })

  test.each(['org', 'org/a/b', '../x', 'api/a'])('%s is no repository', async (name) => {
    const { code, stderr } = await usage(name)
    expect(code).toBe(2)
    expect(stderr).toContain('say org/repo')
  })

  test.each([
    [{ TIMONE_QUOTA: 'much' }, 'bytes, such as'],
    [{ TIMONE_REQUESTS_PER_MINUTE: '-1' }, '0 or more'],
  ])('refuses %j', async (env, message) => {
    const { code, stderr } = await box.timone(['config'], { env: { ...box.env, ...env } })
    expect(code).toBe(2)
    expect(stderr).toContain(message)
  })
})
