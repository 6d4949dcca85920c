import { fstatSync } from 'node:fs'
import { Socket } from 'node:net'
import type { Writable } from 'node:stream'
import { setFlagsFromString } from 'node:v8'
import { createAgentLog } from '../agent/log.ts'
import { runSession } from '../agent/session.ts'
import { TimoneError } from '../errors.ts'

/**
 * `timone agent`: the custom transfer agent on stdin and stdout. Gives the exit code.
 *
 * git-lfs starts its agents one after another, each waiting for the answer to `init` of the one before, so nothing
 * but the session itself is loaded until that answer is out.
 */
export async function runAgent(env: NodeJS.ProcessEnv): Promise<number> {
  // As in the server: the space for new objects would grow to tens of MiB under load, for small garbage only.
  setFlagsFromString('--semi-space-growth-factor=1')
  const log = createAgentLog({
    level: env.TIMONE_LOG_LEVEL?.toLowerCase() ?? 'info',
    file: env.TIMONE_LOG,
    stderr: (line) => process.stderr.write(line),
  })
  const stop = new AbortController()
  let exitCode = 0
  for (const [name, code] of [
    ['SIGINT', 130],
    ['SIGTERM', 143],
    ['SIGHUP', 129],
  ] as const) {
    process.on(name, () => {
      exitCode = code
      stop.abort(new TimoneError('cancelled', 'interrupted'))
      // Whatever hangs, the terminal has been given back to the user.
      setTimeout(() => process.exit(code), 1500).unref()
    })
  }
  // git-lfs does not start a dead agent again and fails all its objects: answer the one at hand and go on.
  process.on('uncaughtException', (error) =>
    log.error({ stack: error.stack }, `unexpected failure: ${error.message}`),
  )
  process.on('unhandledRejection', (error) => log.error({}, `unexpected failure: ${String(error)}`))

  // git-lfs was killed: its end of stderr is gone too, and nobody is left to be told.
  process.stderr.on('error', () => {})

  let close: (() => Promise<void>) | undefined
  await runSession({
    input: process.stdin,
    output: openOutput(),
    log,
    signal: stop.signal,
    open: async (init) => {
      log.debug({ operation: init.operation, concurrent: init.concurrent }, 'init')
      const { openTransfers, GitEnvironment, agentSettings } = await import('./agent-transfers.ts')
      const git = new GitEnvironment({ cwd: process.cwd(), env })
      const transfers = await openTransfers({ git, settings: agentSettings, log })
      close = transfers.close
      return transfers.transfer
    },
  })
  await close?.()
  log.close()
  // Open until git-lfs closes its end, it would keep the process alive.
  process.stdin.destroy()
  return exitCode
}

/**
 * stdout as a stream that does not block the process while its reader is slow: Node writes to a pipe synchronously
 * through `process.stdout`, and a blocked process lets its connections time out.
 */
function openOutput(): Writable {
  const isPipe = process.platform !== 'win32' && fstatSync(1).isFIFO()
  return isPipe ? new Socket({ fd: 1, readable: false, writable: true }) : process.stdout
}
