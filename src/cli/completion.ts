import type { Command } from 'commander'

/** What can follow in one place of the tree of commands. */
interface Place {
  /** Names of the commands that lead here, each after a space: `` or ` token create`. */
  readonly path: string
  readonly words: readonly { readonly word: string; readonly description: string }[]
}

/** A script that teaches `shell` to complete the commands and options of `root`. */
export function completionScript(shell: 'bash' | 'zsh' | 'fish', root: Command): string {
  const places = listPlaces(root, '')
  return { bash: bashScript, zsh: zshScript, fish: fishScript }[shell](root.name(), places)
}

function listPlaces(command: Command, path: string): Place[] {
  const help = command.createHelp()
  const commands = help.visibleCommands(command)
  const options = help.visibleOptions(command)
  const place = {
    path,
    words: [
      ...commands.map((sub) => ({ word: sub.name(), description: sub.summary() || sub.description() })),
      ...(command.registeredArguments[0]?.argChoices ?? []).map((word) => ({ word, description: word })),
      ...options.map((option) => ({ word: option.long ?? option.flags, description: option.description })),
    ],
  }
  // The built-in `help` is not among `commands`; it takes names of commands, which are completed as such.
  return [place, ...command.commands.flatMap((sub) => listPlaces(sub, `${path} ${sub.name()}`))]
}

/** The patterns of a `case` that matches every place but the top. */
function patterns(places: readonly Place[]): string {
  return places
    .filter(({ path }) => path !== '')
    .map(({ path }) => `'${path}'`)
    .join('|')
}

function bashScript(name: string, places: readonly Place[]): string {
  const cases = places.map(
    ({ path, words }) => `    '${path}') words='${words.map(({ word }) => word).join(' ')}' ;;`,
  )
  return `# Completion of ${name} for bash.
_${name}() {
  local at= words= index
  for ((index = 1; index < COMP_CWORD; index++)); do
    case "$at \${COMP_WORDS[index]}" in
      ${patterns(places)}) at="$at \${COMP_WORDS[index]}" ;;
    esac
  done
  case "$at" in
${cases.join('\n')}
  esac
  COMPREPLY=($(compgen -W "$words" -- "\${COMP_WORDS[COMP_CWORD]}"))
}
complete -o default -F _${name} ${name}
`
}

function zshScript(name: string, places: readonly Place[]): string {
  const cases = places.map(({ path, words }) => {
    const candidates = words.map(({ word, description }) => quote(`${word}:${description}`))
    return `    ('${path}') candidates=(${candidates.join(' ')}) ;;`
  })
  return `#compdef ${name}
# Completion of ${name} for zsh.
_${name}() {
  local at= word
  local -a candidates
  for word in "\${(@)words[2,CURRENT-1]}"; do
    case "$at $word" in
      (${patterns(places)}) at="$at $word" ;;
    esac
  done
  case "$at" in
${cases.join('\n')}
  esac
  _describe ${name} candidates || _files
}
compdef _${name} ${name}
`
}

function fishScript(name: string, places: readonly Place[]): string {
  const lines = places.flatMap(({ path, words }) =>
    words.map(({ word, description }) => {
      const what = word.startsWith('--') ? `-l ${word.slice(2)}` : `-f -a ${word}`
      return `complete -c ${name} -n "__${name}_at '${path}'" ${what} -d ${fishQuote(description)}`
    }),
  )
  return `# Completion of ${name} for fish.
function __${name}_at
  set -l at ''
  for word in (commandline -opc)[2..-1]
    switch "$at $word"
      case ${patterns(places).replaceAll('|', ' ')}
        set at "$at $word"
    end
  end
  test "$at" = "$argv[1]"
end
${lines.join('\n')}
`
}

function quote(text: string): string {
  return `'${text.replaceAll("'", "'\\''")}'`
}

function fishQuote(text: string): string {
  return `'${text.replaceAll('\\', '\\\\').replaceAll("'", "\\'")}'`
}
