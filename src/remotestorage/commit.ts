import { TimoneError } from '../errors.ts'

/** What we need to know of a commit. */
export interface Commit {
  readonly tree: string
  /** Bytes of all documents together, as the commit says. */
  readonly bytes: number
}

/** Who writes. */
export interface Author {
  /** Login of the user. */
  readonly login: string
  readonly email: string | null
  /** Origin of the app that does it for them. */
  readonly client: string
}

export interface CommitText extends Commit {
  readonly parent: string | undefined
  /** First line of the message; without line feeds. */
  readonly subject: string
  readonly author: Author
  /** Milliseconds since the epoch. */
  readonly at: number
  /** When it was first done, where that was elsewhere and earlier. */
  readonly authoredAt?: number
  /** Lines behind the message, `Name: value`. */
  readonly trailers?: readonly string[]
}

/** Content of a commit object (gitformat-commit): the user is the author, the trailers say the rest. */
export function printCommit(commit: CommitText): Buffer {
  const { tree, bytes, parent, subject, author, at, authoredAt = at, trailers = [] } = commit
  const who = `${word(author.login)} <${word(author.email ?? author.login)}>`
  const time = (milliseconds: number): string => `${Math.floor(milliseconds / 1000)} +0000`
  const lines = [
    `tree ${tree}`,
    ...(parent === undefined ? [] : [`parent ${parent}`]),
    `author ${who} ${time(authoredAt)}`,
    `committer ${who} ${time(at)}`,
    '',
    subject,
    '',
    `Client: ${word(author.client)}`,
    ...trailers,
    `Bytes: ${bytes}`,
    '',
  ]
  return Buffer.from(lines.join('\n'))
}

/** @throws {TimoneError} `internal` when it is no commit. */
export function parseCommit(content: Buffer): Commit {
  const text = content.toString('utf8')
  const [, tree] = /^tree ([0-9a-f]{40})\n/.exec(text) ?? []
  if (tree === undefined) throw new TimoneError('internal', 'the main branch of a storage is damaged')
  const [, bytes = '0'] = /\nBytes: (\d+)\s*$/.exec(text) ?? []
  return { tree, bytes: Number(bytes) }
}

/** When a commit was made, milliseconds since the epoch; whatever else wrote it, a time that a `Date` can hold. */
export function committedAt(content: Buffer): number {
  const [, seconds = '0'] = /\ncommitter [^\n]*?(\d+) [+-]\d{4}\n/.exec(content.toString('latin1')) ?? []
  return Math.min(Number(seconds), MAX_SECONDS) * 1000
}

/** The end of the year 9999. */
const MAX_SECONDS = 253_402_300_799

/** Names and addresses of commits hold neither angle brackets nor line feeds (git ident.c, `crud`). */
function word(text: string): string {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: they are what is taken out
  return text.replace(/[\x00-\x1f\x7f<>]/g, '').trim() || 'nobody'
}
