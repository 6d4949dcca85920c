import { spawn } from 'node:child_process'
import { TimoneError } from '../errors.ts'
import type { Io } from './io.ts'

/**
 * Runs `git lfs` for what timone leaves to it, its output going to stderr: stdout is for data.
 * @throws {TimoneError} `config` when git-lfs is missing, `internal` when it failed (it has said why), `cancelled`
 */
export async function runGitLfs(args: readonly string[], io: Io, signal: AbortSignal): Promise<void> {
  const code = await new Promise<number | null>((resolve, reject) => {
    const child = spawn('git', ['lfs', ...args], {
      cwd: io.cwd,
      env: io.env,
      stdio: ['ignore', 'pipe', 'pipe'],
      windowsHide: true,
      signal,
    })
    for (const stream of [child.stdout, child.stderr])
      stream.on('data', (chunk: Buffer) => io.stderr.write(chunk))
    child.once('error', (error) => {
      if (signal.aborted) reject(new TimoneError('cancelled', 'interrupted'))
      else reject(new TimoneError('config', `git could not be run: ${error.message}`, { cause: error }))
    })
    child.once('close', resolve)
  })
  if (signal.aborted) throw new TimoneError('cancelled', 'interrupted')
  if (code === 0) return
  throw new TimoneError('internal', `git lfs ${args[0]} failed (exit code ${code}): see what it said above`)
}

/** Words on one command line: an operating system takes 32 KiB and more, an oid has 65 bytes. */
export const MOST_OIDS = 300
