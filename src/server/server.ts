import { createServer as createHttpServer } from 'node:http'
import type { AddressInfo, Socket } from 'node:net'
import { createHandler, type Handler, type HandlerOptions } from './handler.ts'
import { errorFields } from './logger.ts'

/** How long the server waits, milliseconds. */
export interface TimeLimits {
  /** For the head of a request. */
  headers: number
  /** For the body of a request on JSON routes. */
  body: number
  /** For the next byte of an object, or until the client takes more of an answer. */
  idle: number
  /** Until the client has taken the whole answer of a JSON route. */
  answer: number
  /** For the next request on a connection; longer than the proxies before us, or they use connections that just closed. */
  keepAlive: number
  /** For requests under way when the server stops. */
  drain: number
}

export const TIME_LIMITS: TimeLimits = {
  headers: 20_000,
  body: 30_000,
  idle: 60_000,
  answer: 300_000,
  keepAlive: 75_000,
  drain: 30_000,
}

/** Bytes of a request's head: room for the longest token as Basic password. */
const MAX_HEADERS = 64 * 1024
/** Milliseconds for the first request of a new connection when the server stops. */
const GRACE = 500

export interface ServerOptions extends Omit<HandlerOptions, 'url'> {
  /** Public URL, without a slash at its end; undefined: `http://` and the address listened on. */
  url?: string | undefined
  limits?: Partial<TimeLimits>
}

export interface TimoneServer {
  /** Starts to listen; port 0 takes a free one. Gives the address as URL. @throws the system's error, `EADDRINUSE` … */
  listen(address: { host: string; port: number }): Promise<string>
  /** Takes no more requests and waits for those under way. False: some took too long and were cut off. */
  close(): Promise<boolean>
  /** Cuts everything off. */
  destroy(): void
}

/** The server: bytes of objects on plain node:http, everything else through the app. Signals are the caller's affair. */
export function createServer(options: ServerOptions): TimoneServer {
  const limits = { ...TIME_LIMITS, ...options.limits }
  let handle: Handler = (_request, response) => void response.destroy()
  let draining = false
  // node:http does not count a connection as idle before its first request.
  const unused = new Set<Socket>()
  const server = createHttpServer(
    {
      headersTimeout: limits.headers,
      // An object may take hours; JSON routes have a limit of their own.
      requestTimeout: 0,
      keepAliveTimeout: limits.keepAlive,
      maxHeaderSize: MAX_HEADERS,
      connectionsCheckingInterval: Math.min(5_000, limits.headers),
    },
    (request, response) => {
      unused.delete(request.socket)
      if (draining) response.setHeader('Connection', 'close')
      // Node closes idle connections once, when it stops listening; those that become idle later are ours to close.
      response.once('close', () => {
        if (draining) setImmediate(() => server.closeIdleConnections())
      })
      handle(request, response)
    },
  )

  server.on('connection', (socket: Socket) => {
    unused.add(socket)
    socket.once('close', () => unused.delete(socket))
  })

  return {
    listen: ({ host, port }) =>
      new Promise((resolve, reject) => {
        server.once('error', reject)
        server.listen({ host, port }, () => {
          server.off('error', reject)
          server.on('error', (error) => options.logger.error(errorFields(error), 'server error'))
          const at = server.address() as AddressInfo
          const url = `http://${at.family === 'IPv6' ? `[${at.address}]` : at.address}:${at.port}`
          handle = createHandler({ ...options, url: options.url ?? url }, limits)
          resolve(url)
        })
      }),
    close: () =>
      new Promise((resolve) => {
        draining = true
        let clean = true
        const timer = setTimeout(() => {
          clean = false
          server.closeAllConnections()
        }, limits.drain)
        server.close(() => {
          clearTimeout(timer)
          resolve(clean)
        })
        server.closeIdleConnections()
        // A request may be on its way on those.
        const grace = setTimeout(() => {
          for (const socket of unused) socket.destroy()
        }, GRACE)
        server.once('close', () => clearTimeout(grace))
      }),
    destroy: () => {
      server.close()
      server.closeAllConnections()
    },
  }
}
