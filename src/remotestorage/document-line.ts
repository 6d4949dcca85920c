/** What `.gitattributes` says of a document: everything that is not in its blob. */
export interface DocumentFacts {
  /** `Content-Type`, as it was sent. */
  readonly type: string
  /** Bytes of the document, also where the blob is an LFS pointer. */
  readonly length: number
  /** Milliseconds since the epoch. */
  readonly modified: number
  /** The blob is an LFS pointer. */
  readonly large: boolean
}

const LFS = 'filter=lfs diff=lfs merge=lfs '

/**
 * One line of `.gitattributes` (gitattributes(5)), without its line feed. `-text` keeps clones from converting line
 * ends. Everything is ASCII or UTF-8 without control characters, as git reads it.
 */
export function printLine(gitName: string, facts: DocumentFacts): string {
  const { type, length, modified, large } = facts
  const words = `rs-type=${encodeType(type)} rs-length=${length} rs-modified=${modified}`
  return `${printPattern(gitName)} -text ${large ? LFS : ''}${words}`
}

/** Undefined: not one of our lines. */
export function parseLine(line: string): { gitName: string; facts: () => DocumentFacts } | undefined {
  const [, quoted, rest = ''] = /^"\/((?:[^"\\]|\\.)*)" (.*)$/.exec(line) ?? []
  if (quoted === undefined) return undefined
  const gitName = quoted.includes('\\') ? parsePattern(quoted) : quoted
  return { gitName, facts: () => parseFacts(rest) }
}

function parseFacts(words: string): DocumentFacts {
  const [, type = '', length, modified] =
    / ?rs-type=(\S*) rs-length=(\d+) rs-modified=(\d+)/.exec(words) ?? []
  return {
    type: decodeURIComponent(type),
    length: Number(length ?? 0),
    modified: Number(modified ?? 0),
    large: words.includes(LFS),
  }
}

/** Slash, plus, dot and the like stay readable; a value ends at white space. */
function encodeType(type: string): string {
  return encodeURIComponent(type).replaceAll('%2F', '/').replaceAll('%2B', '+').replaceAll('%3B', ';')
}

/** A pattern that matches just this name in this folder, quoted in C's way (git quote.c, `unquote_c_style`). */
function printPattern(name: string): string {
  // First for wildmatch, then for the quotes.
  const glob = name.replace(/[\\*?[\]]/g, '\\$&')
  const quoted = glob.replace(/[\\"]/g, '\\$&')
  const octal = (c: string): string => `\\${c.charCodeAt(0).toString(8).padStart(3, '0')}`
  // biome-ignore lint/suspicious/noControlCharactersInRegex: these have to be written otherwise
  return `"/${quoted.replace(/[\x00-\x1f\x7f]/g, octal)}"`
}

function parsePattern(quoted: string): string {
  const glob = quoted.replace(/\\(\d{3}|.)/g, (_, c: string) =>
    c.length === 3 ? String.fromCharCode(Number.parseInt(c, 8)) : c,
  )
  return glob.replace(/\\(.)/gs, '$1')
}
