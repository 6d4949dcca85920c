import path from 'node:path'
import { TimoneError } from '../errors.ts'
import { didYouMean } from './nearest.ts'
import { PROVIDER_PATHS, type ProviderSettings, readProviders } from './provider-settings.ts'
import { readSetting, type SettingValues } from './setting-types.ts'
import { SERVER_SETTINGS, type Setting, type SettingKey } from './settings-table.ts'
import { readTomlSettings } from './toml-file.ts'

/** Where a value came from. */
export interface Source {
  readonly kind: 'flag' | 'environment' | 'file' | 'default' | 'generated'
  /** Option, variable or file; for a file with `env:NAME` both. Empty for defaults. */
  readonly name: string
}

/** What the settings are read from. */
export interface SettingSources {
  /** Options of the command line by their long name; undefined: not given. */
  readonly flags: Readonly<Record<string, string | boolean | undefined>>
  readonly env: Readonly<Record<string, string | undefined>>
  /** Absolute: relative paths start here, those in a file in the folder of the file. */
  readonly cwd: string
  readonly file?: { readonly path: string; readonly text: string } | undefined
  /** What files of the services that timone takes over say; everything else comes first. */
  readonly inherited?: ReadonlyMap<SettingKey, { readonly text: string; readonly path: string }> | undefined
}

/** Every setting that has a value, typed by its key, and where each value came from. */
export interface ResolvedSettings {
  readonly values: { readonly [K in SettingKey]?: SettingValues[(typeof SERVER_SETTINGS)[K]['type']] }
  readonly sources: ReadonlyMap<SettingKey, Source>
  readonly providers: readonly ProviderSettings[]
}

/** Variables of the client side, which may be set where a server runs too. */
const CLIENT_VARIABLES: ReadonlySet<string> = new Set([
  'TIMONE_LOG',
  'TIMONE_ID_TOKEN',
  'TIMONE_ID_TOKEN_FILE',
  'TIMONE_ID_TOKEN_AUDIENCE',
])

/** Every setting and its key. */
export const SETTING_ENTRIES = Object.entries(SERVER_SETTINGS) as readonly (readonly [SettingKey, Setting])[]

/**
 * Finds each setting's value: flag, else environment, else file, else default. A variable that is set but empty counts
 * as not set, but for secrets, where it is most likely a mistake.
 * @throws {TimoneError} `config`: an unknown name, or a value that cannot be read
 */
export function resolveSettings(from: SettingSources): ResolvedSettings {
  const inFile =
    from.file === undefined
      ? new Map<string, string>()
      : readTomlSettings(from.file.text, from.file.path, [...Object.keys(SERVER_SETTINGS), ...PROVIDER_PATHS])
  refuseUnknownVariables(from.env, inFile)

  const values: Record<string, unknown> = {}
  const sources = new Map<SettingKey, Source>()
  for (const [key, setting] of SETTING_ENTRIES) {
    const found = find(key, setting, from, inFile)
    if (found === undefined) continue
    const base = found.source.kind === 'file' && from.file ? path.dirname(from.file.path) : from.cwd
    if (setting.type === 'secret' && found.text.trim() === '') {
      throw new TimoneError('config', `${describe(key, found.source)} is empty: give it a value or remove it`)
    }
    try {
      values[key] = readSetting(setting.type, found.text, { base, choices: setting.choices ?? {} })
    } catch (error) {
      throw new TimoneError('config', `${describe(key, found.source)}: ${(error as Error).message}`)
    }
    sources.set(key, found.source)
  }
  return { values: values as ResolvedSettings['values'], sources, providers: readProviders(inFile, from.env) }
}

/** A setting for a message, by the name that the reader knows it by. */
function describe(key: SettingKey, source: Source): string {
  return source.kind === 'file' ? `${key} in ${source.name}` : source.kind === 'default' ? key : source.name
}

function find(
  key: SettingKey,
  setting: Setting,
  from: SettingSources,
  inFile: ReadonlyMap<string, string>,
): { text: string; source: Source } | undefined {
  const flag = setting.flag === undefined ? undefined : from.flags[setting.flag]
  if (flag !== undefined) return { text: String(flag), source: { kind: 'flag', name: `--${setting.flag}` } }

  for (const name of [setting.env, ...(setting.aliases ?? [])]) {
    const variable = from.env[name]
    if (variable !== undefined && (variable !== '' || setting.type === 'secret')) {
      return { text: variable, source: { kind: 'environment', name } }
    }
  }

  const text = inFile.get(key)
  const file = from.file?.path ?? ''
  const referred = referredVariables(text)
  if (referred.length > 0) {
    const values = referred.map((name) => {
      const value = from.env[name]
      if (value === undefined || value === '') {
        throw new TimoneError(
          'config',
          `${key} in ${file} names the environment variable ${name}, which is not set`,
        )
      }
      return value
    })
    const names = referred.map((name) => `env:${name}`).join(',')
    return { text: values.join(','), source: { kind: 'file', name: `${file} (${names})` } }
  }
  if (text !== undefined) return { text, source: { kind: 'file', name: file } }

  const inherited = from.inherited?.get(key)
  if (inherited !== undefined) {
    return { text: inherited.text, source: { kind: 'file', name: inherited.path } }
  }

  return setting.default === undefined
    ? undefined
    : { text: setting.default, source: { kind: 'default', name: '' } }
}

/** NAME of a value `env:NAME`; several of a list of such values. */
function referredVariables(text: string | undefined): string[] {
  const items = text?.split(',') ?? []
  return items.every((item) => item.startsWith('env:')) ? items.map((item) => item.slice('env:'.length)) : []
}

function refuseUnknownVariables(env: SettingSources['env'], inFile: ReadonlyMap<string, string>): void {
  const known = SETTING_ENTRIES.map(([, setting]) => setting.env)
  const others = new Set([...CLIENT_VARIABLES, ...[...inFile.values()].flatMap(referredVariables)])
  for (const name of Object.keys(env)) {
    if (!name.startsWith('TIMONE_') || name.startsWith('TIMONE_TEST_')) continue
    if (known.includes(name) || others.has(name)) continue
    throw new TimoneError('config', `unknown setting ${name} in the environment${didYouMean(name, known)}`)
  }
}
