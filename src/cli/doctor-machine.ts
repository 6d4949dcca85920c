import { constants } from 'node:fs'
import { access, stat, statfs } from 'node:fs/promises'
import path from 'node:path'
import type { GitEnvironment } from '../agent/git-environment.ts'
import { AGENT_SETTINGS, type AgentSettings, parseAgentSettings } from '../config/agent-settings.ts'
import { isTimoneError, systemCode } from '../errors.ts'
import { agentCommand } from './agent-command.ts'
import { printBytes } from './amounts.ts'
import { type Finding, fail, failed, ok, skip, warn } from './doctor-report.ts'
import { runGit } from './git.ts'
import type { Io } from './io.ts'

/** Bytes free below which a transfer soon fails. */
const NO_ROOM = 100 * 2 ** 20
const LITTLE_ROOM = 2 * 2 ** 30

/** The oldest versions that are tested. */
const OLDEST_GIT: Version = [2, 20]
const OLDEST_GIT_LFS: Version = [3, 0]

type Version = readonly [major: number, minor: number]

export async function checkGit(io: Io): Promise<Finding> {
  try {
    const { stdout } = await runGit(['--version'], io)
    return checkVersion('git', stdout, OLDEST_GIT, installCommand('git', programOf(io).platform))
  } catch (error) {
    return failed('git', error, installCommand('git', programOf(io).platform))
  }
}

/** git-lfs itself, and the filter that makes git run it. */
export async function checkGitLfs(io: Io): Promise<Finding> {
  const install = installCommand('git-lfs', programOf(io).platform)
  try {
    const { code, stdout } = await runGit(['lfs', 'version'], io)
    if (code !== 0) return fail('git-lfs', 'git-lfs is not installed', install)
    const found = checkVersion('git-lfs', stdout, OLDEST_GIT_LFS, install)
    if (found.status !== 'ok') return found
    const filter = await runGit(['config', '--get', 'filter.lfs.process'], io)
    if (filter.stdout.trim() !== '') return found
    return fail('git-lfs', 'git does not know its filter: files are committed as they are', 'git lfs install')
  } catch (error) {
    return failed('git-lfs', error, install)
  }
}

function checkVersion(name: string, said: string, oldest: Version, fix: string): Finding {
  const [text = '', major, minor] = /(\d+)\.(\d+)[0-9.]*/.exec(said) ?? []
  if (text === '') return fail(name, `${name} does not say which version it is`, fix)
  const found: Version = [Number(major), Number(minor)]
  const old = found[0] < oldest[0] || (found[0] === oldest[0] && found[1] < oldest[1])
  return old ? warn(name, `${text} is older than ${oldest.join('.')}`, fix) : ok(name, text)
}

function installCommand(name: string, platform: string): string {
  if (platform === 'darwin') return `brew install ${name}`
  if (platform === 'win32') return 'winget install --id Git.Git'
  return `sudo apt-get install ${name}`
}

/** Does git-lfs start this very program? */
export async function checkInstall(io: Io, git: GitEnvironment): Promise<Finding> {
  const name = 'install'
  const fix = 'timone install'
  try {
    const program = io.program ?? (await (await import('./program-location.ts')).programLocation())
    const config = await git.config()
    const get = (key: string): string | undefined => config.get(`lfs.customtransfer.timone.${key}`)
    const at = get('path')
    if (at === undefined || at === '') return fail(name, 'git-lfs does not know timone yet', fix)
    const wanted = agentCommand(program)
    if (path.isAbsolute(at) && !(await isProgram(at)))
      return fail(name, `git-lfs would start ${at}, which is not there or no program`, fix)
    const concurrent = get('concurrent')
    if (concurrent !== undefined && concurrent.toLowerCase() !== 'true')
      return warn(name, 'git-lfs would start one agent at a time (lfs.customtransfer.timone.concurrent)', fix)
    if (at !== wanted.path || (get('args') ?? '') !== wanted.args)
      return warn(name, `git-lfs starts another timone: ${[at, get('args')].join(' ').trim()}`, fix)
    return ok(name, `git-lfs starts ${at}`)
  } catch (error) {
    return failed(name, error, fix)
  }
}

async function isProgram(file: string): Promise<boolean> {
  try {
    await access(file, constants.X_OK)
    return (await stat(file)).isFile()
  } catch {
    return false
  }
}

/** The agent's own settings; undefined where they cannot be read. */
export async function checkSettings(
  git: GitEnvironment,
): Promise<{ finding: Finding; settings: AgentSettings | undefined }> {
  const name = 'settings'
  try {
    const settings = parseAgentSettings(await git.config())
    const parts = `${settings.parallelParts} parts of ${printBytes(settings.partSize)} at a time`
    return { finding: ok(name, parts), settings }
  } catch (error) {
    const keys = Object.values(AGENT_SETTINGS).map(({ key }) => key)
    const key = keys.find((one) => isTimoneError(error) && error.message.includes(one)) ?? 'timone.partSize'
    return { finding: failed(name, error, `git config --global --unset-all ${key}`), settings: undefined }
  }
}

/** Can objects be put into the cache? */
export async function checkCache(settings: AgentSettings | undefined): Promise<Finding> {
  const name = 'cache'
  const folder = settings?.cacheDir
  if (folder === undefined) return skip(name, 'none is configured (timone.cacheDir)')
  const unset = 'git config --global timone.cacheDir ~/.cache/timone'
  try {
    const there = await nearestFolder(folder)
    await access(there, constants.W_OK | constants.X_OK)
    return ok(name, there === folder ? folder : `${folder} will be made`)
  } catch (error) {
    return fail(name, `${folder} cannot be written to (${systemCode(error) ?? 'unknown error'})`, unset)
  }
}

/** Is there room where objects are put? */
export async function checkRoom(
  folders: readonly { folder: string; what: string; fix: string }[],
  room: (folder: string) => Promise<number> = freeBytes,
): Promise<Finding> {
  const name = 'disk space'
  let least = Number.POSITIVE_INFINITY
  for (const { folder, what, fix } of folders) {
    const free = await room(folder).catch(() => undefined)
    if (free === undefined) continue
    const message = `${printBytes(free)} free for ${what} in ${folder}`
    if (free < NO_ROOM) return fail(name, message, fix)
    if (free < LITTLE_ROOM) return warn(name, message, fix)
    least = Math.min(least, free)
  }
  return least === Number.POSITIVE_INFINITY
    ? skip(name, 'nobody says how much there is')
    : ok(name, `${printBytes(least)} free`)
}

async function freeBytes(folder: string): Promise<number> {
  const { bavail, bsize } = await statfs(await nearestFolder(folder))
  return bavail * bsize
}

/** `folder`, or the next folder above it that is there. @throws the system's error: a file is in the way, no right to look */
async function nearestFolder(folder: string): Promise<string> {
  for (let at = folder; ; at = path.dirname(at)) {
    try {
      if ((await stat(at)).isDirectory()) return at
      throw Object.assign(new Error(`${at} is no folder`), { code: 'ENOTDIR' })
    } catch (error) {
      if (systemCode(error) !== 'ENOENT' || path.dirname(at) === at) throw error
    }
  }
}

const programOf = (io: Io): { platform: string } => io.program ?? process
