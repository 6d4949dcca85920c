import { createHash, type Hash } from 'node:crypto'
import { Transform, type TransformCallback } from 'node:stream'
import { TimoneError } from '../errors.ts'

/** What a body is known to be before it arrives. */
export interface Expected {
  /** Bytes. */
  size: number
  /** Hexadecimal; undefined where only the size is known, as for one part of an object. */
  sha256?: string | undefined
}

/** Counts and hashes bytes as they pass, and compares them with what was announced. */
export class HashCheck {
  readonly #expected: Expected
  readonly #hash: Hash | undefined
  #received = 0

  constructor(expected: Expected) {
    this.#expected = expected
    this.#hash = expected.sha256 === undefined ? undefined : createHash('sha256')
  }

  /** @throws `size_mismatch` as soon as there are more bytes than announced. */
  update(chunk: Uint8Array): void {
    this.#received += chunk.byteLength
    if (this.#received > this.#expected.size) {
      throw new TimoneError('size_mismatch', `more than the ${this.#expected.size} bytes that were announced`)
    }
    this.#hash?.update(chunk)
  }

  /** All announced bytes have passed. */
  get full(): boolean {
    return this.#received === this.#expected.size
  }

  /** To be called once, at the end. @throws `size_mismatch` or `hash_mismatch` */
  finish(): void {
    if (!this.full) {
      throw new TimoneError(
        'size_mismatch',
        `${this.#received} bytes came, ${this.#expected.size} were announced`,
      )
    }
    const found = this.#hash?.digest('hex')
    if (found !== this.#expected.sha256) {
      throw new TimoneError(
        'hash_mismatch',
        `the bytes have SHA-256 ${found}, expected was ${this.#expected.sha256}`,
      )
    }
  }
}

/**
 * Lets bytes through and holds the last of them back until the end has shown that size and hash are right: whoever
 * reads it never gets a wrong body whole.
 */
export class HashGate extends Transform {
  readonly #check: HashCheck
  #held: Buffer | undefined

  constructor(expected: Expected) {
    super()
    this.#check = new HashCheck(expected)
  }

  override _transform(chunk: Buffer, _encoding: BufferEncoding, done: TransformCallback): void {
    const failure = failureOf(() => this.#check.update(chunk))
    if (failure !== undefined) done(failure)
    else if (!this.#check.full) done(null, chunk)
    else {
      // An empty chunk may follow the last byte: it must not push the held one out.
      if (chunk.byteLength > 0) this.#held = chunk
      done()
    }
  }

  override _flush(done: TransformCallback): void {
    const failure = failureOf(() => this.#check.finish())
    if (failure !== undefined) done(failure)
    else done(null, this.#held)
  }
}

/** What `act` throws, for the callbacks of streams; undefined when it throws nothing. */
export function failureOf(act: () => void): Error | undefined {
  try {
    act()
    return undefined
  } catch (error) {
    return error as Error
  }
}
