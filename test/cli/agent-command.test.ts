import { execFile } from 'node:child_process'
import { copyFile, mkdir, mkdtemp, realpath, rm, symlink, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { promisify } from 'node:util'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { agentCommand, shellQuote } from '../../src/cli/agent-command.ts'

const execute = promisify(execFile)

/** As git-lfs starts an agent (subprocess/subprocess.go): the path quoted unless it is plain, the arguments as they are. */
function commandLine({ path: program, args }: { path: string; args: string }): string {
  const quoted = /^[A-Za-z0-9_@/.-]+$/.test(program) ? program : `'${program.replaceAll("'", "'\\''")}'`
  return `${quoted} ${args}`
}

describe('agentCommand', () => {
  test('a standalone binary', () => {
    expect(agentCommand({ execPath: '/opt/my tools/timone', script: undefined, platform: 'linux' })).toEqual({
      path: '/opt/my tools/timone',
      args: 'agent',
    })
  })

  test('a script run by Node', () => {
    expect(
      agentCommand({ execPath: '/usr/bin/node', script: '/usr/lib/timone.js', platform: 'darwin' }),
    ).toEqual({
      path: '/usr/bin/node',
      args: '/usr/lib/timone.js agent',
    })
  })

  test('Windows paths, with forward slashes and quotes for the sh of Git for Windows', () => {
    const execPath = 'C:\\Program Files\\nodejs\\node.exe'
    const script = "C:\\Users\\Ann O'Neil\\AppData\\Roaming\\npm\\node_modules\\timone\\dist\\timone.js"
    expect(agentCommand({ execPath, script, platform: 'win32' })).toEqual({
      path: 'C:/Program Files/nodejs/node.exe',
      args: "'C:/Users/Ann O'\\''Neil/AppData/Roaming/npm/node_modules/timone/dist/timone.js' agent",
    })
    expect(agentCommand({ execPath: 'D:\\timone.exe', script: undefined, platform: 'win32' }).path).toBe(
      'D:/timone.exe',
    )
  })

  test('a backslash in a name is left alone where it is no separator', () => {
    const command = agentCommand({ execPath: '/a\\b/node', script: '/a\\b/timone.js', platform: 'linux' })
    expect(command).toEqual({ path: '/a\\b/node', args: "'/a\\b/timone.js' agent" })
  })
})

describe('paths of Windows', () => {
  const at = (execPath: string, script?: string) => agentCommand({ execPath, script, platform: 'win32' })

  test.each([
    ['C:\\Program Files\\timone\\timone.exe', 'C:/Program Files/timone/timone.exe'],
    ['\\\\server\\share$\\timone.exe', '//server/share$/timone.exe'],
    ['\\\\?\\C:\\very long\\timone.exe', 'C:/very long/timone.exe'],
    ['\\\\?\\UNC\\server\\share\\timone.exe', '//server/share/timone.exe'],
    ['C:\\Users\\Zoë (dev) & co\\timone.exe', 'C:/Users/Zoë (dev) & co/timone.exe'],
  ])('%s', (execPath, spelled) => {
    expect(at(execPath)).toEqual({ path: spelled, args: 'agent' })
    expect(path.win32.isAbsolute(spelled)).toBe(true)
    expect(at('C:\\node.exe', execPath).args).toBe(`${shellQuote(spelled)} agent`)
  })

  test('sh hands on the very path that Windows knows, whatever is in its names', async () => {
    const name = fc
      .string({ unit: 'grapheme', minLength: 1, maxLength: 12 })
      .filter((text) => !/[\\/:*?"<>|\p{Cc}]|[. ]$/u.test(text))
    await fc.assert(
      fc.asyncProperty(name, name, async (folder, file) => {
        const execPath = path.win32.join('C:\\', folder, 'node.exe')
        const script = path.win32.join('D:\\', folder, file)
        const words = commandLine(at(execPath, script))
        const { stdout } = await execute('sh', ['-c', `printf '%s\\n' ${words}`])
        const [first = '', second = '', third] = stdout.split('\n')
        expect([path.win32.normalize(first), path.win32.normalize(second)]).toEqual([execPath, script])
        expect(third).toBe('agent')
      }),
      { numRuns: 40 },
    )
  })
})

test('what sh makes of a quoted text is the text', async () => {
  const text = fc.string({ unit: 'grapheme', maxLength: 20 }).filter((value) => !value.includes('\0'))
  await fc.assert(
    fc.asyncProperty(text, async (value) => {
      const { stdout } = await execute('sh', ['-c', `printf %s ${shellQuote(value)}`])
      expect(stdout).toBe(value)
    }),
    { numRuns: 40 },
  )
})

test.each(['plain', 'with space', "quote's", 'dollar $HOME `id` "x"', 'ünïcödé 文件', '; rm -rf *', '-dash'])(
  'sh starts the right program from a folder named %j, with another node first on PATH',
  async (name) => {
    const root = await realpath(await mkdtemp(path.join(tmpdir(), 'timone command-')))
    try {
      const folder = path.join(root, name)
      await mkdir(folder)
      const script = path.join(folder, 'timone.js')
      await writeFile(script, 'console.log(JSON.stringify([process.execPath, ...process.argv.slice(1)]))')
      const execPath = path.join(folder, 'node')
      await symlink(process.execPath, execPath)
      await copyFile('/bin/false', path.join(root, 'node'))
      const line = commandLine(agentCommand({ execPath, script, platform: process.platform }))
      const { stdout } = await execute('/bin/sh', ['-c', line], { cwd: '/', env: { PATH: root } })
      expect(JSON.parse(stdout)).toEqual([process.execPath, script, 'agent'])
    } finally {
      await rm(root, { recursive: true })
    }
  },
)
