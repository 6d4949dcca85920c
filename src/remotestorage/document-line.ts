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
const TYPE = 'rs-type='
const LENGTH = ' rs-length='
const MODIFIED = ' rs-modified='

/**
 * One line of `.gitattributes` (gitattributes(5)), without its line feed. `-text` keeps clones from converting line
 * ends. Everything is ASCII or UTF-8 without control characters, as git reads it.
 */
export function printLine(gitName: string, facts: DocumentFacts): string {
  const { type, length, modified, large } = facts
  const words = `${TYPE}${encodeType(type)}${LENGTH}${length}${MODIFIED}${modified}`
  return `${printPattern(gitName)} -text ${large ? LFS : ''}${words}`
}

/** The name that a line is about, as Git has it; undefined: not one of our lines. */
export function lineName(line: string): string | undefined {
  const [, quoted] = /^"\/((?:[^"\\]|\\.)*)" /.exec(line) ?? []
  return quoted?.includes('\\') ? parsePattern(quoted) : quoted
}

/** What a line of ours says. It ends with the words that {@link printLine} puts there; the name may hold the like. */
export function lineFacts(line: string): DocumentFacts {
  const at = line.lastIndexOf(TYPE)
  if (at < 0) return { type: '', length: 0, modified: 0, large: false }
  const length = line.indexOf(LENGTH, at)
  const modified = line.indexOf(MODIFIED, length)
  const type = line.slice(at + TYPE.length, length)
  return {
    type: type.includes('%') ? decodeURIComponent(type) : type,
    length: Number(line.slice(length + LENGTH.length, modified)),
    modified: Number(line.slice(modified + MODIFIED.length)),
    large: line.startsWith(LFS, at - LFS.length),
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
