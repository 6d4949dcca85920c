import { isatty } from 'node:tty'

// Windows looks for programs in the current folder first, and ours may be a stranger's work tree with a git.exe in it.
if (process.platform === 'win32') process.env.NoDefaultCurrentDirectoryInExePath = '1'

/** Chooses the command and sets the exit code. The agent's path loads nothing that it does not need. */
async function main(): Promise<number> {
  const args = process.argv.slice(2)
  const isAgent = args.length === 0 ? !isatty(0) : args.length === 1 && args[0] === 'agent'
  const isEngine = args.length === 2 && args[0] === 'agent' && args[1] === '--engine'
  if (isAgent || isEngine) {
    const { runAgent, runEngine } = await import('./cli/agent.ts')
    return isAgent ? runAgent(process.env) : runEngine(process.env)
  }
  // Whoever read our output has seen enough (`| head -1`): end as SIGPIPE ends other programs. Node ignores it.
  process.stdout.on('error', (error: NodeJS.ErrnoException) => {
    if (error.code !== 'EPIPE') throw error
    process.exit(141)
  })
  const moves = args[0] === 'push' || args[0] === 'pull' || args[0] === 'fetch'
  const { run } = moves ? await import('./cli/transfer-program.ts') : await import('./cli/program.ts')
  const { stdin, stdout, stderr, env } = process
  return run(args, { stdin, stdout, stderr, env, cwd: process.cwd() })
}

main().then(
  (code) => {
    // Not process.exit: what was written must still reach its reader.
    process.exitCode = code
  },
  (error: unknown) => {
    process.stderr.write(
      `timone: ${error instanceof Error ? (error.stack ?? error.message) : String(error)}\n`,
    )
    process.exitCode = 1
  },
)
