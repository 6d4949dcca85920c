import type { IncomingMessage, ServerResponse } from 'node:http'

/** Headers that scripts may send (draft-dejong-remotestorage-26, section 7). */
const ALLOWED =
  'Authorization, Content-Length, Content-Type, Origin, X-Requested-With, If-Match, If-None-Match, Range'
/** Headers that scripts may read. */
const EXPOSED =
  'ETag, Content-Length, Content-Type, Content-Range, Last-Modified, Accept-Ranges, Retry-After, WWW-Authenticate'

/**
 * Sets what every answer of the storage has, errors too: any page may ask, for what it is shown depends on its token
 * alone; and whatever a document holds, it is shown without scripts, in an origin of its own.
 */
export function setStorageHeaders(request: IncomingMessage, response: ServerResponse): void {
  const { origin } = request.headers
  response.setHeader('Access-Control-Allow-Origin', origin ?? '*')
  response.setHeader('Vary', 'Origin')
  response.setHeader('Access-Control-Expose-Headers', EXPOSED)
  response.setHeader('Content-Security-Policy', "sandbox; default-src 'none'; frame-ancestors 'none'")
  response.setHeader('X-Content-Type-Options', 'nosniff')
  response.setHeader('Cross-Origin-Resource-Policy', 'cross-origin')
  response.setHeader('Referrer-Policy', 'no-referrer')
}

/** The answer to OPTIONS, whatever is asked about: it says nothing about what is there. */
export function answerPreflight(response: ServerResponse): void {
  response
    .writeHead(204, {
      'Access-Control-Allow-Methods': 'GET, HEAD, PUT, DELETE, OPTIONS',
      'Access-Control-Allow-Headers': ALLOWED,
      'Access-Control-Max-Age': '7200',
    })
    .end()
}
