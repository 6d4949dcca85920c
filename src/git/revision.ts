import { TimoneError } from '../errors.ts'
import type { LocalRepository } from './repository.ts'

/**
 * The object ids of names of branches, tags and commits, in order.
 * @throws {TimoneError} `config` for a name that git does not know
 */
export async function resolveRevisions(
  repository: LocalRepository,
  names: readonly string[],
): Promise<string[]> {
  const found = await findRevisions(repository, names)
  return found.map((id, index) => {
    if (id !== undefined) return id
    throw new TimoneError(
      'config',
      `${JSON.stringify(names[index])} is no branch, tag or commit of this repository`,
    )
  })
}

/** The same; undefined where git knows no such name. */
export async function findRevisions(
  repository: LocalRepository,
  names: readonly string[],
): Promise<(string | undefined)[]> {
  if (names.length === 0) return []
  // A name with a line feed would be two; nothing else on stdin is taken for an option.
  const input = names.map((name) => (/[\n\0]/.test(name) ? '' : name)).map((name) => `${name}\n`)
  const output = await repository.git(['cat-file', '--batch-check=%(objectname)'], { input: input.join('') })
  const lines = output.toString().split('\n')
  return names.map((_, index) => {
    const line = lines[index] ?? ''
    return /^[0-9a-f]{40,64}$/.test(line) ? line : undefined
  })
}
