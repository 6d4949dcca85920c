import { execFile } from 'node:child_process'
import { promisify } from 'node:util'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { makeSandbox, type Sandbox } from './run-cli.ts'

let box: Sandbox

beforeEach(async () => {
  box = await makeSandbox()
})

afterEach(() => box.remove())

describe('bash', () => {
  async function complete(line: string): Promise<string[]> {
    const { stdout: script } = await box.timone(['completion', 'bash'])
    const words = line.split(' ').map((word) => `'${word}'`)
    const program = `${script}\nCOMP_WORDS=(${words.join(' ')}); COMP_CWORD=${words.length - 1}; _timone; printf '%s\\n' "\${COMPREPLY[@]}"`
    const { stdout } = await promisify(execFile)('bash', ['--norc', '-uc', program])
    return stdout.split('\n').filter(Boolean)
  }

  test('commands', async () => {
    expect(await complete('timone ')).toEqual(
      expect.arrayContaining(['serve', 'install', 'token', '--version']),
    )
    expect(await complete('timone in')).toEqual(['install', 'init'])
    expect(await complete('timone token ')).toEqual([
      'create',
      'inspect',
      'list',
      'revoke',
      'rotate-keys',
      'help',
      '--help',
    ])
    expect(await complete('timone completion ')).toEqual(['bash', 'zsh', 'fish', '--help'])
  })

  test('options, also after other words', async () => {
    expect(await complete('timone serve --')).toEqual([
      '--listen',
      '--data',
      '--config',
      '--insecure',
      '--help',
    ])
    expect(await complete('timone token create --user serve --s')).toEqual(['--scope'])
    expect(await complete('timone init https://x/y/z --')).toEqual(['--no-check', '--help'])
  })

  test('nothing, so that files are offered', async () => {
    expect(await complete('timone serve --config x')).toEqual([])
    expect(await complete('timone nonsense x')).toEqual([])
  })
})

test('zsh and fish are told the same commands and options', async () => {
  for (const shell of ['zsh', 'fish']) {
    const { code, stdout } = await box.timone(['completion', shell])
    expect(code).toBe(0)
    for (const word of ['serve', 'uninstall', 'inspect', 'fish']) expect(stdout).toContain(word)
    expect(stdout).toContain(
      shell === 'fish' ? `-n "__timone_at ' token create'" -l expires` : "'--expires:how long",
    )
    // A quote within a description must not end it.
    expect(stdout).toContain(shell === 'fish' ? "server\\'s" : "server'\\''s")
  }
})

test('another shell is a usage error', async () => {
  const { code, stderr } = await box.timone(['completion', 'tcsh'])
  expect(code).toBe(2)
  expect(stderr).toContain('bash, zsh, fish')
})
