import { decode, encode } from '@msgpack/msgpack'
import { IdentError } from './ident-error.ts'

/** Bytes of a request; one is a handful of short texts. */
export const MAX_REQUEST = 2 ** 20
/** Deepest nesting of a request's values. */
const MAX_DEPTH = 32

/**
 * The value in a request's body. Whole numbers beyond 2^53 come as text, for they cannot be numbers here.
 * @throws {IdentError} `decode_error`
 */
export function decodeBody(body: Uint8Array): unknown {
  if (body.length > MAX_REQUEST) throw new IdentError('decode_error', 'the request is too large')
  let value: unknown
  try {
    value = decode(body, { useBigInt64: true })
  } catch {
    throw new IdentError('decode_error', 'the body is not msgpack')
  }
  return fromWire(value, 0)
}

export function encodeBody(value: unknown): Buffer {
  return Buffer.from(encode(toWire(value), { useBigInt64: true, ignoreUndefined: true }))
}

function fromWire(value: unknown, depth: number): unknown {
  if (depth > MAX_DEPTH) throw new IdentError('decode_error', 'the request is nested too deeply')
  if (typeof value === 'bigint') {
    const number = Number(value)
    return Number.isSafeInteger(number) ? number : value.toString()
  }
  // Older writers know one type for text and bytes.
  if (value instanceof Uint8Array) return Buffer.from(value).toString('utf8')
  return mapInner(value, (inner) => fromWire(inner, depth + 1))
}

/** What is beyond 32 bits is written as 64 bits, not as a floating point number. */
function toWire(value: unknown): unknown {
  if (typeof value === 'number' && Number.isSafeInteger(value) && Math.abs(value) > 0x7fffffff) {
    return BigInt(value)
  }
  return mapInner(value, toWire)
}

function mapInner(value: unknown, change: (inner: unknown) => unknown): unknown {
  if (Array.isArray(value)) return value.map(change)
  if (typeof value !== 'object' || value === null) return value
  if (Object.getPrototypeOf(value) !== Object.prototype) return value
  return Object.fromEntries(Object.entries(value).map(([key, inner]) => [key, change(inner)]))
}
