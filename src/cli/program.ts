import { CommanderError } from 'commander'
import { isTimoneError, TimoneError } from '../errors.ts'
import { commandTree } from './commands.ts'
import { type Io, say } from './io.ts'

/**
 * Runs one command.
 * @param argv what follows the program's name
 * @returns the exit code: 0 done, 1 failed, 2 usage or configuration, 130 interrupted
 */
export async function run(argv: readonly string[], io: Io): Promise<number> {
  let code = 0
  const root = commandTree(io, (made) => {
    code = made
  })
  try {
    await root.parseAsync(argv, { from: 'user' })
    return code
  } catch (error) {
    return report(error, io)
  }
}

function report(error: unknown, io: Io): number {
  // commander has said what there was to say: on stdout when it was asked for, else on stderr.
  if (error instanceof CommanderError) return error.exitCode === 0 ? 0 : 2
  if (isTimoneError(error, 'cancelled')) return 130
  if (error instanceof TimoneError) {
    say(io, oneLine(error.message))
    return error.code === 'config' ? 2 : 1
  }
  const { message = String(error), stack = '' } = error instanceof Error ? error : {}
  say(io, `internal error: ${oneLine(message)}`)
  if (/^(debug|trace)$/i.test(io.env.TIMONE_LOG_LEVEL ?? '')) io.stderr.write(`${stack}\n`)
  else say(io, 'run it again with TIMONE_LOG_LEVEL=debug to see where it happened')
  return 1
}

/** Text for a terminal: no line breaks, nothing that the terminal would obey. */
function oneLine(text: string): string {
  return text.replace(/\p{Cc}+/gu, ' ')
}
