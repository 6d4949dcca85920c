import {
  createCipheriv,
  createDecipheriv,
  createHash,
  createHmac,
  createSecretKey,
  type KeyObject,
  randomBytes,
  timingSafeEqual,
} from 'node:crypto'
import { TimoneError } from '../errors.ts'

/** First byte of every token (Fernet specification, "Token Format"). */
const VERSION = 0x80
/** Version, seconds since the epoch in 64 bits, initialisation vector. */
const HEAD = 1 + 8 + 16
const MAC = 32
const KEY = 32

/**
 * Encrypts what must not lie open in the database, as Fernet (github.com/fernet/spec) does: AES-128-CBC, then
 * HMAC-SHA256. Python's `cryptography.fernet.MultiFernet` reads what it writes and the other way round.
 */
export class SecretBox {
  /** Names the key that seals, in eight hex digits; says nothing about the key itself. */
  readonly keyId: string
  /** Of all keys, in their order. */
  readonly keyIds: readonly string[]
  readonly #keys: readonly { signing: KeyObject; encryption: KeyObject }[]
  readonly #now: () => number

  /**
   * @param keys the first seals, all open; each in a spelling of {@link readKey}
   * @throws {TimoneError} `config`, without the key
   */
  constructor(keys: readonly string[], now: () => number = Date.now) {
    if (keys.length === 0)
      throw new TimoneError('config', 'no encryption key: set secrets.keys (TIMONE_SECRET_KEYS)')
    const bytes = keys.map((key, index) => {
      const read = readKey(key)
      if (read === undefined)
        throw new TimoneError(
          'config',
          `key ${index + 1} of secrets.keys (TIMONE_SECRET_KEYS) is no key: it must be 32 bytes in base64 (44 characters), ` +
            'base32 (56), hex (64) or as they are (32); make one with: openssl rand -base64 32',
        )
      return read
    })
    this.#keys = bytes.map((key) => ({
      signing: createSecretKey(key.subarray(0, 16)),
      encryption: createSecretKey(key.subarray(16)),
    }))
    this.keyIds = bytes.map(nameKey)
    this.keyId = this.keyIds[0] as string
    this.#now = now
  }

  /** Any text, encrypted with the first key: url-safe base64. */
  seal(text: string): string {
    const [{ signing, encryption }] = this.#keys as [{ signing: KeyObject; encryption: KeyObject }]
    const head = Buffer.alloc(HEAD)
    head[0] = VERSION
    head.writeBigUInt64BE(BigInt(Math.floor(this.#now() / 1000)), 1)
    randomBytes(16).copy(head, 9)
    const cipher = createCipheriv('aes-128-cbc', encryption, head.subarray(9))
    const body = Buffer.concat([head, cipher.update(text, 'utf8'), cipher.final()])
    return base64(Buffer.concat([body, mac(signing, body)]))
  }

  /**
   * The text that was sealed with one of the keys. Its age does not matter.
   * @throws {TimoneError} `config` when none of the keys fits, or it was changed
   */
  open(sealed: string): string {
    return this.#open(sealed).text
  }

  /** Was it sealed with the key that seals now? @throws {TimoneError} `config` as {@link open} */
  isCurrent(sealed: string): boolean {
    return this.#open(sealed).index === 0
  }

  #open(sealed: string): { text: string; index: number } {
    // Python hands tokens out with their padding; others leave it away.
    const token = /^[A-Za-z0-9_-]+={0,2}$/.test(sealed) ? Buffer.from(sealed, 'base64url') : Buffer.alloc(0)
    if (token.length > HEAD + MAC && token[0] === VERSION) {
      const body = token.subarray(0, -MAC)
      for (const [index, { signing, encryption }] of this.#keys.entries()) {
        if (!timingSafeEqual(mac(signing, body), token.subarray(-MAC))) continue
        const decipher = createDecipheriv('aes-128-cbc', encryption, body.subarray(9, HEAD))
        return {
          text: Buffer.concat([decipher.update(body.subarray(HEAD)), decipher.final()]).toString('utf8'),
          index,
        }
      }
    }
    throw new TimoneError(
      'config',
      `a secret in the database cannot be decrypted with the keys at hand (${this.keyIds.join(', ')}): ` +
        'add the key that it was encrypted with to secrets.keys (TIMONE_SECRET_KEYS)',
    )
  }
}

/** A new key, as Python's `Fernet.generate_key()` spells them. */
export function generateKey(): string {
  return base64(randomBytes(KEY))
}

/**
 * The 32 bytes of a key: as they are, in base64 (either alphabet), base32 or hex. Their lengths differ, so each spelling
 * is known by its own.
 * @returns undefined for anything else
 */
function readKey(text: string): Buffer | undefined {
  const trimmed = text.trim()
  if (/^[0-9a-f]{64}$/i.test(trimmed)) return Buffer.from(trimmed, 'hex')
  if (/^[A-Z2-7]{52}(={4})?$/i.test(trimmed)) return readBase32(trimmed)
  if (/^[\w+/-]{43}=?$/.test(trimmed)) return Buffer.from(trimmed, 'base64')
  const raw = Buffer.from(text)
  return raw.length === KEY ? raw : undefined
}

/** RFC 4648, section 6. */
function readBase32(text: string): Buffer {
  const digits = text.replaceAll('=', '').toUpperCase()
  const bits = [...digits].map((digit) =>
    'ABCDEFGHIJKLMNOPQRSTUVWXYZ234567'.indexOf(digit).toString(2).padStart(5, '0'),
  )
  const bytes = bits.join('').match(/.{8}/g) ?? []
  return Buffer.from(bytes.map((byte) => Number.parseInt(byte, 2)))
}

function nameKey(key: Buffer): string {
  return createHash('sha256').update('timone key id\0').update(key).digest('hex').slice(0, 8)
}

function mac(key: KeyObject, body: Buffer): Buffer {
  return createHmac('sha256', key).update(body).digest()
}

/** Url-safe, with the padding that Python insists on. */
function base64(bytes: Buffer): string {
  return bytes.toString('base64').replaceAll('+', '-').replaceAll('/', '_')
}
