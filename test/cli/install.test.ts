import { mkdir, readFile, writeFile } from 'node:fs/promises'
import path from 'node:path'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { makeSandbox, type Sandbox } from './run-cli.ts'

let box: Sandbox

beforeEach(async () => {
  box = await makeSandbox()
})

afterEach(() => box.remove())

const EXPECTED = {
  'lfs.customtransfer.timone.path': '/opt/node 24/bin/node',
  'lfs.customtransfer.timone.args': '/opt/timone/dist/timone.js agent',
  'lfs.customtransfer.timone.concurrent': 'true',
}

async function written(file: string): Promise<Record<string, string>> {
  const text = await box.git(['config', '--file', file, '--list', '--null'])
  return Object.fromEntries(
    text
      .split('\0')
      .filter(Boolean)
      .map((entry) => entry.split('\n') as [string, string]),
  )
}

describe('install', () => {
  test('writes what git-lfs needs into the global configuration, and says so', async () => {
    const { code, stdout, stderr } = await box.timone(['install'])
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' })
    expect(stdout).toBe(
      'timone: installed (global git configuration)\n' +
        '  + lfs.customtransfer.timone.path = /opt/node 24/bin/node\n' +
        '  + lfs.customtransfer.timone.args = /opt/timone/dist/timone.js agent\n' +
        '  + lfs.customtransfer.timone.concurrent = true\n',
    )
    const file = box.env.GIT_CONFIG_GLOBAL ?? ''
    expect(await written(file)).toEqual(EXPECTED)
    // git-lfs 3.3 reads the section in lower case only; git keeps what was written.
    expect(await readFile(file, 'utf8')).toContain('[lfs "customtransfer.timone"]')
  })

  test('a second time changes nothing', async () => {
    const file = box.env.GIT_CONFIG_GLOBAL ?? ''
    await box.timone(['install', '--global'])
    const before = await readFile(file, 'utf8')
    expect(await box.timone(['install'])).toEqual({
      code: 0,
      stdout: 'timone: already installed (global git configuration)\n',
      stderr: '',
    })
    expect(await readFile(file, 'utf8')).toBe(before)
  })

  test('mends an old or doubled entry and leaves all else alone', async () => {
    const file = box.env.GIT_CONFIG_GLOBAL ?? ''
    await writeFile(
      file,
      '# mine\n[user]\n\tname = Bob\n[lfs "customtransfer.timone"]\n\tpath = /old\n\tpath = /older\n[lfs "customtransfer.other"]\n\tpath = /other\n',
    )
    const { code, stdout } = await box.timone(['install', '--json'])
    expect(code).toBe(0)
    expect(JSON.parse(stdout)).toMatchObject({
      status: 'installed',
      scope: 'global',
      changes: [
        { key: 'lfs.customtransfer.timone.path', value: '/opt/node 24/bin/node', was: '/older' },
        { key: 'lfs.customtransfer.timone.args' },
        { key: 'lfs.customtransfer.timone.concurrent' },
      ],
    })
    expect(await written(file)).toEqual({
      'user.name': 'Bob',
      'lfs.customtransfer.other.path': '/other',
      ...EXPECTED,
    })
    expect(await readFile(file, 'utf8')).toContain('# mine')
  })

  test('values with quotes, backslashes and other letters come back from git as they were', async () => {
    const program = { execPath: '/opt/a "b" \\c #d; é文/node', script: "/x/it's here.js", platform: 'linux' }
    await box.timone(['install'], { program })
    expect(await written(box.env.GIT_CONFIG_GLOBAL ?? '')).toMatchObject({
      'lfs.customtransfer.timone.path': program.execPath,
      'lfs.customtransfer.timone.args': "'/x/it'\\''s here.js' agent",
    })
    expect((await box.timone(['install'], { program })).stdout).toContain('already installed')
  })

  test('--local writes into the repository, --system into the file of the machine', async () => {
    await box.git(['init', '--quiet', '.'])
    await mkdir(path.join(box.cwd, 'sub'))
    expect((await box.timone(['install', '--local'], { cwd: path.join(box.cwd, 'sub') })).code).toBe(0)
    expect(await written(path.join(box.cwd, '.git', 'config'))).toMatchObject(EXPECTED)
    expect((await box.timone(['install', '--system'])).code).toBe(0)
    expect(await written(box.env.GIT_CONFIG_SYSTEM ?? '')).toEqual(EXPECTED)
    await expect(readFile(box.env.GIT_CONFIG_GLOBAL ?? '')).rejects.toThrow('ENOENT')
  })

  test('without a script the program itself is the agent', async () => {
    await box.timone(['install'], {
      program: { execPath: '/usr/bin/timone', script: undefined, platform: 'linux' },
    })
    expect(await written(box.env.GIT_CONFIG_GLOBAL ?? '')).toMatchObject({
      'lfs.customtransfer.timone.path': '/usr/bin/timone',
      'lfs.customtransfer.timone.args': 'agent',
    })
  })

  test('the running program finds itself when it is not told', async () => {
    // Here the script is that of the test runner.
    const { code } = await box.timone(['install'], { program: undefined as never })
    expect(code).toBe(0)
    const values = await written(box.env.GIT_CONFIG_GLOBAL ?? '')
    expect(values['lfs.customtransfer.timone.path']).toBe(process.execPath)
    expect(values['lfs.customtransfer.timone.args']).toMatch(/^\S+ agent$/)
    expect(path.isAbsolute(values['lfs.customtransfer.timone.args'] ?? '')).toBe(true)
  })

  test('warns about the cache of npx', async () => {
    const script = '/home/bob/.npm/_npx/0123/node_modules/timone/dist/timone.js'
    const { code, stderr } = await box.timone(['install'], {
      program: { execPath: '/n', script, platform: 'linux' },
    })
    expect(code).toBe(0)
    expect(stderr).toContain('cache of npx')
  })
})

