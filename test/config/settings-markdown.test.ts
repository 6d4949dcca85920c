import { describe, expect, test } from 'vitest'
import { resolveSettings, SETTING_ENTRIES } from '../../src/config/resolve-settings.ts'
import { agentSettingsMarkdown, settingsMarkdown, settingsTable } from '../../src/config/settings-markdown.ts'

describe('settingsTable', () => {
  test('names each setting once and says something about it', () => {
    const rows = settingsTable()
    expect(new Set(rows.map((row) => row.env)).size).toBe(rows.length)
    expect(new Set(rows.map((row) => row.toml)).size).toBe(rows.length)
    for (const row of rows) {
      expect(row.env).toMatch(/^TIMONE_[A-Z0-9_]+$/)
      expect(row.sentence).toMatch(/^[A-Z].*\.$/s)
    }
  })

  test('keeps the names of the earlier timone', () => {
    const names = settingsTable().map((row) => row.env)
    for (const name of ['URL', 'REGION', 'BUCKET', 'KEY', 'SECRET'])
      expect(names).toContain(`TIMONE_STORAGE_S3_${name}`)
    for (const name of ['LOG_LEVEL', 'ENDPOINT_URL', 'TOKEN_SECRET', 'STORAGE', 'OBJECT_EXPIRESIN']) {
      expect(names).toContain(`TIMONE_${name}`)
    }
  })

  test('every default can be read', () => {
    const { values } = resolveSettings({ flags: {}, env: {}, cwd: '/' })
    const read = Object.keys(values)
    for (const [key, setting] of SETTING_ENTRIES)
      expect(read.includes(key)).toBe(setting.default !== undefined)
  })
})

test('the tables are Markdown, one row each', () => {
  const lines = settingsMarkdown().trimEnd().split('\n')
  expect(lines).toHaveLength(settingsTable().length + 2)
  for (const line of lines) expect(line.match(/(?<!\\)\|/g)).toHaveLength(5)
  expect(settingsMarkdown()).toContain('| `TIMONE_LISTEN` | `server.listen` | `127.0.0.1:8000` | Address')
  expect(agentSettingsMarkdown()).toContain('| `timone.partSize` | `8m` | ')
})
