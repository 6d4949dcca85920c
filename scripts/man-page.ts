import type { Command } from 'commander'

/**
 * The manual page of a tree of commands, in the man macros of roff (man(7)).
 * @param date as it stands in the foot, `2026-11-25`
 */
export function manPage(root: Command, version: string, date: string): string {
  const lines = [
    `.TH ${root.name().toUpperCase()} 1 "${date}" "${root.name()} ${version}"`,
    '.SH NAME',
    `${root.name()} \\- ${plain(root.description())}`,
    '.SH SYNOPSIS',
    `.B ${root.name()}`,
    '.I command',
    '[options]',
    '.SH OPTIONS',
    ...options(root),
    '.SH COMMANDS',
    ...root.commands.flatMap((command) => section(command, root.name())),
    '.SH EXIT STATUS',
    '0 done, 1 failed, 2 usage or configuration, 129 the database is unreachable or lost, 130 interrupted.',
  ]
  return `${lines.join('\n')}\n`
}

/** One command, and those below it. */
function section(command: Command, path: string): string[] {
  const name = `${path} ${command.name()}`
  const usage = command
    .createHelp()
    .commandUsage(command)
    .replace(/^.*?\s/, '')
  return [
    `.SS "${plain(name)}"`,
    `${path.split(' ')[0]} ${plain(usage)}`,
    '.PP',
    plain(command.description()),
    ...options(command),
    ...examples(command),
    ...command.commands.flatMap((sub) => section(sub, name)),
  ]
}

function options(command: Command): string[] {
  const help = command.createHelp()
  const words = [...help.visibleArguments(command), ...help.visibleOptions(command)]
  return words.flatMap((word) => {
    const isOption = 'flags' in word
    const term = isOption ? help.optionTerm(word) : help.argumentTerm(word)
    const text = isOption ? help.optionDescription(word) : help.argumentDescription(word)
    return text === '' ? [] : ['.TP', `.B ${plain(term)}`, plain(text)]
  })
}

/** What follows the help of a command: its examples, as they are. */
function examples(command: Command): string[] {
  let text = ''
  const configured = command.configureOutput()
  command.configureOutput({
    ...configured,
    writeOut: (chunk) => {
      text += chunk
    },
  })
  command.outputHelp()
  command.configureOutput(configured)
  const [, after] = text.split('\nExamples:\n')
  if (after === undefined) return []
  return ['.PP', 'Examples:', '.PP', '.nf', ...after.trimEnd().split('\n').map(plain), '.fi']
}

/** Text that roff prints as it is. */
function plain(text: string): string {
  return text
    .replaceAll('\\', '\\e')
    .replaceAll('-', '\\-')
    .replaceAll('\n', ' ')
    .replace(/^([.'])/, '\\&$1')
}