describe('uninstall', () => {
  test('takes away what install wrote, the section with it, and nothing else', async () => {
    const file = box.env.GIT_CONFIG_GLOBAL ?? ''
    await writeFile(file, '[user]\n\tname = Bob\n')
    await box.timone(['install'])
    const { code, stdout } = await box.timone(['uninstall'])
    expect(code).toBe(0)
    expect(stdout).toBe(
      'timone: uninstalled (global git configuration)\n' +
        '  - lfs.customtransfer.timone.path\n' +
        '  - lfs.customtransfer.timone.args\n' +
        '  - lfs.customtransfer.timone.concurrent\n',
    )
    expect(await readFile(file, 'utf8')).toBe('[user]\n\tname = Bob\n')
  })

  test('keeps what the user added', async () => {
    await box.timone(['install'])
    await box.git(['config', '--global', 'lfs.customtransfer.timone.direction', 'download'])
    await box.timone(['uninstall'])
    expect(await written(box.env.GIT_CONFIG_GLOBAL ?? '')).toEqual({
      'lfs.customtransfer.timone.direction': 'download',
    })
  })

  test('a second time, or without a configuration at all, does nothing', async () => {
    for (const args of [['uninstall'], ['uninstall', '--system']]) {
      const { code, stdout } = await box.timone(args)
      expect(code).toBe(0)
      expect(stdout).toMatch(/^timone: not installed \(\w+ git configuration\)\n$/)
    }
    expect(JSON.parse((await box.timone(['uninstall', '--json'])).stdout)).toEqual({
      status: 'not installed',
      scope: 'global',
      changes: [],
    })
  })
})

describe('failures', () => {
  test.each(['install', 'uninstall'])('%s --local outside a repository', async (name) => {
    const { code, stdout, stderr } = await box.timone([name, '--local'])
    expect({ code, stdout }).toEqual({ code: 2, stdout: '' })
    expect(stderr).toBe(
      `timone: ${box.cwd} is not in a git repository: go into one, or make one with git init\n`,
    )
  })

  test('git is not there', async () => {
    const { code, stderr } = await box.timone(['install'], { env: { ...box.env, PATH: box.cwd } })
    expect(code).toBe(2)
    expect(stderr).toBe('timone: git was not found: install it, or put its folder on PATH\n')
  })

  test('a configuration that cannot be read or written', async () => {
    const env = { ...box.env, GIT_CONFIG_SYSTEM: path.join(box.cwd, 'no', 'such', 'folder', 'gitconfig') }
    const missing = await box.timone(['install', '--system'], { env })
    expect(missing.code).toBe(2)
    expect(missing.stderr).toContain('cannot write the system git configuration')
    const file = box.env.GIT_CONFIG_GLOBAL ?? ''
    await writeFile(file, '[broken\n')
    const broken = await box.timone(['install'])
    expect(broken.code).toBe(2)
    expect(broken.stderr).toMatch(
      /^timone: cannot read the global git configuration: bad config line 1 .*\n$/,
    )
  })

  test('two places at once', async () => {
    const { code, stderr } = await box.timone(['install', '--local', '--global'])
    expect(code).toBe(2)
    expect(stderr).toContain("option '--global' cannot be used with option '--local'")
  })

  test('interrupted', async () => {
    expect((await box.timone(['install'], { signal: AbortSignal.abort() })).code).toBe(130)
  })
})
