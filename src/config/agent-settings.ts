import { TimoneError } from '../errors.ts'

/** What a user's git configuration tells the agent. */
export interface AgentSettings {
  /** Bytes in a part of a multipart upload and in a ranged download. */
  readonly partSize: number
  /** Parts of one object that move at the same time. */
  readonly parallelParts: number
}

/** One setting of the agent. */
export interface AgentSetting {
  /** As documentation spells it; git compares without regard to case. */
  readonly key: string
  /** As it would be written in the git configuration. */
  readonly default: string
  readonly least: number
  readonly most: number
  readonly sentence: string
}

const MIB = 2 ** 20

/** Every setting of the agent. */
export const AGENT_SETTINGS: Readonly<Record<keyof AgentSettings, AgentSetting>> = {
  partSize: {
    key: 'timone.partSize',
    default: '16m',
    least: 5 * MIB, // what S3 takes for any part but the last
    most: 5 * 1024 * MIB, // what S3 takes in one request
    sentence: 'Size of the parts that large files are moved in, 5m to 5g; smaller files go in one request.',
  },
  parallelParts: {
    key: 'timone.parallelParts',
    default: '16',
    least: 1,
    most: 64,
    sentence: 'Parts of one file that move at the same time, 1 to 64.',
  },
}

/**
 * Reads the agent's settings.
 * @param config last value of each key of the git configuration, keys in lower case
 * @throws {TimoneError} `config`, naming the key
 */
export function parseAgentSettings(config: ReadonlyMap<string, string>): AgentSettings {
  return Object.freeze({
    partSize: read(config, AGENT_SETTINGS.partSize),
    parallelParts: read(config, AGENT_SETTINGS.parallelParts),
  })
}

function read(config: ReadonlyMap<string, string>, setting: AgentSetting): number {
  const text = config.get(setting.key.toLowerCase()) ?? setting.default
  const value = parseGitInteger(text)
  if (value === undefined || value < setting.least || value > setting.most) {
    throw new TimoneError(
      'config',
      `git config ${setting.key} is '${text}': it must be ${printGitInteger(setting.least)} to ${printGitInteger(setting.most)}`,
    )
  }
  return value
}

/** An integer as git-config(1) has it: k, m and g, in either case, stand for 1024 and its powers. */
function parseGitInteger(text: string): number | undefined {
  const [, digits, unit = ''] = /^(\d{1,15})([kmg]?)$/i.exec(text.trim()) ?? []
  if (digits === undefined) return undefined
  return Number(digits) * 1024 ** ['', 'k', 'm', 'g'].indexOf(unit.toLowerCase())
}

function printGitInteger(value: number): string {
  for (const [unit, size] of [
    ['g', 2 ** 30],
    ['m', 2 ** 20],
  ] as const) {
    if (value % size === 0) return `${value / size}${unit}`
  }
  return String(value)
}
