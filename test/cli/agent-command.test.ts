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
