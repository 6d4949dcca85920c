import { homedir } from 'node:os'
import { isAbsolute, join } from 'node:path'
import { TimoneError } from '../errors.ts'

/** What a user's git configuration tells the agent. */
export interface AgentSettings {
  /** Bytes in a part of a multipart upload and in a ranged download. */
  readonly partSize: number
  /** Parts of one object that move at the same time. */
  readonly parallelParts: number
  /** Folder of the shared cache, absolute; undefined: none. */
  readonly cacheDir: string | undefined
  /** Bytes that the shared cache may hold; 0: no bound. */
  readonly cacheSize: number
  /** Bytes a second that all transfers of a process move together; 0: no limit. */
  readonly maxBandwidth: number
}

/** One setting of the agent. */
export interface AgentSetting {
  /** As documentation spells it; git compares without regard to case. */
  readonly key: string
  /** As it would be written in the git configuration. */
  readonly default: string
  readonly sentence: string
}

/** A setting that is a whole number. */
export interface AgentNumber extends AgentSetting {
  readonly least: number
  readonly most: number
}

const MIB = 2 ** 20

/** Every setting of the agent. */
export const AGENT_SETTINGS = {
  partSize: {
    key: 'timone.partSize',
    default: '8m',
    least: 5 * MIB, // what S3 takes for any part but the last
    most: 5 * 1024 * MIB, // what S3 takes in one request
    sentence: 'Size of the parts that large files are moved in, 5m to 5g; smaller files go in one request.',
  },
  parallelParts: {
    key: 'timone.parallelParts',
    default: '16',
    least: 1,
    most: 64,
    sentence: 'Parts of files that move at the same time, at most, 1 to 64.',
  },
  maxBandwidth: {
    key: 'timone.maxBandwidth',
    default: '0',
    least: 0,
    most: 1024 * 1024 * MIB,
    sentence:
      'Bytes a second that transfers in both directions move together, at most, as in 500k or 20m; 0: no limit.',
  },
  cacheDir: {
    key: 'timone.cacheDir',
    default: '',
    sentence:
      'Folder of a cache of objects that repositories, processes and machines share; ~/ is your home. Empty: none.',
  },
  cacheSize: {
    key: 'timone.cacheSize',
    default: '10g',
    least: 0,
    most: 2 ** 53 - 1,
    sentence:
      'Bytes that the cache may hold, as 500m, 10g or 2t; what was used least recently goes. 0: no bound.',
  },
} as const satisfies Readonly<Record<keyof AgentSettings, AgentSetting | AgentNumber>>

/**
 * Reads the agent's settings.
 * @param config last value of each key of the git configuration, keys in lower case
 * @throws {TimoneError} `config`, naming the key
 */
export function parseAgentSettings(config: ReadonlyMap<string, string>): AgentSettings {
  return Object.freeze({
    partSize: read(config, AGENT_SETTINGS.partSize),
    parallelParts: read(config, AGENT_SETTINGS.parallelParts),
    cacheDir: readFolder(config, AGENT_SETTINGS.cacheDir),
    cacheSize: read(config, AGENT_SETTINGS.cacheSize),
    maxBandwidth: read(config, AGENT_SETTINGS.maxBandwidth),
  })
}

function read(config: ReadonlyMap<string, string>, setting: AgentNumber): number {
  const text = config.get(setting.key.toLowerCase()) ?? setting.default
  const value = parseGitInteger(text)
  if (value === undefined || value < setting.least || value > setting.most) {
    if (setting.most === Number.MAX_SAFE_INTEGER)
      throw new TimoneError(
        'config',
        `git config ${setting.key} is '${text}': it must be bytes, as 500m, 10g or 2t`,
      )
    throw new TimoneError(
      'config',
      `git config ${setting.key} is '${text}': it must be ${printGitInteger(setting.least)} to ${printGitInteger(setting.most)}`,
    )
  }
  return value
}

/** An absolute path, `~/` standing for the user's home; undefined where none is set. */
function readFolder(config: ReadonlyMap<string, string>, { key }: AgentSetting): string | undefined {
  const text = config.get(key.toLowerCase()) ?? ''
  if (text === '') return undefined
  const path = text.startsWith('~/') ? join(homedir(), text.slice(2)) : text
  // Relative to what? git-lfs runs us in more than one folder.
  if (!isAbsolute(path))
    throw new TimoneError(
      'config',
      `git config ${key} is '${text}': it must be an absolute path, or begin with ~/`,
    )
  return path
}

/** An integer as git-config(1) has it: k, m and g, in either case, stand for 1024 and its powers; here t as well. */
export function parseGitInteger(text: string): number | undefined {
  const [, digits, unit = ''] = /^(\d{1,15})([kmgt]?)$/i.exec(text.trim()) ?? []
  if (digits === undefined) return undefined
  return Number(digits) * 1024 ** ['', 'k', 'm', 'g', 't'].indexOf(unit.toLowerCase())
}

function printGitInteger(value: number): string {
  for (const [unit, size] of [
    ['g', 2 ** 30],
    ['m', 2 ** 20],
  ] as const) {
    if (value > 0 && value % size === 0) return `${value / size}${unit}`
  }
  return String(value)
}
