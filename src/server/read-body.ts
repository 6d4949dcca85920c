import type { IncomingMessage } from 'node:http'
import { TimoneError } from '../errors.ts'
import { MAX_BODY, tooLarge } from './load-gate.ts'

/** Bytes of the body as announced; undefined when it comes in chunks. */
export function announcedLength(request: IncomingMessage): number | undefined {
  const length = request.headers['content-length']
  if (length !== undefined) return Number(length)
  return request.headers['transfer-encoding'] === undefined ? 0 : undefined
}

/**
 * The whole body of a request on a JSON route. A client that takes longer than `limit` milliseconds is cut off.
 * @throws {TimoneError} `too_large` as soon as it is over 8 MiB, `cancelled` when the client leaves.
 */
export function readBody(request: IncomingMessage, limit: number): Promise<Buffer> {
  if (announcedLength(request) === 0) return Promise.resolve(Buffer.alloc(0))
  return new Promise((resolve, reject) => {
    const chunks: Buffer[] = []
    let size = 0
    const settle = (): void => {
      clearTimeout(timer)
      request.off('data', onData).off('end', onEnd).off('close', onClose)
    }
    const onData = (chunk: Buffer): void => {
      size += chunk.length
      chunks.push(chunk)
      if (size <= MAX_BODY) return
      settle()
      reject(tooLarge())
    }
    const onEnd = (): void => {
      settle()
      resolve(Buffer.concat(chunks, size))
    }
    const onClose = (): void => {
      settle()
      reject(new TimoneError('cancelled', 'the client left before its request was complete'))
    }
    const timer = setTimeout(() => request.socket.destroy(), limit)
    request.on('data', onData).on('end', onEnd).on('close', onClose)
  })
}
