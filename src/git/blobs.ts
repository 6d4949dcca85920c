import { once } from 'node:events'
import { TimoneError } from '../errors.ts'
import type { GitProcess, LocalRepository } from './repository.ts'

/** A blob to be read, with what its caller wants to know with its content. */
export interface BlobRequest<T> {
  /** Object id, hexadecimal. */
  readonly blob: string
  readonly tag: T
}

/** A blob's content; undefined: the repository does not have it, or it is no blob. */
export interface BlobContent<T> {
  readonly tag: T
  readonly blob: string
  /** Valid until the next one is asked for. */
  readonly content: Buffer | undefined
}

const LINE_FEED = 0x0a

/**
 * Reads blobs through one `git cat-file --batch`, in the order asked for; the process takes only as many requests as
 * its reader keeps up with, so memory is flat. Meant for small blobs: each is held whole.
 * @throws {TimoneError} `config` when git fails
 */
export async function* readBlobs<T>(
  repository: LocalRepository,
  requests: AsyncIterable<readonly BlobRequest<T>[]>,
  env: Readonly<Record<string, string>> = {},
): AsyncGenerator<BlobContent<T>> {
  const git = repository.stream(['cat-file', '--batch', '--buffer'], { env })
  const asked: BlobRequest<T>[] = []
  let failure: unknown
  const feeding = feed(git, requests, asked).catch((error: unknown) => {
    failure = error
    git.stop()
  })
  let finished = false
  try {
    // Asked requests are dropped in slices: shift() of one by one would copy the rest each time.
    let next = 0
    let buffer: Buffer = Buffer.alloc(0)
    for await (const chunk of git.stdout as AsyncIterable<Buffer>) {
      buffer = buffer.length === 0 ? chunk : Buffer.concat([buffer, chunk])
      let at = 0
      for (;;) {
        const end = buffer.indexOf(LINE_FEED, at)
        if (end === -1) break
        const header = buffer.toString('latin1', at, end)
        const match = /^[0-9a-f]+ ([a-z]+) (\d+)$/.exec(header)
        let content: Buffer | undefined
        let after = end + 1
        if (match !== null) {
          after = end + 1 + Number(match[2]) + 1
          if (buffer.length < after) break
          if (match[1] === 'blob') content = buffer.subarray(end + 1, after - 1)
        }
        const request = asked[next++]
        if (request === undefined)
          throw new TimoneError('internal', 'git cat-file answered more than it was asked')
        if (next === 4096) {
          asked.splice(0, next)
          next = 0
        }
        at = after
        yield { ...request, content }
      }
      buffer = buffer.subarray(at)
    }
    await feeding
    if (failure !== undefined) throw failure
    await git.done
    if (next !== asked.length) throw new TimoneError('config', 'git cat-file ended before it had answered')
    finished = true
  } finally {
    if (!finished) git.stop()
  }
}

async function feed<T>(
  git: GitProcess,
  requests: AsyncIterable<readonly BlobRequest<T>[]>,
  asked: BlobRequest<T>[],
): Promise<void> {
  for await (const slice of requests) {
    if (slice.length === 0) continue
    let text = ''
    for (const request of slice) {
      asked.push(request)
      text += `${request.blob}\n`
    }
    if (git.stdin.destroyed) return
    if (!git.stdin.write(text)) await Promise.race([once(git.stdin, 'drain'), once(git.stdin, 'close')])
  }
  git.stdin.end()
}
