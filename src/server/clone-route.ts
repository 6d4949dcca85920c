import type { IncomingMessage, ServerResponse } from 'node:http'
import { pipeline } from 'node:stream/promises'
import { TimoneError } from '../errors.ts'
import type { User } from '../identity/users.ts'
import { LFS_MEDIA_TYPE, parseBatchRequest } from '../lfs/wire.ts'
import { isOid, type Oid } from '../oid.ts'
import type { Doorkeeper } from '../remotestorage/admission.ts'
import { answerByBackend } from '../remotestorage/http-backend.ts'
import type { LargeDocuments } from '../remotestorage/large-documents.ts'
import type { Spaces } from '../remotestorage/spaces.ts'
import { FileBody } from '../storage/file-body.ts'
import { parseByteRange } from './byte-range.ts'
import { drain } from './drain.ts'
import { LoadGate } from './load-gate.ts'
import { readBody } from './read-body.ts'

export interface CloneRouteOptions {
  spaces: Spaces
  large: LargeDocuments
  doorkeeper: Doorkeeper
  /** Public URL of the server. */
  url: string
  /** Milliseconds without a byte after which a connection is given up. */
  idleTimeout: number
}

type Ask =
  | { kind: 'git'; login: string; route: 'info/refs' | 'git-upload-pack' }
  | { kind: 'batch'; login: string }
  | { kind: 'object'; login: string; oid: Oid; size: number }

/** Clones at once: git makes a pack for each. */
const MAX_CLONES = 8
/** Objects looked up at once. */
const LOOKUPS = 16
/** Seconds for which git-lfs may use an address: it shows the token again. */
const EXPIRES = 3600

/**
 * What is asked of `/storage/{login}.git`; undefined: a request of the storage protocol, for a login may end so. That
 * protocol has neither POST nor queries, and each of these has one of them.
 */
export function parseCloneTarget(method: string | undefined, target: string): Ask | undefined {
  const [, login, rest] = /^\/storage\/([a-z0-9._-]+)\.git\/(.+)$/i.exec(target) ?? []
  if (login === undefined || rest === undefined) return undefined
  if (method === 'GET' && /^info\/refs\?service=git-[a-z-]+$/.test(rest)) {
    if (rest.endsWith('=git-upload-pack')) return { kind: 'git', login, route: 'info/refs' }
    throw new TimoneError('forbidden', 'a storage can be cloned, and is written to by apps only')
  }
  if (method === 'POST' && rest === 'git-upload-pack') return { kind: 'git', login, route: rest }
  if (method === 'POST' && rest === 'info/lfs/objects/batch') return { kind: 'batch', login }
  const [, oid, size] = /^info\/lfs\/objects\/([0-9a-f]{64})\?size=(\d{1,15})$/.exec(rest) ?? []
  if (method === 'GET' && isOid(oid)) return { kind: 'object', login, oid, size: Number(size) }
  return undefined
}

/** `git clone` of a user's storage, large documents included, for tokens that may read all of it. */
export function createCloneRoute({ spaces, large, doorkeeper, url, idleTimeout }: CloneRouteOptions) {
  const clones = new LoadGate({ requests: MAX_CLONES, bytes: Number.MAX_SAFE_INTEGER })

  return async (
    request: IncomingMessage,
    response: ServerResponse,
    ask: Ask,
    source: string,
  ): Promise<void> => {
    request.socket.setTimeout(idleTimeout)
    try {
      const { authorization, origin } = request.headers
      const user = await doorkeeper.admitClone({ authorization, origin, source }, ask.login)
      if (ask.kind === 'git') await clone(request, response, user, ask.route)
      else if (ask.kind === 'batch') await batch(request, response, user)
      else await object(request, response, user, ask)
    } finally {
      drain(request, response)
    }
  }

  async function clone(
    request: IncomingMessage,
    response: ServerResponse,
    user: User,
    route: 'info/refs' | 'git-upload-pack',
  ): Promise<void> {
    const space = spaces.of(user.id)
    if ((await space.snapshot()).commit === undefined)
      throw new TimoneError('not_found', 'nothing was stored yet')
    const visit = clones.enter()
    visit.start()
    try {
      await answerByBackend(request, response, { root: spaces.root, name: `${user.id}.git`, route })
    } finally {
      visit.leave()
    }
  }

  async function batch(request: IncomingMessage, response: ServerResponse, user: User): Promise<void> {
    const body = await readBody(request, { limit: idleTimeout, take: () => {} })
    const { operation, objects } = parseBatchRequest(parseJson(body))
    if (operation !== 'download')
      throw new TimoneError('forbidden', 'a storage can be cloned, and is written to by apps only')
    const answers: object[] = []
    for (let at = 0; at < objects.length; at += LOOKUPS) {
      const some = objects.slice(at, at + LOOKUPS)
      answers.push(
        ...(await Promise.all(
          some.map(async ({ oid, size }) => {
            if (!isOid(oid) || size === undefined || !(await large.has(user.id, { oid, size })))
              return { oid, size: size ?? 0, error: { code: 404, message: 'no such object' } }
            const href = `${url}/storage/${user.login}.git/info/lfs/objects/${oid}?size=${size}`
            // git-lfs sends the token that it asked with: it needs no other.
            return { oid, size, actions: { download: { href, expires_in: EXPIRES } } }
          }),
        )),
      )
    }
    const text = Buffer.from(JSON.stringify({ transfer: 'basic', objects: answers, hash_algo: 'sha256' }))
    const head = {
      'Content-Type': LFS_MEDIA_TYPE,
      'Content-Length': text.length,
      'Cache-Control': 'no-store',
    }
    response.writeHead(200, head).end(text)
  }

  async function object(
    request: IncomingMessage,
    response: ServerResponse,
    user: User,
    { oid, size }: { oid: Oid; size: number },
  ): Promise<void> {
    if (!(await large.has(user.id, { oid, size }))) throw new TimoneError('not_found', 'no such object')
    const range = parseByteRange(request.headers.range, size)
    if (range === 'unsatisfiable') {
      return void response.writeHead(416, { 'Content-Range': `bytes */${size}`, 'Content-Length': 0 }).end()
    }
    const part = range === 'whole' ? undefined : range
    const body = await large.open(user.id, oid, part)
    response.setHeader('Cache-Control', 'no-store')
    response.setHeader('Content-Type', 'application/octet-stream')
    response.setHeader('Content-Length', part === undefined ? size : part.end - part.start + 1)
    if (part !== undefined) response.setHeader('Content-Range', `bytes ${part.start}-${part.end}/${size}`)
    response.writeHead(part === undefined ? 200 : 206)
    await (body instanceof FileBody ? body.sendTo(response) : pipeline(body, response))
  }
}

function parseJson(body: Buffer): unknown {
  try {
    return JSON.parse(body.toString('utf8'))
  } catch {
    throw new TimoneError('invalid', 'the body must be JSON')
  }
}
