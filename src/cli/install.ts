import { TimoneError } from '../errors.ts'
import { agentCommand } from './agent-command.ts'
import { notARepository, runGit } from './git.ts'
import { type Io, print, printJson, say } from './io.ts'

/** Which of git's configuration files is written. */
export type ConfigScope = 'global' | 'local' | 'system'

export interface InstallOptions {
  readonly scope: ConfigScope
  readonly json: boolean
  /** Without a server: git-lfs hands every object to the agent, and asks nobody. */
  readonly standalone?: boolean
}

/** Names the agent that git-lfs hands everything to (git-lfs docs/custom-transfers.md, "Using a Custom Transfer Type without the API server"). */
const STANDALONE = 'lfs.standalonetransferagent'

/** One key that was written or removed. */
interface Change {
  readonly key: string
  /** Undefined: removed. */
  readonly value: string | undefined
  /** What it was before; undefined: not set. */
  readonly was: string | undefined
}

// In lower case, for git-lfs 3.3 knows lfs.customTransfer in no other. `direction` is left out: both is the default.
const SECTION = 'lfs.customtransfer.timone'

/**
 * `timone install`: tells git-lfs to use this program for transfers. Writes only what differs.
 * @throws {TimoneError} `config` outside a repository with `local`, or when git cannot write its file
 */
export async function install({ scope, json, standalone }: InstallOptions, io: Io): Promise<number> {
  const program = io.program ?? (await (await import('./program-location.ts')).programLocation())
  const { path, args } = agentCommand(program)
  await checkScope(scope, io)
  const changes: Change[] = []
  const wanted = Object.entries({ path, args, concurrent: 'true' }).map(([name, value]) => [
    `${SECTION}.${name}`,
    value,
  ])
  if (standalone === true) wanted.push([STANDALONE, 'timone'])
  for (const [key, value] of wanted as [string, string][]) {
    const values = await valuesOf(key, scope, io)
    if (values.length === 1 && values[0] === value) continue
    await write(['--replace-all', key, value], scope, io)
    changes.push({ key, value, was: values.at(-1) })
  }
  if (/[\\/]_npx[\\/]/.test(program.script ?? '')) {
    say(
      io,
      'this timone is in the cache of npx and may disappear: better npm install --global timone, then install again',
    )
  }
  report(io, json, scope, changes, 'installed', 'already installed')
  return 0
}

/**
 * `timone uninstall`: removes what {@link install} writes, and the section when nothing else is in it.
 * @throws {TimoneError} `config` outside a repository with `local`, or when git cannot write its file
 */
export async function uninstall({ scope, json }: InstallOptions, io: Io): Promise<number> {
  await checkScope(scope, io)
  const changes: Change[] = []
  for (const name of ['path', 'args', 'concurrent']) {
    const key = `${SECTION}.${name}`
    const values = await valuesOf(key, scope, io)
    if (values.length === 0) continue
    await write(['--unset-all', key], scope, io)
    changes.push({ key, value: undefined, was: values.at(-1) })
  }
  const agents = await valuesOf(STANDALONE, scope, io)
  if (agents.length > 0 && agents.every((value) => value === 'timone')) {
    await write(['--unset-all', STANDALONE], scope, io)
    changes.push({ key: STANDALONE, value: undefined, was: 'timone' })
  }
  report(io, json, scope, changes, 'uninstalled', 'not installed')
  return 0
}

async function checkScope(scope: ConfigScope, io: Io): Promise<void> {
  if (scope !== 'local') return
  const { code, complaint } = await runGit(['rev-parse', '--git-dir'], io)
  if (code !== 0) throw notARepository(io, complaint)
}

/** Every value of `key` in one configuration file; none when it is not set. */
async function valuesOf(key: string, scope: ConfigScope, io: Io): Promise<string[]> {
  const { code, stdout, complaint } = await runGit(['config', `--${scope}`, '--null', '--get-all', key], io)
  // 1: the key, or the file, is not there (git-config).
  if (code === 0 || code === 1) return stdout.split('\0').slice(0, -1)
  throw new TimoneError('config', `cannot read the ${scope} git configuration: ${complaint}`)
}

async function write(args: readonly string[], scope: ConfigScope, io: Io): Promise<void> {
  const { code, complaint } = await runGit(['config', `--${scope}`, ...args], io)
  if (code === 0) return
  const advice = scope === 'system' ? ' (the system configuration belongs to the administrator)' : ''
  throw new TimoneError('config', `cannot write the ${scope} git configuration: ${complaint}${advice}`)
}

function report(
  io: Io,
  json: boolean,
  scope: ConfigScope,
  changes: readonly Change[],
  done: string,
  already: string,
): void {
  const status = changes.length === 0 ? already : done
  if (json) {
    printJson(io, { status, scope, changes })
    return
  }
  print(io, `timone: ${status} (${scope} git configuration)`)
  for (const { key, value, was } of changes) {
    const before = value !== undefined && was !== undefined ? `   (was: ${was})` : ''
    print(io, value === undefined ? `  - ${key}` : `  + ${key} = ${value}${before}`)
  }
}
