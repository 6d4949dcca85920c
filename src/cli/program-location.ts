import { realpath } from 'node:fs/promises'
import { isSea } from 'node:sea'
import { TimoneError } from '../errors.ts'
import type { ProgramLocation } from './agent-command.ts'

/**
 * How the running process was started. A link that npm made for the script may go or point elsewhere later, so it is
 * followed to the file.
 */
export async function programLocation(): Promise<ProgramLocation> {
  const { execPath, platform } = process
  if (isSea()) return { execPath, script: undefined, platform }
  const script = process.argv[1]
  if (script === undefined)
    throw new TimoneError('config', 'cannot tell which file this program was started from')
  return { execPath, script: await realpath(script), platform }
}
