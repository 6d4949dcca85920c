import { Conversation } from './conversation.ts'
import { records } from './lines.ts'
import type { LocalRepository } from './repository.ts'

/** A blob of the repository, with what its caller knows about it. */
export interface Blob<T> {
  /** Object id, hexadecimal. */
  readonly blob: string
  readonly tag: T
}

/** A blob and what is in it. */
export interface BlobContent<T> extends Blob<T> {
  /** Valid until the next one is asked for. Undefined: the repository does not have it, or it is no blob. */
  readonly content: Buffer | undefined
}

type Slices<T> = AsyncIterable<readonly T[]> | Iterable<readonly T[]>

const LINE_FEED = 0x0a
const question = ({ blob }: Blob<unknown>) => `${blob}\n`
/** Newer git then says "missing" of what a partial clone left out, instead of fetching it, each with a connection of its own. */
const env = { GIT_NO_LAZY_FETCH: '1' }

/**
 * Reads blobs through one `git cat-file --batch`, in the order asked for. Memory is flat: git is asked for as much as
 * the caller takes. Meant for small blobs, each is held whole; {@link smallBlobs} finds those.
 * @throws {TimoneError} `config` when git fails
 */
export async function* readBlobs<T>(
  repository: LocalRepository,
  blobs: Slices<Blob<T>>,
): AsyncGenerator<BlobContent<T>> {
  const git = repository.stream(['cat-file', '--batch', '--buffer'], { env })
  const conversation = new Conversation(git, blobs, question)
  try {
    let buffer: Buffer = Buffer.alloc(0)
    for await (const chunk of git.stdout as AsyncIterable<Buffer>) {
      buffer = buffer.length === 0 ? chunk : Buffer.concat([buffer, chunk])
      let at = 0
      for (;;) {
        const end = buffer.indexOf(LINE_FEED, at)
        if (end === -1) break
        const [, type, size] = buffer.toString('latin1', at, end).split(' ')
        const held = size !== undefined && type !== 'ambiguous'
        const after = held ? end + 1 + Number(size) + 1 : end + 1
        if (buffer.length < after) break
        const content = held && type === 'blob' ? buffer.subarray(end + 1, after - 1) : undefined
        at = after
        const { blob, tag } = conversation.answered()
        yield { blob, tag, content }
      }
      buffer = buffer.subarray(at)
    }
    await conversation.end()
  } finally {
    git.stop()
  }
}

/**
 * Of these blobs the ones under `limit` bytes that the repository has, by one `git cat-file --batch-check`.
 * @throws {TimoneError} `config` when git fails
 */
export async function* smallBlobs<T>(
  repository: LocalRepository,
  blobs: Slices<Blob<T>>,
  limit: number,
): AsyncGenerator<readonly Blob<T>[]> {
  const git = repository.stream(['cat-file', '--batch-check', '--buffer'], { env })
  const conversation = new Conversation(git, blobs, question)
  try {
    for await (const lines of records(git.stdout, LINE_FEED)) {
      const small: Blob<T>[] = []
      for (const line of lines) {
        const asked = conversation.answered()
        const [, type, size] = line.toString('latin1').split(' ')
        if (type === 'blob' && Number(size) < limit) small.push(asked)
      }
      yield small
    }
    await conversation.end()
  } finally {
    git.stop()
  }
}
