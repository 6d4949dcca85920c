import { randomUUID } from 'node:crypto'
import type { IncomingMessage, ServerResponse } from 'node:http'
import type { Logger } from '../log.ts'
import type { ClientAddresses } from './client-address.ts'
import type { RequestTarget } from './request-target.ts'

/** What the server knows of one request beside the request; its log line is made from it. */
export interface RequestRecord {
  /** Ours, or the proxy's where it sent a sane one. */
  readonly id: string
  /** The path alone: a query may hold a signature, an authority a password. Empty where there is no sane one. */
  readonly path: string
  /** Address that the request came from, through proxies that are trusted; empty when it has gone already. */
  readonly address: string
  /** Who asked, once a route knows. */
  subject?: string | undefined
}

/** Begins the record of a request, and writes its one line when the answer is out or the client gone. */
export function recordRequest(
  logger: Logger,
  request: IncomingMessage,
  response: ServerResponse,
  target: RequestTarget | undefined,
  addresses: ClientAddresses,
): RequestRecord {
  const given = request.headers['x-request-id']
  const sane = typeof given === 'string' && /^[A-Za-z0-9._:/+=-]{1,128}$/.test(given)
  const path = target?.path.slice(0, 500) ?? ''
  const { socket } = request
  const record: RequestRecord = {
    id: sane ? given : randomUUID(),
    path,
    address: addresses.of(socket.remoteAddress, request.headers['x-forwarded-for']),
  }
  const started = performance.now()
  const written = socket.bytesWritten
  response.once('close', () => {
    const fields = {
      request_id: record.id,
      method: request.method,
      path,
      status: response.headersSent ? response.statusCode : 0,
      complete: response.writableFinished,
      ms: Math.round(performance.now() - started),
      bytes_in: Number(request.headers['content-length'] ?? 0),
      bytes_out: socket.bytesWritten - written,
      subject: record.subject,
    }
    logger.info(fields, 'request')
  })
  return record
}
