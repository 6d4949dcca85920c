import { readSettings } from '../config/load-settings.ts'
import { SERVER_SETTINGS, type Setting, type SettingKey } from '../config/settings-table.ts'
import { type Io, print, printJson, say } from './io.ts'

/**
 * `timone config`: prints every setting of the server, its value and where that came from, secrets masked.
 * @throws {TimoneError} `config`, as the start of a server would
 */
export async function showConfig(
  options: { readonly config?: string; readonly data?: string; readonly json: boolean },
  io: Io,
): Promise<number> {
  const { inForce, warnings } = await readSettings({
    flags: { data: options.data },
    configFile: options.config,
    env: io.env,
    cwd: io.cwd,
  })
  for (const warning of warnings) say(io, `warning: ${warning}`)
  if (options.json) {
    const settings = inForce.map(({ key, env, value, source }) => [
      key,
      { value: value ?? null, source: source.kind, name: source.name === '' ? null : source.name, env },
    ])
    printJson(io, Object.fromEntries(settings))
    return 0
  }
  const rows = inForce.map(({ key, value, source }) => [
    key,
    value ?? `(${describe(key)})`,
    source.name === '' ? source.kind : `${source.kind} ${source.name}`,
  ])
  const widths = [0, 1].map((column) => Math.max(...rows.map((row) => row[column]?.length ?? 0)))
  print(io, ...rows.map((row) => row.map((cell, column) => cell.padEnd(widths[column] ?? 0)).join('  ')))
  return 0
}

/** What stands in for a setting that has no value. */
function describe(key: SettingKey): string {
  const setting: Setting = SERVER_SETTINGS[key]
  return setting.defaultWords ?? 'not set'
}
