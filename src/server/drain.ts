import type { IncomingMessage, ServerResponse } from 'node:http'

/** How long the rest of a body is read after the answer, milliseconds. */
const LIMIT = 10_000

/**
 * Reads and drops what is left of a request's body. Most clients listen only when they have sent everything, and a
 * connection closed before that takes our answer with it. Who goes on sending for too long is cut off.
 */
export function drain(request: IncomingMessage, response: ServerResponse): void {
  if (request.readableEnded || request.destroyed) return
  request.resume()
  const cut = (): void => {
    if (request.complete) return
    const timer = setTimeout(() => request.socket.destroy(), LIMIT)
    request.once('close', () => clearTimeout(timer))
  }
  if (response.writableFinished) cut()
  else response.once('finish', cut)
}
