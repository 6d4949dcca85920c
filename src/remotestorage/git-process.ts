import { type ChildProcessWithoutNullStreams, spawn } from 'node:child_process'
import { TimoneError } from '../errors.ts'

/** The environment of our git: no settings but those of the repository itself. */
export function gitEnvironment(): NodeJS.ProcessEnv {
  return {
    PATH: process.env.PATH,
    HOME: '/nonexistent',
    LC_ALL: 'C',
    GIT_CONFIG_NOSYSTEM: '1',
    GIT_CONFIG_GLOBAL: '/dev/null',
    GIT_TERMINAL_PROMPT: '0',
    GIT_OPTIONAL_LOCKS: '0',
  }
}

export function spawnGit(gitDir: string, args: readonly string[]): ChildProcessWithoutNullStreams {
  return spawn('git', [`--git-dir=${gitDir}`, ...args], {
    env: gitEnvironment(),
    // A group of its own: Ctrl-C in the server's terminal must not end it in the middle of an answer.
    detached: true,
  })
}

/** Runs git to its end and gives what it wrote. @throws {TimoneError} `internal` with what it said */
export async function runGit(
  gitDir: string,
  args: readonly string[],
  input: string | Buffer = '',
): Promise<Buffer> {
  const git = spawnGit(gitDir, args)
  const out: Buffer[] = []
  let said = ''
  git.stdout.on('data', (chunk: Buffer) => out.push(chunk))
  git.stderr.on('data', (chunk: Buffer) => {
    if (said.length < 2000) said += chunk.toString()
  })
  git.stdin.on('error', () => {})
  git.stdin.end(input)
  const code = await new Promise<number | null>((resolve, reject) => {
    git.once('error', (cause) =>
      reject(new TimoneError('config', 'cannot run git: install it on the server', { cause })),
    )
    git.once('close', resolve)
  })
  if (code !== 0) throw new TimoneError('internal', `git ${args[0]} failed: ${said.trim().slice(0, 500)}`)
  return Buffer.concat(out)
}
