import { readFile } from 'node:fs/promises'
import path from 'node:path'
import { systemCode, TimoneError } from '../errors.ts'
import { type BuiltSettings, buildSettings } from './build-settings.ts'
import {
  type GeneratedSecret,
  readOrMakeSecret,
  readSecret,
  SECRET_KEYS,
  secretPath,
  TOKEN_SECRET,
} from './generated-secret.ts'
import { resolveSettings, SETTING_ENTRIES, type Source } from './resolve-settings.ts'
import type { ServerSettings } from './server-settings.ts'
import type { SettingType } from './setting-types.ts'
import type { SettingKey } from './settings-table.ts'

/** Options of the command line that are settings; undefined: not given. */
export interface SettingFlags {
  readonly listen?: string | undefined
  readonly data?: string | undefined
  readonly insecure?: boolean | undefined
}

/** What {@link loadSettings} reads from. */
export interface LoadOptions {
  readonly flags?: SettingFlags
  /** TOML file, relative to `cwd`; undefined: none. */
  readonly configFile?: string | undefined
  readonly env: Readonly<Record<string, string | undefined>>
  readonly cwd: string
}

/** One setting for people: masked where it is secret. */
export interface SettingInForce {
  readonly key: SettingKey
  readonly env: string
  /** As it would be written in the environment; undefined: not set. */
  readonly value: string | undefined
  readonly source: Source
}

/** The settings, save that what is generated at the first start may be missing. */
export interface KnownSettings {
  readonly settings: Omit<ServerSettings, 'tokenSecret' | 'secretKeys'> & {
    readonly tokenSecret: string | undefined
    readonly secretKeys: readonly string[] | undefined
  }
  readonly inForce: readonly SettingInForce[]
  /** For the operator, one line each, without secrets. */
  readonly warnings: readonly string[]
}

/** The settings that a server starts with. */
export interface LoadedSettings extends KnownSettings {
  readonly settings: ServerSettings
}

/** What stands for a secret in all output. */
const MASK = '********'

/** HMAC with SHA-256 is as strong as its key up to 32 bytes (RFC 7518, section 3.2). */
const STRONG_SECRET = 32

/**
 * Reads all settings for a server's start. A token secret and an encryption key that are not
 * set are generated and kept in the data folder.
 * @throws {TimoneError} `config` for everything that must be put right before a start
 */
export async function loadSettings(options: LoadOptions): Promise<LoadedSettings> {
  const known = await readSettings(options)
  const { data } = known.settings
  const tokenSecret = known.settings.tokenSecret ?? (await readOrMakeSecret(data, TOKEN_SECRET))
  const secretKeys = known.settings.secretKeys ?? splitKeys(await readOrMakeSecret(data, SECRET_KEYS))
  return { ...known, settings: Object.freeze({ ...known.settings, tokenSecret, secretKeys }) }
}

/**
 * Reads all settings and changes nothing: for commands that look.
 * @throws {TimoneError} `config`
 */
export async function readSettings(options: LoadOptions): Promise<KnownSettings> {
  const file =
    options.configFile === undefined ? undefined : await readConfigFile(options.configFile, options.cwd)
  const { env, cwd } = options
  const inherited = await readInherited(env, cwd)
  const resolved = resolveSettings({ flags: { ...options.flags }, env, cwd, file, inherited })
  const built = buildSettings(resolved)

  const given = resolved.values['auth.token_secret']
  const givenKeys = resolved.values['secrets.keys']
  const kept = given === undefined ? await readSecret(built.settings.data, TOKEN_SECRET) : undefined
  const keptKeys = givenKeys === undefined ? await readSecret(built.settings.data, SECRET_KEYS) : undefined
  const generated = new Map<SettingKey, GeneratedSecret>()
  if (kept !== undefined) generated.set('auth.token_secret', TOKEN_SECRET)
  if (keptKeys !== undefined) generated.set('secrets.keys', SECRET_KEYS)
  const warnings = [...built.warnings]
  if (given !== undefined && Buffer.byteLength(given) < STRONG_SECRET) {
    warnings.push('the token secret is under 32 bytes, so it can be guessed from any token: use a longer one')
  }
  const inForce = SETTING_ENTRIES.map(([key, setting]): SettingInForce => {
    const source = resolved.sources.get(key) ?? { kind: 'default', name: '' }
    const value = resolved.values[key] ?? derived(key, built.settings)
    const made = generated.get(key)
    if (made !== undefined) {
      const file = { kind: 'generated', name: secretPath(built.settings.data, made) } as const
      return { key, env: setting.env, value: MASK, source: file }
    }
    const shown = value === undefined ? undefined : show(setting.type, value)
    return { key, env: setting.env, value: shown, source }
  })
  const keys = givenKeys ?? keptKeys
  const secrets = { tokenSecret: given ?? kept, secretKeys: keys === undefined ? undefined : splitKeys(keys) }
  return { settings: Object.freeze({ ...built.settings, ...secrets }), inForce, warnings }
}

function splitKeys(text: string): readonly string[] {
  return Object.freeze(text.split(',').map((key) => key.trim()))
}

function show(type: SettingType, value: unknown): string {
  if (type === 'secret') return MASK
  return type === 'database' ? maskPassword(String(value)) : printValue(value)
}

/** A database's URL without what opens it: the password may stand in front of the host or behind a question mark. */
function maskPassword(url: string): string {
  const parsed = url.startsWith('sqlite:') ? null : URL.parse(url)
  if (parsed === null) return url
  if (parsed.password !== '') parsed.password = MASK
  for (const name of parsed.searchParams.keys()) {
    if (/password/i.test(name)) parsed.searchParams.set(name, MASK)
  }
  return parsed.href
}

type Derived = string | boolean | undefined

/** What a setting without a value of its own came to be. */
function derived(key: SettingKey, settings: BuiltSettings['settings']): Derived {
  const { storage } = settings
  if (key === 'server.url') return settings.url
  if (key === 'database.url') return settings.databaseUrl
  if (storage.driver === 'file') return key === 'storage.file.root' ? storage.root : undefined
  if (key === 'storage.s3.sts_url') return storage.roleArn === undefined ? undefined : storage.stsUrl
  if (key === 'storage.s3.path_style') return storage.pathStyle
  if (key === 'storage.s3.checksums') return storage.checksums
  return undefined
}

function printValue(value: unknown): string {
  if (Array.isArray(value))
    return value.every((item) => typeof item === 'string') ? value.join(',') : JSON.stringify(value)
  if (typeof value === 'object' && value !== null && 'host' in value && 'port' in value) {
    const host = String(value.host)
    return `${host.includes(':') ? `[${host}]` : host}:${value.port}`
  }
  return String(value)
}

/** The settings of glotpod.ident, where its variable names a file of them. */
async function readInherited(
  env: LoadOptions['env'],
  cwd: string,
): Promise<ReadonlyMap<SettingKey, { text: string; path: string }>> {
  const name = env.GLOTPOD_IDENT_SETTINGS
  if (name === undefined || name === '') return new Map()
  const { path: file, text } = await readConfigFile(name, cwd)
  const { readIdentSettings } = await import('./ident-settings.ts')
  return new Map([...readIdentSettings(text, file)].map(([key, value]) => [key, { text: value, path: file }]))
}

async function readConfigFile(name: string, cwd: string): Promise<{ path: string; text: string }> {
  const file = path.resolve(cwd, name)
  try {
    return { path: file, text: await readFile(file, 'utf8') }
  } catch (error) {
    throw new TimoneError('config', `cannot read the settings file ${file} (${systemCode(error)})`, {
      cause: error,
    })
  }
}
