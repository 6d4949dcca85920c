import { spawn } from 'node:child_process'
import type { IncomingMessage, ServerResponse } from 'node:http'
import { pipeline } from 'node:stream/promises'
import { TimoneError } from '../errors.ts'
import { gitEnvironment } from './git-process.ts'

/** Bytes of the headers that git gives. */
const MAX_HEAD = 16 * 1024
/** Bytes that a client may send to say what it has and wants. */
const MAX_ASKED = 16 * 2 ** 20

export interface BackendRequest {
  /** Absolute path of the folder with the repositories. */
  root: string
  /** Name of the repository in it. */
  name: string
  route: 'info/refs' | 'git-upload-pack'
}

/**
 * Answers one request of a clone by `git http-backend` (git-http-backend(1), RFC 3875), which reads only: `REMOTE_USER` is
 * not set, and the repositories do not take pushes. Nothing of the client but what is named here reaches its environment.
 * @throws {TimoneError} `config` without git, `internal` when it gives no answer, `too_large`
 */
export async function answerByBackend(
  request: IncomingMessage,
  response: ServerResponse,
  { root, name, route }: BackendRequest,
): Promise<void> {
  const { 'content-type': type, 'content-encoding': encoding, 'git-protocol': protocol } = request.headers
  const git = spawn('git', ['http-backend'], {
    env: {
      ...gitEnvironment(),
      GIT_PROJECT_ROOT: root,
      GIT_HTTP_EXPORT_ALL: '1',
      PATH_INFO: `/${name}/${route}`,
      // Ours is the limit that is met.
      GIT_HTTP_MAX_REQUEST_BUFFER: String(2 * MAX_ASKED),
      REQUEST_METHOD: route === 'info/refs' ? 'GET' : 'POST',
      QUERY_STRING: route === 'info/refs' ? 'service=git-upload-pack' : '',
      ...(type === undefined ? {} : { CONTENT_TYPE: type }),
      ...(encoding === 'gzip' ? { HTTP_CONTENT_ENCODING: encoding } : {}),
      ...(typeof protocol === 'string' && /^[\w=:.-]{1,100}$/.test(protocol)
        ? { GIT_PROTOCOL: protocol }
        : {}),
    },
    stdio: ['pipe', 'pipe', 'ignore'],
    detached: true,
  })
  // Its own children, which make the pack, go with it.
  const end = (): void => {
    try {
      if (git.pid !== undefined && git.exitCode === null) process.kill(-git.pid, 'SIGTERM')
    } catch {
      // It has ended.
    }
  }
  response.once('close', end)
  const failed = new Promise<never>((_, reject) => {
    git.once('error', (cause) =>
      reject(new TimoneError('config', 'cannot run git: install it on the server', { cause })),
    )
  })
  failed.catch(() => {})
  git.stdin.on('error', () => {})
  // git gives its headers before it has read what is asked, and the rest after that.
  const askedAll = new Promise<void>((resolve, reject) => {
    let asked = 0
    request.on('data', (chunk: Buffer) => {
      asked += chunk.length
      if (asked > MAX_ASKED) reject(new TimoneError('too_large', 'the request is too long: clone anew'))
    })
    request.once('end', resolve).once('close', resolve)
    git.once('close', resolve)
  })
  askedAll.catch(end)
  request.pipe(git.stdin)
  try {
    const head = await Promise.race([readHead(git.stdout), failed])
    await askedAll
    if (head === undefined) throw new TimoneError('internal', 'git http-backend gave no answer')
    // From here on the pipeline sees it.
    response.off('close', end)
    response.setHeader('Cache-Control', 'no-store')
    if (head.type !== undefined) response.setHeader('Content-Type', head.type)
    response.writeHead(head.status)
    await pipeline(git.stdout, response)
  } finally {
    end()
  }
}

/** Reads up to the empty line, and leaves what follows in the stream. Undefined: it ended before. */
async function readHead(
  stdout: NodeJS.ReadableStream & { unshift(chunk: Buffer): void },
): Promise<{ status: number; type: string | undefined } | undefined> {
  let text = Buffer.alloc(0)
  return new Promise((resolve) => {
    const settle = (head: { status: number; type: string | undefined } | undefined): void => {
      stdout.off('readable', onReadable).off('end', onEnd)
      resolve(head)
    }
    const onEnd = (): void => settle(undefined)
    const onReadable = (): void => {
      for (let chunk = stdout.read(); chunk !== null; chunk = stdout.read()) {
        text = Buffer.concat([text, chunk as unknown as Buffer])
        const at = text.indexOf('\r\n\r\n')
        if (at < 0) {
          if (text.length <= MAX_HEAD) continue
          settle(undefined)
          return
        }
        const head = text.toString('latin1', 0, at)
        settle({
          status: Number(/^status: *(\d{3})/im.exec(head)?.[1] ?? 200),
          type: /^content-type: *([^\r\n]+)/im.exec(head)?.[1],
        })
        const rest = text.subarray(at + 4)
        if (rest.length > 0) stdout.unshift(rest)
        return
      }
    }
    stdout.on('readable', onReadable).on('end', onEnd)
  })
}
