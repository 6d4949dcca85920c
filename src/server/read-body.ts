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
 * `take` is told of the bytes as they arrive, and may throw to refuse them.
 * @throws {TimoneError} `too_large` as soon as it is over 8 MiB, or announced to be; `cancelled` when the client leaves;
 * what `take` threw.
 */
export function readBody(
  request: IncomingMessage,
  { limit, take }: { limit: number; take: (bytes: number) => void },
): Promise<Buffer> {
  const announced = announcedLength(request)
  if (announced === 0) return Promise.resolve(Buffer.alloc(0))
  return new Promise((resolve, reject) => {
    if ((announced ?? 0) > MAX_BODY) return reject(tooLarge())
    if (request.destroyed) return reject(left())
    const chunks: Buffer[] = []
    let size = 0
    const settle = (): void => {
      clearTimeout(timer)
      request.off('data', onData).off('end', onEnd).off('close', onClose)
    }
    const onData = (chunk: Buffer): void => {
      size += chunk.length
      try {
        if (size > MAX_BODY) throw tooLarge()
        take(chunk.length)
        chunks.push(chunk)
      } catch (error) {
        settle()
        reject(error)
      }
    }
    const onEnd = (): void => {
      settle()
      resolve(Buffer.concat(chunks, size))
    }
    const onClose = (): void => {
      settle()
      reject(left())
    }
    const timer = setTimeout(() => request.socket.destroy(), limit)
    request.on('data', onData).on('end', onEnd).on('close', onClose)
  })
}

function left(): TimoneError {
  return new TimoneError('cancelled', 'the client left before its request was complete')
}
