import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { agentSettingsMarkdown, settingsMarkdown } from '../src/config/settings-markdown.ts'
import { makeSandbox, type Sandbox } from './cli/run-cli.ts'

const readme = readFileSync('README.md', 'utf8')

let sandbox: Sandbox
beforeAll(async () => {
  sandbox = await makeSandbox()
})
afterAll(() => sandbox.remove())

describe('README', () => {
  test('has the settings that the code has (scripts/readme.ts writes them)', () => {
    expect(readme).toContain(settingsMarkdown())
    expect(readme).toContain(agentSettingsMarkdown())
  })

  test('names only scripts that exist', () => {
    const names = new Set(readme.match(/\bscripts\/[a-z-]+(?:\.ts)?\b/g))
    expect(names.size).toBeGreaterThan(4)
    for (const name of names) expect(existsSync(name), name).toBe(true)
  })

  test('names only commands and options that exist', async () => {
    const used = [
      ...readme.matchAll(
        /\btimone (serve|install|init|token create|token inspect|config|uninstall|completion)\b([^\n`|]*)/g,
      ),
    ]
    expect(used.length).toBeGreaterThan(5)
    for (const [, command, rest] of used) {
      const { stdout } = await sandbox.timone([...(command as string).split(' '), '--help'])
      for (const option of (rest as string).match(/--[a-z-]+/g) ?? [])
        expect(stdout, `${command} ${option}`).toContain(option)
    }
  })

  test('its TOML file is one that the server takes', async () => {
    const toml = /```toml\n([\s\S]*?)```/.exec(readme)?.[1] as string
    writeFileSync(`${sandbox.cwd}/timone.toml`, toml)
    const env = { ...sandbox.env, TIMONE_SECRET_FROM_VAULT: 'a secret that is long enough for HS256' }
    const { code, stdout } = await sandbox.timone(['config', '--config', 'timone.toml'], { env })
    expect(code).toBe(0)
    expect(stdout).toContain('https://lfs.example.com')
  })
})
