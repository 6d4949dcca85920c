import { type ChildProcess, spawn } from 'node:child_process'
import { fstatSync } from 'node:fs'
import { Socket } from 'node:net'
import { isSea } from 'node:sea'
import type { Writable } from 'node:stream'
import { setFlagsFromString } from 'node:v8'
import type { EngineProcess } from '../agent/engine-link.ts'
import { runFront } from '../agent/front.ts'
import { createAgentLog } from '../agent/log.ts'
import { meetingPlace } from '../agent/meeting-place.ts'
import { TimoneError } from '../errors.ts'
import type { Logger } from '../log.ts'

const SIGNALS = [
  ['SIGINT', 130],
  ['SIGTERM', 143],
  ['SIGHUP', 129],
] as const

/**
 * `timone agent`: the custom transfer agent on stdin and stdout. Gives the exit code.
 *
 * git-lfs starts its agents one after another, each waiting for the answer to `init` of the one before, so what moves
 * bytes is loaded elsewhere: in the engine, a process of its own.
 */
export async function runAgent(env: NodeJS.ProcessEnv): Promise<number> {
  const log = openLog(env)
  const stop = new AbortController()
  let exitCode = 0
  for (const [name, code] of SIGNALS) {
    process.on(name, () => {
      exitCode = code
      stop.abort(new TimoneError('cancelled', 'interrupted'))
      // Whatever hangs, the terminal has been given back to the user.
      setTimeout(() => process.exit(code), 1500).unref()
    })
  }
  await runFront({
    own: () => ({ input: process.stdin, output: openOutput() }),
    place: meetingPlace(env, process.cwd()),
    spawnEngine: () => spawnEngine(env),
    log,
    signal: stop.signal,
  })
  log.close()
  // Open until git-lfs closes its end, it would keep the process alive.
  process.stdin.destroy()
  return exitCode
}

/** `timone agent --engine`: what the agent starts to move bytes. It speaks to the agent only, on stdin and stdout. */
export async function runEngine(env: NodeJS.ProcessEnv): Promise<number> {
  // As in the server: the space for new objects would grow to tens of MiB under load, for small garbage only.
  setFlagsFromString('--semi-space-growth-factor=1')
  const log = openLog(env)
  // The terminal's signals reach the agent too, which then says what to stop, or just ends.
  for (const [name] of SIGNALS.filter(([name]) => name !== 'SIGTERM')) process.on(name, () => {})
  const { openTransfers, GitEnvironment, agentSettings, serveEngine, WorkAhead } = await import(
    './agent-transfers.ts'
  )
  const git = new GitEnvironment({ cwd: process.cwd(), env })
  const opened = openTransfers({ git, settings: agentSettings, log }).then((transfers) => ({
    transfers,
    ahead: new WorkAhead({ move: transfers.transfer, isLarge: transfers.isLarge, log }),
  }))
  const transfer = opened.then(({ ahead }) => ahead.transfer)
  // A failure is told for each object that needs it, not as an unhandled rejection.
  transfer.catch(() => {})
  const how = await serveEngine({ input: process.stdin, output: openOutput(), transfer, log })
  // An agent that is just gone was killed: its user has the terminal back, and what is on disk is for the next run.
  if (how !== 'gone') {
    const cleanUp = opened.then(async ({ transfers, ahead }) => {
      await ahead.close(how)
      await transfers.close()
    })
    await Promise.race([cleanUp.catch(() => {}), new Promise((resolve) => setTimeout(resolve, CLEAN_UP))])
  }
  log.close()
  return process.exit(0)
}

/** Milliseconds after which an engine whose work is done is gone, whatever the network does. */
const CLEAN_UP = 1500

function openLog(env: NodeJS.ProcessEnv): Logger & { close(): void } {
  const log = createAgentLog({
    level: env.TIMONE_LOG_LEVEL?.toLowerCase() ?? 'info',
    file: env.TIMONE_LOG,
    stderr: (line) => process.stderr.write(line),
  })
  // git-lfs does not start a dead agent again and fails all its objects: answer the one at hand and go on.
  process.on('uncaughtException', (error) =>
    log.error({ stack: error.stack }, `unexpected failure: ${error.message}`),
  )
  process.on('unhandledRejection', (error) => log.error({}, `unexpected failure: ${String(error)}`))
  // git-lfs was killed: its end of stderr is gone too, and nobody is left to be told.
  process.stderr.on('error', () => {})
  return log
}

/**
 * What comes from a socket is garbage a moment later. With room for more of it, and without threads that look for it on
 * the cores that the transfer needs, a GiB down takes a fifth less CPU time; the room costs 50 MiB.
 */
const ENGINE_HEAP = ['--single-threaded-gc', '--min-semi-space-size=16', '--max-semi-space-size=16']

/** This same program, in the same place and environment. */
function spawnEngine(env: NodeJS.ProcessEnv): EngineProcess {
  const script = isSea() ? [] : [...ENGINE_HEAP, process.argv[1] as string]
  const child: ChildProcess = spawn(process.execPath, [...process.execArgv, ...script, 'agent', '--engine'], {
    env,
    stdio: ['pipe', 'pipe', 'inherit'],
    windowsHide: true,
  })
  return child as EngineProcess
}

/**
 * stdout as a stream that does not block the process while its reader is slow: Node writes to a pipe synchronously
 * through `process.stdout`, and a blocked process lets its connections time out.
 */
function openOutput(): Writable {
  const found = process.platform === 'win32' ? undefined : fstatSync(1)
  const isPipe = found !== undefined && (found.isFIFO() || found.isSocket())
  return isPipe ? new Socket({ fd: 1, readable: false, writable: true }) : process.stdout
}
