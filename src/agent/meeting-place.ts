import { createHash, randomBytes } from 'node:crypto'
import { lstatSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, isAbsolute, join, win32 } from 'node:path'

/**
 * git-lfs starts a whole row of agents, one after another (tq/adapterbase.go). They meet at a socket of their git-lfs
 * process, in a folder that only the user can enter; on Windows at a named pipe whose name only the user can know.
 */

/** What tells one git-lfs process from another. */
export interface Family {
  /** Process id of git-lfs. */
  pid: number
  /** When it began, in the kernel's clock ticks; 0 where that cannot be told. */
  started: number
}

/** A socket's name has 108 bytes with its folder (unix(7)), 104 on macOS. */
const LONGEST_FOLDER = 70

/** Where the agents of our git-lfs process meet; undefined where they cannot: then each works for itself. */
export function meetingPlace(env: NodeJS.ProcessEnv, cwd: string): string | undefined {
  if (process.platform === 'win32') return pipeOf(env, cwd)
  const family = ourFamily()
  if (family === undefined) return undefined
  const folder = privateFolder(env)
  return folder === undefined ? undefined : join(folder, `${family.pid}-${family.started}.sock`)
}

/** Removes the sockets of git-lfs processes that are gone: those that were killed have left theirs. */
export function sweepMeetingPlaces(place: string): void {
  if (process.platform === 'win32') return
  const folder = dirname(place)
  for (const name of readdirSync(folder)) {
    const [, pid, started] = /^(\d+)-(\d+)\.sock$/.exec(name) ?? []
    if (pid === undefined) continue
    if (!isRunning({ pid: Number(pid), started: Number(started) }))
      rmSync(join(folder, name), { force: true })
  }
}

/** The git-lfs that started us, through a shell or not. */
function ourFamily(): Family | undefined {
  // Elsewhere nothing cheap names the parent's parent. The shell of macOS becomes the program that it runs, so our
  // parent is git-lfs itself; a shell that does not is one for each agent, and no two agents meet.
  if (process.platform !== 'linux') return { pid: process.ppid, started: 0 }
  let pid = process.ppid
  for (let generation = 0; generation < 3 && pid > 1; generation++) {
    const found = processStat(pid)
    if (found === undefined) return undefined
    if (found.name.startsWith('git-lfs')) return { pid, started: found.started }
    pid = found.parent
  }
  return undefined
}

function isRunning({ pid, started }: Family): boolean {
  if (process.platform === 'linux') return processStat(pid)?.started === started
  try {
    process.kill(pid, 0)
    return true
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM'
  }
}

/** /proc/PID/stat (proc(5)): the name may hold spaces and brackets, so the fields are counted from its end. */
function processStat(pid: number): { name: string; parent: number; started: number } | undefined {
  try {
    const text = readFileSync(`/proc/${pid}/stat`, 'latin1')
    const end = text.lastIndexOf(')')
    const fields = text.slice(end + 2).split(' ')
    return {
      name: text.slice(text.indexOf('(') + 1, end),
      parent: Number(fields[1]),
      started: Number(fields[19]),
    }
  } catch {
    return undefined
  }
}

/** A folder that nobody else can enter or plant anything in; undefined when there is none to be had. */
export function privateFolder(env: NodeJS.ProcessEnv): string | undefined {
  const user = process.getuid?.()
  for (const base of [env.XDG_RUNTIME_DIR, tmpdir()]) {
    if (base === undefined || !isAbsolute(base)) continue
    const folder = join(base, `timone-${user}`)
    if (Buffer.byteLength(folder) > LONGEST_FOLDER) continue
    try {
      mkdirSync(folder, { mode: 0o700 })
    } catch {
      // It is there already, or cannot be: looking at it decides.
    }
    try {
      const found = lstatSync(folder)
      if (found.isDirectory() && found.uid === user && (found.mode & 0o077) === 0) return folder
    } catch {
      // The next one.
    }
  }
  return undefined
}

/**
 * A pipe's name on Windows, which anybody may take first, so it hangs on a secret in the user's own profile. All agents
 * in one working directory meet there: which git-lfs is whose cannot be told cheaply.
 */
function pipeOf(env: NodeJS.ProcessEnv, cwd: string): string | undefined {
  const { LOCALAPPDATA: profile } = env
  if (profile === undefined || !win32.isAbsolute(profile)) return undefined
  try {
    return pipeName(userSecret(win32.join(profile, 'timone')), cwd, env.GIT_DIR ?? '')
  } catch {
    return undefined
  }
}

/** See {@link pipeOf}. */
export function pipeName(secret: string, cwd: string, gitDir: string): string {
  const hash = createHash('sha256')
    .update(JSON.stringify([secret, cwd, gitDir]))
    .digest('hex')
  return `\\\\.\\pipe\\timone-${hash}`
}

/** A random text that is made once and kept in `folder`, the user's own. */
export function userSecret(folder: string): string {
  const path = join(folder, 'pipe-secret')
  mkdirSync(folder, { recursive: true })
  try {
    writeFileSync(path, randomBytes(32).toString('hex'), { flag: 'wx', mode: 0o600 })
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error
  }
  const secret = readFileSync(path, 'utf8')
  // Empty for a moment while another agent writes it: then this one works for itself.
  if (secret.length < 64) throw new Error(`${path} is damaged: remove it`)
  return secret
}
