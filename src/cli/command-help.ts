import type { Command } from 'commander'

/** Told of each command's exit code. */
export type Done = (code: number) => void

/** Puts examples under a command's help. */
export function examples(
  command: Command,
  lines: readonly (readonly [example: string, meaning: string])[],
): void {
  const text = lines.map(([example, meaning]) => `${meaning === '' ? '' : `  # ${meaning}\n`}  ${example}`)
  command.addHelpText('after', `\nExamples:\n${text.join('\n')}`)
}
