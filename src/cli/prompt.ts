import { createInterface } from 'node:readline'
import type { Readable, Writable } from 'node:stream'
import { TimoneError } from '../errors.ts'

/** Where somebody sits: what they type, and where it is shown. */
export interface Terminal {
  input: Readable
  output: Writable
}

/**
 * Asks somebody at a terminal for one line. `hidden`: what is typed is not shown. The terminal is as it was afterwards,
 * whatever happens.
 * @throws {TimoneError} `cancelled` at Ctrl-C, at the end of the input, or when `signal` fires
 */
export function ask(
  { input, output }: Terminal,
  question: string,
  { hidden = false, signal }: { hidden?: boolean; signal?: AbortSignal | undefined } = {},
): Promise<string> {
  const { promise, resolve, reject } = Promise.withResolvers<string>()
  // Readline sets the terminal to tell it of each key, Ctrl-C included, and shows what is typed by itself; it is given
  // nowhere to write to where that must not be seen.
  const lines = createInterface({ input, ...(hidden ? {} : { output }), terminal: true })
  const cancel = (): void => {
    output.write('\n')
    reject(new TimoneError('cancelled', 'interrupted'))
    lines.close()
  }
  lines.once('SIGINT', cancel)
  lines.once('line', (line) => {
    // Enter is not shown either.
    if (hidden) output.write('\n')
    resolve(line)
    lines.close()
  })
  // After an answer it changes nothing.
  lines.once('close', () => reject(new TimoneError('cancelled', 'interrupted')))
  signal?.addEventListener('abort', cancel, { once: true })
  if (hidden) output.write(question)
  else {
    lines.setPrompt(question)
    lines.prompt()
  }
  return promise.finally(() => signal?.removeEventListener('abort', cancel))
}
