/** How a program was started: what a later start needs to know. */
export interface ProgramLocation {
  /** Absolute path of the running binary: timone itself, or Node. */
  readonly execPath: string
  /** Absolute path of the script that Node runs, symbolic links resolved; undefined for a standalone binary. */
  readonly script: string | undefined
  /** `process.platform`. */
  readonly platform: string
}

/** Values of `lfs.customtransfer.timone.path` and `.args`. */
export interface AgentCommand {
  readonly path: string
  readonly args: string
}

/**
 * What git-lfs must be told so that it starts this very program as its agent, whatever PATH it runs with.
 *
 * git-lfs runs `sh -c "<path> <args>"` and quotes `path` itself but not `args` (git-lfs tq/custom.go,
 * subprocess/subprocess.go). Paths of Windows get forward slashes, which the sh of Git for Windows takes unchanged.
 */
export function agentCommand({ execPath, script, platform }: ProgramLocation): AgentCommand {
  const spell = platform === 'win32' ? spellWindows : (path: string): string => path
  return {
    path: spell(execPath),
    args: script === undefined ? 'agent' : `${shellQuote(spell(script))} agent`,
  }
}

/** With forward slashes, and without the prefix that allows for long paths, which knows backslashes only. */
function spellWindows(path: string): string {
  return path
    .replace(/^\\\\\?\\UNC\\/i, '\\\\')
    .replace(/^\\\\\?\\(?=[A-Za-z]:)/, '')
    .replaceAll('\\', '/')
}

/** `text` as one word of a POSIX shell; plain words stay as they are. */
export function shellQuote(text: string): string {
  return /^[A-Za-z0-9_@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`
}
