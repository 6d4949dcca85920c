import type { IncomingMessage, ServerResponse } from 'node:http'
import { Readable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import { isTimoneError, TimoneError } from '../errors.ts'
import type { User } from '../identity/users.ts'
import { type Admission, type Doorkeeper, isPublicDocument } from '../remotestorage/admission.ts'
import { checkPreconditions, matchesWeakly } from '../remotestorage/change.ts'
import { LISTING_TYPE } from '../remotestorage/listing.ts'
import { parseStoragePath, type StoragePath } from '../remotestorage/names.ts'
import type { Storage } from '../remotestorage/storage.ts'
import { FileBody } from '../storage/file-body.ts'
import { parseByteRange } from './byte-range.ts'
import { drain } from './drain.ts'
import { LoadGate } from './load-gate.ts'
import { answerPreflight } from './storage-headers.ts'

export interface StorageRouteOptions {
  storage: Storage
  doorkeeper: Doorkeeper
  /** Milliseconds without a byte after which a connection is given up. */
  idleTimeout: number
}

export interface StorageTarget {
  /** As it came, nothing decoded or resolved. */
  path: string
  /** Address that the request came from. */
  source: string
}

/** Documents that arrive at once: of each, up to the size of a large one is in memory. */
const MAX_ARRIVING = 128
/** Bytes of a `Content-Type`. */
const MAX_TYPE = 400

/** True for the raw targets of {@link createStorageRoute}: `/storage/{login}/…`. */
export function isStorageTarget(target: string): boolean {
  return target.startsWith('/storage/')
}

/** The raw path of a target, nothing decoded or resolved. */
export function rawPath(target: string): string {
  return target.split('?', 1)[0] as string
}

/**
 * The storage protocol on plain node:http (draft-dejong-remotestorage-26): the path is read as it came, since a router
 * resolves dot segments across users.
 */
export function createStorageRoute({ storage, doorkeeper, idleTimeout }: StorageRouteOptions) {
  const load = new LoadGate({ requests: MAX_ARRIVING, bytes: Number.MAX_SAFE_INTEGER })

  return async (
    request: IncomingMessage,
    response: ServerResponse,
    { path: raw, source }: StorageTarget,
  ): Promise<void> => {
    if (request.method === 'OPTIONS') return answerPreflight(response)
    const { login, path } = parse(raw)
    const method = request.method ?? ''
    const write = method === 'PUT' || method === 'DELETE'
    if (!write && method !== 'GET' && method !== 'HEAD') {
      throw new TimoneError('method_not_allowed', 'the storage knows GET, HEAD, PUT and DELETE')
    }
    request.socket.setTimeout(idleTimeout)
    try {
      const { authorization, origin } = request.headers
      const admission = await doorkeeper.admit({ authorization, origin, source }, { login, path, write })
      if (write) {
        if (path.folder) throw new TimoneError('malformed', 'folders come and go with their documents')
        if (method === 'DELETE') return await remove(request, response, admission, path)
        const visit = load.enter()
        visit.start()
        try {
          await put(request, response, admission, path)
        } finally {
          visit.leave()
        }
        return
      }
      response.setHeader('Cache-Control', isPublicDocument(path) ? 'no-cache, public' : 'no-cache')
      if (path.folder) await list(request, response, admission.user, path)
      else
        await get(request, response, admission.user, path).catch((error: unknown) => {
          if (isTimoneError(error, 'not_found') && admission.client === undefined)
            doorkeeper.missed({ source })
          throw error
        })
    } finally {
      drain(request, response)
    }
  }

  async function put(
    request: IncomingMessage,
    response: ServerResponse,
    { user, client = '' }: Admission,
    { segments }: StoragePath,
  ): Promise<void> {
    const { headers } = request
    if (headers['content-range'] !== undefined) {
      throw new TimoneError('malformed', 'a document is stored whole: leave out Content-Range')
    }
    const encoding = headers['content-encoding'] ?? 'identity'
    if (encoding !== 'identity')
      throw new TimoneError('malformed', 'send the document without Content-Encoding')
    const type = headers['content-type'] ?? 'application/octet-stream'
    if (type.length > MAX_TYPE) throw new TimoneError('malformed', `Content-Type may have ${MAX_TYPE} bytes`)
    const length = headers['content-length'] === undefined ? undefined : Number(headers['content-length'])
    request.once('end', () => request.socket.setTimeout(0))
    const changed = await storage.put(user, segments, request, {
      type,
      length,
      client,
      ...preconditionsOf(request),
    })
    response.writeHead(changed.created ? 201 : 200, { ETag: changed.etag, 'Content-Length': 0 }).end()
  }

  async function remove(
    request: IncomingMessage,
    response: ServerResponse,
    { user, client = '' }: Admission,
    { segments }: StoragePath,
  ): Promise<void> {
    const { etag } = await storage.delete(user, segments, { client, ...preconditionsOf(request) })
    response.writeHead(200, { ETag: etag, 'Content-Length': 0 }).end()
  }

  async function list(
    request: IncomingMessage,
    response: ServerResponse,
    user: User,
    { segments }: StoragePath,
  ): Promise<void> {
    const { etag, print } = await storage.folder(user, segments)
    response.setHeader('ETag', etag)
    if (unchanged(request, etag)) return void response.writeHead(304).end()
    checkPreconditions(etag, { ifMatch: request.headers['if-match'] })
    response.writeHead(200, { 'Content-Type': LISTING_TYPE })
    if (request.method === 'HEAD') return void response.end()
    // In its own pace: nobody waits while a long one is put together, and only pieces of it are in memory.
    await pipeline(Readable.from(print()), response)
  }

  async function get(
    request: IncomingMessage,
    response: ServerResponse,
    user: User,
    { segments }: StoragePath,
  ): Promise<void> {
    const { etag, type, length, modified, open } = await storage.document(user, segments)
    const { range: asked, 'if-range': ifRange, 'if-match': ifMatch } = request.headers
    checkPreconditions(etag, { ifMatch })
    response.setHeader('ETag', etag)
    response.setHeader('Last-Modified', new Date(modified).toUTCString())
    response.setHeader('Accept-Ranges', 'bytes')
    if (unchanged(request, etag)) return void response.writeHead(304).end()
    // Of HEAD, no part is ever asked for (RFC 9110, section 14.2).
    const mayBePart = request.method === 'GET' && (ifRange === undefined || ifRange === etag)
    const range = mayBePart ? parseByteRange(asked, length) : 'whole'
    if (range === 'unsatisfiable') {
      return void response.writeHead(416, { 'Content-Range': `bytes */${length}`, 'Content-Length': 0 }).end()
    }
    const part = range === 'whole' ? undefined : range
    response.setHeader('Content-Type', type)
    response.setHeader('Content-Length', part === undefined ? length : part.end - part.start + 1)
    if (part !== undefined) response.setHeader('Content-Range', `bytes ${part.start}-${part.end}/${length}`)
    const status = part === undefined ? 200 : 206
    if (request.method === 'HEAD') return void response.writeHead(status).end()
    const body = await open(part)
    response.writeHead(status)
    if (Buffer.isBuffer(body)) response.end(body)
    else await (body instanceof FileBody ? body.sendTo(response) : pipeline(body, response))
  }
}

function parse(raw: string): { login: string; path: StoragePath } {
  const [, login, rest] = /^\/storage\/([^/]+)(\/.*)?$/.exec(raw) ?? []
  // Logins need no escapes: what has one is nobody's.
  if (login === undefined) throw new TimoneError('not_found', 'not found')
  return { login, path: parseStoragePath(rest ?? '/') }
}

function preconditionsOf({ headers }: IncomingMessage) {
  return { ifMatch: headers['if-match'], ifNoneMatch: headers['if-none-match'] }
}

function unchanged({ headers }: IncomingMessage, etag: string): boolean {
  const list = headers['if-none-match']
  return list !== undefined && matchesWeakly(list, etag)
}
