import { matchPattern, type Pattern, parsePattern } from './path-pattern.ts'

/** Says which paths are wanted; paths are relative to the work tree's root, with `/`. */
export type PathFilter = (path: string) => boolean

/** What git-lfs's `--include` and `--exclude`, `lfs.fetchinclude` and `lfs.fetchexclude` say: comma-separated patterns. */
export interface PathPatterns {
  /** Absent or empty: everything. */
  readonly include?: string | undefined
  /** Absent or empty: nothing. */
  readonly exclude?: string | undefined
}

/**
 * The filter that git-lfs makes of these patterns (filepathfilter/filepathfilter.go).
 * @throws {TimoneError} `config` for a pattern that git-lfs cannot read either
 */
export function pathFilter({ include, exclude }: PathPatterns): PathFilter {
  const included = splitPatterns(include)
  const excluded = splitPatterns(exclude)
  if (included.length === 0 && excluded.length === 0) return () => true
  return (path) => {
    // Patterns see bytes, as in git-lfs: a `?` is one byte of a letter that has more.
    const names = Buffer.from(path).toString('latin1').split('/')
    return (
      (included.length === 0 || included.some((pattern) => matchPattern(pattern, names))) &&
      !excluded.some((pattern) => matchPattern(pattern, names))
    )
  }
}

/** As git-lfs's `tools.CleanPaths`: an empty pattern between two commas stays, and matches nothing. */
function splitPatterns(text: string | undefined): Pattern[] {
  const trimmed = (text ?? '').trim()
  if (trimmed === '') return []
  return trimmed.split(',').map((part) => parsePattern(part.trim().replace(/[/\\]$/, '')))
}
