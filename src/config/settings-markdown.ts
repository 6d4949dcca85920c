import { AGENT_SETTINGS } from './agent-settings.ts'
import { SETTING_ENTRIES } from './resolve-settings.ts'

/** A row of the settings table. */
export interface SettingRow {
  readonly env: string
  readonly toml: string
  readonly default: string
  readonly sentence: string
}

/** Every setting of the server, in the order of the TOML file. */
export function settingsTable(): SettingRow[] {
  return SETTING_ENTRIES.map(([key, setting]) => ({
    env: setting.env,
    toml: key,
    default: setting.default ?? setting.defaultWords ?? '',
    sentence: setting.sentence,
  }))
}

/** The table of the server's settings as the README shows it. Ends with a line break. */
export function settingsMarkdown(): string {
  return markdownTable(
    ['environment', 'TOML', 'default', ''],
    SETTING_ENTRIES.map(([key, { env, default: text, defaultWords, sentence }]) => [
      code(env),
      code(key),
      text ? code(text) : (defaultWords ?? ''),
      sentence,
    ]),
  )
}

/** The table of the agent's settings as the README shows it. Ends with a line break. */
export function agentSettingsMarkdown(): string {
  return markdownTable(
    ['git config', 'default', ''],
    Object.values(AGENT_SETTINGS).map(({ key, default: text, sentence }) => [
      code(key),
      code(text),
      sentence,
    ]),
  )
}

function markdownTable(head: readonly string[], rows: readonly (readonly string[])[]): string {
  const line = (cells: readonly string[]): string =>
    `| ${cells.map((cell) => cell.replaceAll('|', '\\|')).join(' | ')} |\n`
  return line(head) + line(head.map(() => '---')) + rows.map(line).join('')
}

function code(text: string): string {
  return text === '' ? '' : `\`${text}\``
}
