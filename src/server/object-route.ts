import type { IncomingMessage, ServerResponse } from 'node:http'
import { pipeline } from 'node:stream/promises'
import { keyOf } from '../access/object-location.ts'
import type { ObjectGrant, SignedUrls } from '../access/signed-urls.ts'
import { TimoneError } from '../errors.ts'
import { isOid, type Oid } from '../oid.ts'
import { parseRepository, type Repository } from '../repository.ts'
import { FileBody } from '../storage/file-body.ts'
import type { ObjectStore } from '../storage/object-store.ts'
import { parseByteRange } from './byte-range.ts'
import { drain } from './drain.ts'
import type { RequestTarget } from './request-target.ts'

export interface ObjectRouteOptions {
  store: ObjectStore
  urls: SignedUrls
  /** Milliseconds without a byte after which a connection is given up. */
  idleTimeout: number
}

type Method = 'GET' | 'HEAD' | 'PUT'

/** Handles a request for an object's bytes, or throws a {@link TimoneError} before anything was answered. */
export type ObjectRoute = (
  request: IncomingMessage,
  response: ServerResponse,
  target: RequestTarget,
) => Promise<void>

const PATH = /^\/([^/]+)\/([^/]+)\/object\/([^/]+)$/

/** True for the paths of {@link createObjectRoute}: `/{org}/{repo}/object/{oid}`. */
export function isObjectPath(path: string): boolean {
  return PATH.test(path)
}

/**
 * The bytes of the file store, on plain node:http: streamed with back-pressure, a few hundred KiB of memory each,
 * nothing without a URL signed by {@link SignedUrls}. One Range (RFC 9110, section 14), If-Match and If-Range.
 */
export function createObjectRoute({ store, urls, idleTimeout }: ObjectRouteOptions): ObjectRoute {
  return async (request, response, target) => {
    const object = parsePath(target.path)
    const method = request.method as Method
    if (store.driver !== 'file' || !['GET', 'HEAD', 'PUT'].includes(method)) throw absent()
    // Not the keep-alive time-out: that one is for silence between requests. node:http sets it back afterwards.
    request.socket.setTimeout(idleTimeout)
    try {
      const grant = urls.check(method, object, target.query)
      if (method === 'PUT') await put(store, grant, request, response)
      else await get(store, grant, method, request, response)
    } finally {
      drain(request, response)
    }
  }
}

async function put(
  store: ObjectStore,
  grant: ObjectGrant,
  request: IncomingMessage,
  response: ServerResponse,
): Promise<void> {
  const { oid, size, part, replace = false } = grant
  if (request.headers['content-length'] !== String(size)) {
    throw new TimoneError('size_mismatch', `this link is for exactly ${size} bytes (Content-Length)`)
  }
  const key = keyOf('', grant)
  const gone = new AbortController()
  response.once('close', () => gone.abort())
  // The store may have to flush for longer than a silence may last.
  request.once('end', () => request.socket.setTimeout(0))
  const { signal } = gone
  if (part !== undefined) {
    const stored = await store.putPart(key, part.uploadId, part.number, request, { size, signal })
    response.setHeader('ETag', stored.etag)
  } else if (replace || (await store.head(key))?.size !== size) {
    await store.put(key, request, { size, sha256: oid, replace, signal })
  }
  response.writeHead(200, { 'Content-Length': 0 }).end()
}

async function get(
  store: ObjectStore,
  grant: ObjectGrant,
  method: 'GET' | 'HEAD',
  request: IncomingMessage,
  response: ServerResponse,
): Promise<void> {
  const key = keyOf('', grant)
  const info = await store.head(key)
  if (info === undefined) throw new TimoneError('not_found', `object ${grant.oid} is not on the server`)
  const { range: asked, 'if-match': ifMatch, 'if-range': ifRange } = request.headers
  if (ifMatch !== undefined && ifMatch !== '*' && !listed(ifMatch, info.etag)) {
    throw new TimoneError('precondition_failed', `object ${grant.oid} has been replaced meanwhile`)
  }
  const range = ifRange === undefined || ifRange === info.etag ? parseByteRange(asked, info.size) : 'whole'
  response.setHeader('Accept-Ranges', 'bytes')
  response.setHeader('ETag', info.etag)
  response.setHeader('X-Content-Type-Options', 'nosniff')
  response.setHeader('Cache-Control', 'private')
  if (range === 'unsatisfiable') {
    response.writeHead(416, { 'Content-Range': `bytes */${info.size}`, 'Content-Length': 0 }).end()
    return
  }
  response.setHeader('Content-Type', 'application/octet-stream')
  const part = range === 'whole' ? undefined : range
  const length = part === undefined ? info.size : part.end - part.start + 1
  const headers = {
    'Content-Length': length,
    ...(part === undefined ? {} : { 'Content-Range': `bytes ${part.start}-${part.end}/${info.size}` }),
  }
  if (method === 'HEAD') {
    response.writeHead(part === undefined ? 200 : 206, headers).end()
    return
  }
  const { body } = await store.get(key, {
    ifMatch: info.etag,
    ...(part === undefined ? {} : { range: part }),
  })
  response.writeHead(part === undefined ? 200 : 206, headers)
  await (body instanceof FileBody ? body.sendTo(response) : pipeline(body, response))
}

function listed(header: string, etag: string): boolean {
  return header.split(',').some((tag) => tag.trim() === etag)
}

function parsePath(path: string): { repository: Repository; oid: Oid } {
  const [, org = '', repo = '', oid] = PATH.exec(path) ?? []
  const repository = parseRepository(org, repo)
  if (!isOid(oid)) throw absent()
  return { repository, oid }
}

function absent(): TimoneError {
  return new TimoneError('not_found', 'not found')
}
