import type { Readable } from 'node:stream'
import type { PutObjectCommand } from '@aws-sdk/client-s3'
import { type Expected, HashGate } from './hash-check.ts'
import { pour } from './pour.ts'

/** Bodies up to this size (bytes) are held in memory, so that they can be sent again; larger ones are streamed once. */
export const HELD_IN_MEMORY: number = 2 ** 20

/**
 * Checks `body` on its way to `send`. A small one is handed over whole, as a buffer; a large one is streamed, and the
 * request is stopped by its signal as soon as the body turns out wrong or breaks off. `body` itself is left as it is.
 * @throws `size_mismatch`, `hash_mismatch`, `connection`, `cancelled`, or what `send` throws
 */
export async function deliver<T>(
  body: Readable,
  expected: Expected,
  signal: AbortSignal | undefined,
  send: (content: Readable | Buffer, stop: AbortSignal | undefined) => Promise<T>,
): Promise<T> {
  const gate = new HashGate(expected)
  if (expected.size <= HELD_IN_MEMORY) {
    const chunks = gate.toArray()
    // When it fails, so does `pour`, which says why.
    chunks.catch(() => {})
    await pour(body, gate, signal)
    return send(Buffer.concat(await chunks), signal)
  }
  const stop = new AbortController()
  let broken: unknown
  const pouring = pour(body, gate, signal).catch((error: unknown) => {
    broken ??= error
    stop.abort()
  })
  try {
    return await send(gate, stop.signal)
  } catch (error) {
    const reason = broken ?? error
    // An answer that came early leaves a request half sent, which would keep its connection for ever.
    stop.abort()
    gate.destroy()
    await pouring
    throw reason
  }
}

/**
 * Signs the request with this payload hash, so that the store refuses other bytes. The SDK itself takes a hash that it
 * finds in the headers, and would otherwise leave a streamed body unsigned.
 */
export function pinPayloadHash(command: PutObjectCommand, sha256: string): void {
  command.middlewareStack.add(
    (next) => (args) => {
      const { headers } = args.request as { headers: Record<string, string> }
      headers['x-amz-content-sha256'] = sha256
      return next(args)
    },
    { step: 'build', name: 'pinPayloadHash' },
  )
}
