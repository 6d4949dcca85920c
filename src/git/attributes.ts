import { Conversation } from './conversation.ts'
import { records } from './lines.ts'
import type { LocalRepository } from './repository.ts'

/** A path and its attributes as `git check-attr` prints them: `set`, `unset`, `unspecified` or the value. */
export interface Attributed<T extends { readonly path: string }> {
  readonly entry: T
  readonly attributes: Readonly<Record<string, string>>
}

/**
 * Asks git for attributes of any number of paths, one process for all of them; answers come in the same order.
 * @throws {TimoneError} `config` when git fails
 */
export async function* withAttributes<T extends { readonly path: string }>(
  repository: LocalRepository,
  entries: AsyncIterable<readonly T[]> | Iterable<readonly T[]>,
  names: readonly string[],
  /** An index to read `.gitattributes` from, instead of the work tree. */
  index?: string,
): AsyncGenerator<Attributed<T>[]> {
  const git = repository.stream(
    ['check-attr', ...(index === undefined ? [] : ['--cached']), '--stdin', '-z', ...names],
    {
      // Paths are the root's, wherever the user stands.
      cwd: repository.workTree ?? repository.gitDir,
      // Without this check-attr writes its answers one at a time.
      env: { GIT_FLUSH: '0', ...(index === undefined ? {} : { GIT_INDEX_FILE: index }) },
    },
  )
  const conversation = new Conversation(git, entries, ({ path }) => `${path}\0`)
  // Three records a name: path, name, value.
  const fields: string[] = []
  const last = names.length * 3
  let field = 0
  try {
    for await (const slice of records(git.stdout, 0)) {
      const answers: Attributed<T>[] = []
      for (const record of slice) {
        fields[field++] = field % 3 === 1 ? '' : record.toString()
        if (field < last) continue
        const attributes: Record<string, string> = {}
        for (let at = 1; at < last; at += 3) attributes[fields[at] as string] = fields[at + 1] as string
        answers.push({ entry: conversation.answered(), attributes })
        field = 0
      }
      yield answers
    }
    await conversation.end()
  } finally {
    git.stop()
  }
}

/** The attributes that {@link conversion} looks at. */
export const CONVERTING = ['ident', 'working-tree-encoding', 'text', 'eol', 'crlf'] as const

/**
 * What git does to a file's content besides the filter, so that a copy of the object is not the file; undefined:
 * nothing. `autocrlf` is `core.autocrlf`: it counts for files whose attributes say nothing of text.
 */
export function conversion(
  attributes: Readonly<Record<string, string>>,
  autocrlf: string | undefined,
): string | undefined {
  const says = (name: (typeof CONVERTING)[number]) =>
    !/^(unspecified|unset)$/.test(attributes[name] ?? 'unset')
  if (says('ident')) return 'ident'
  if (says('working-tree-encoding')) return 'working-tree-encoding'
  if (attributes.text === 'unset') return undefined
  if (says('text') || says('eol') || says('crlf')) return 'text'
  if (attributes.crlf === 'unset') return undefined
  return /^(true|yes|on|1|input)$/i.test(autocrlf ?? '') ? 'core.autocrlf' : undefined
}
