import { execFile } from 'node:child_process'
import { TimoneError } from '../errors.ts'
import type { Io } from './io.ts'

/** How a run of git ended. */
export interface GitResult {
  readonly code: number
  readonly stdout: string
  /** First line of what git said, without `fatal:` or `error:`. */
  readonly complaint: string
}

/**
 * Runs git with the user's environment, messages in English.
 * @throws {TimoneError} `config` when git is not installed, `cancelled` on interruption
 */
export function runGit(args: readonly string[], io: Io): Promise<GitResult> {
  return new Promise((resolve, reject) => {
    const options = {
      cwd: io.cwd,
      env: { ...io.env, LC_ALL: 'C' },
      maxBuffer: 2 ** 24,
      windowsHide: true,
      ...(io.signal === undefined ? {} : { signal: io.signal }),
    }
    execFile('git', args, options, (error, stdout, stderr) => {
      const code = error === null ? 0 : error.code
      if (io.signal?.aborted === true) reject(new TimoneError('cancelled', 'interrupted'))
      else if (code === 'ENOENT') {
        reject(
          new TimoneError('config', 'git was not found: install it, or put its folder on PATH', {
            cause: error,
          }),
        )
      } else if (typeof code === 'number') {
        const [line = ''] = stderr.split('\n')
        resolve({ code, stdout, complaint: line.replace(/^(fatal|error|warning): /, '') })
      } else {
        reject(new TimoneError('internal', `git ${args[0]} could not be run (${code})`, { cause: error }))
      }
    })
  })
}

/**
 * Top folder of the work tree around `io.cwd`.
 * @throws {TimoneError} `config` outside a work tree
 */
export async function workTree(io: Io): Promise<string> {
  const { code, stdout, complaint } = await runGit(['rev-parse', '--show-toplevel'], io)
  if (code === 0) return stdout.replace(/\r?\n$/, '')
  throw notARepository(io, complaint)
}

/** Why git knows no repository here, and what to do. */
export function notARepository(io: Io, complaint: string): TimoneError {
  const known = complaint.startsWith('not a git repository')
  return new TimoneError(
    'config',
    known
      ? `${io.cwd} is not in a git repository: go into one, or make one with git init`
      : `git: ${complaint}`,
  )
}
