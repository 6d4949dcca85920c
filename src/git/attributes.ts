import { TimoneError } from '../errors.ts'
import { records } from './lines.ts'
import type { LocalRepository } from './repository.ts'

/** What git's attributes say about one path, as far as it matters to who fills the work tree. */
export interface PathAttributes {
  /** `filter` is `lfs`: only such files does git turn into pointers again. */
  readonly lfs: boolean
  /** `lockable` is set: git-lfs keeps the file read-only while it is not locked. */
  readonly lockable: boolean
  /** What git does to the content besides the filter, so that a copy of the object is not the file; undefined: nothing. */
  readonly conversion: string | undefined
}

const NAMES = ['filter', 'lockable', 'ident', 'working-tree-encoding', 'text', 'eol', 'crlf'] as const

/**
 * Asks git for the attributes of `paths`, one process for all of them.
 * @throws {TimoneError} `config` when git fails
 */
export async function pathAttributes(
  repository: LocalRepository,
  paths: readonly string[],
): Promise<PathAttributes[]> {
  if (paths.length === 0) return []
  // Paths are the root's, wherever the user stands.
  const cwd = repository.workTree === undefined ? {} : { cwd: repository.workTree }
  const [git, config] = [
    repository.stream(['check-attr', '--stdin', '-z', ...NAMES], cwd),
    await repository.config(),
  ]
  git.stdin.end(paths.map((path) => `${path}\0`).join(''))
  // Without attributes, core.autocrlf converts text that git recognises by its content: a pointer's object is filtered
  // first, so such an object would be converted too.
  const converts = /^(true|input)$/i.test(config.get('core.autocrlf') ?? 'false')
  const found: PathAttributes[] = []
  let values: Partial<Record<(typeof NAMES)[number], string>> = {}
  let field = 0
  let name = ''
  for await (const slice of records(git.stdout, 0)) {
    for (const record of slice) {
      const text = record.toString()
      if (field === 1) name = text
      if (field === 2) {
        values[name as (typeof NAMES)[number]] = text
        if (name === NAMES.at(-1)) {
          found.push(summary(values, converts))
          values = {}
        }
      }
      field = (field + 1) % 3
    }
  }
  await git.done
  if (found.length !== paths.length)
    throw new TimoneError('internal', 'git check-attr did not answer for every path')
  return found
}

function summary(values: Partial<Record<(typeof NAMES)[number], string>>, autocrlf: boolean): PathAttributes {
  const set = (name: (typeof NAMES)[number]) => {
    const value = values[name]
    return value !== undefined && value !== 'unspecified' && value !== 'unset'
  }
  let conversion: string | undefined
  if (set('ident')) conversion = 'ident'
  else if (set('working-tree-encoding')) conversion = 'working-tree-encoding'
  else if (values.text !== 'unset' && (set('text') || set('eol') || set('crlf'))) conversion = 'text'
  else if (values.text !== 'unset' && values.crlf !== 'unset' && autocrlf) conversion = 'core.autocrlf'
  const lockable = set('lockable') && values.lockable !== 'false'
  return { lfs: values.filter === 'lfs', lockable, conversion }
}
