/** A request's target, not decoded, nothing resolved. */
export interface RequestTarget {
  /** Begins with a slash. */
  path: string
  query: URLSearchParams
}

const MAX_PATH = 2000

/**
 * Splits the raw target of a request line (RFC 9112, section 3.2). Undefined: a path that cannot be one of ours,
 * because a segment is, or decodes to, `.`, `..` or nothing, or holds a slash, a backslash or a control character. Such
 * a path is never resolved: it would name something else than it says.
 */
export function parseTarget(raw: string): RequestTarget | undefined {
  // A proxy's absolute form; authority and scheme are of no concern.
  const origin = /^https?:\/\/[^/?#]*/i.exec(raw)?.[0] ?? ''
  const target = raw.slice(origin.length)
  const mark = target.indexOf('?')
  const path = mark < 0 ? target : target.slice(0, mark)
  if (path.length > MAX_PATH || !path.startsWith('/')) return undefined
  if (path !== '/' && !path.slice(1).split('/').every(isPlainSegment)) return undefined
  return { path, query: new URLSearchParams(mark < 0 ? '' : target.slice(mark + 1)) }
}

function isPlainSegment(segment: string): boolean {
  let text = segment
  try {
    text = decodeURIComponent(segment)
  } catch {
    return false
  }
  // biome-ignore lint/suspicious/noControlCharactersInRegex: they are what is refused
  return text !== '' && text !== '.' && text !== '..' && !/[/\\\x00-\x1f\x7f]/.test(text)
}
