import {
  createLocalJWKSet,
  errors,
  type FlattenedJWSInput,
  type JSONWebKeySet,
  type JWSHeaderParameters,
} from 'jose'
import * as z from 'zod/mini'
import { readAtMost } from '../bounded-text.ts'
import { TimoneError } from '../errors.ts'
import { isSafeAddress } from './trust-rules.ts'

/** An unknown key id, or a failure, makes us ask again no sooner than this, milliseconds. */
const COOLDOWN = 30_000
/** Keys that were taken back are forgotten after this, milliseconds. */
const MAX_AGE = 600_000
/** An issuer that is away does not make known keys bad at once, milliseconds. */
const MAX_STALE = 3_600_000
const TIMEOUT = 5_000
/** Longest document that is read, bytes. */
const MAX_DOCUMENT = 256 * 1024

const Discovery = z.object({ issuer: z.string(), jwks_uri: z.string().check(z.maxLength(2000)) })
const KeySet = z.object({ keys: z.array(z.looseObject({ kty: z.string() })).check(z.maxLength(100)) })

export interface IssuerKeysOptions {
  issuer: string
  /** Undefined: found by OpenID Connect Discovery 1.0, section 4. */
  jwksUrl?: string | undefined
  fetch?: typeof fetch
  /** Milliseconds since the epoch. */
  now?: () => number
}

type LocalKeys = ReturnType<typeof createLocalJWKSet>

/** The public keys of one issuer: fetched when first needed, kept, and fetched anew when they age or rotate. */
export class IssuerKeys {
  readonly #options: IssuerKeysOptions
  readonly #fetch: typeof fetch
  readonly #now: () => number
  #keys: LocalKeys | undefined
  #fetchedAt = 0
  #triedAt = Number.NEGATIVE_INFINITY
  #failure: TimoneError | undefined
  #loading: Promise<void> | undefined

  constructor(options: IssuerKeysOptions) {
    this.#options = options
    this.#fetch = options.fetch ?? fetch
    this.#now = options.now ?? Date.now
  }

  /**
   * The key that a JWT's header asks for, as `jose` wants it.
   * @throws {TimoneError} `unavailable` when the issuer cannot be asked
   * @throws jose's `JWKSNoMatchingKey` when it has no such key
   */
  readonly find = async (header: JWSHeaderParameters, token: FlattenedJWSInput) => {
    if (this.#keys === undefined || this.#now() - this.#fetchedAt > MAX_AGE) await this.#refresh()
    const keys = this.#keys as LocalKeys
    try {
      return await keys(header, token)
    } catch (error) {
      if (!(error instanceof errors.JWKSNoMatchingKey) || this.#isCool()) throw error
      await this.#refresh()
      return (this.#keys as LocalKeys)(header, token)
    }
  }

  #isCool(): boolean {
    return this.#now() - this.#triedAt < COOLDOWN
  }

  /** Fetches, unless that has just been tried; what is known and not too old stays good when it fails. */
  async #refresh(): Promise<void> {
    if (this.#loading === undefined && !this.#isCool()) {
      this.#triedAt = this.#now()
      this.#loading = this.#load().finally(() => {
        this.#loading = undefined
      })
    }
    await this.#loading
    if (this.#keys !== undefined && this.#now() - this.#fetchedAt > MAX_STALE) this.#keys = undefined
    if (this.#keys === undefined) {
      throw (
        this.#failure ?? new TimoneError('unavailable', `the keys of ${this.#options.issuer} are not known`)
      )
    }
  }

  async #load(): Promise<void> {
    try {
      const { keys } = await this.#read(await this.#address(), KeySet)
      this.#keys = createLocalJWKSet({ keys } as JSONWebKeySet)
      this.#fetchedAt = this.#now()
      this.#failure = undefined
    } catch (cause) {
      this.#failure = new TimoneError(
        'unavailable',
        `cannot get the keys of the issuer ${this.#options.issuer}`,
        { cause },
      )
    }
  }

  async #address(): Promise<string> {
    const { issuer, jwksUrl } = this.#options
    if (jwksUrl !== undefined) return jwksUrl
    const found = await this.#read(`${issuer.replace(/\/$/, '')}/.well-known/openid-configuration`, Discovery)
    if (found.issuer !== issuer)
      throw new TimoneError('invalid', 'the discovery document is of another issuer')
    return found.jwks_uri
  }

  async #read<T extends z.ZodMiniType>(address: string, shape: T): Promise<z.infer<T>> {
    if (!isSafeAddress(address))
      throw new TimoneError('invalid', 'keys are fetched from https addresses only')
    const response = await this.#fetch(address, {
      redirect: 'error',
      headers: { accept: 'application/json' },
      signal: AbortSignal.timeout(TIMEOUT),
    })
    if (response.status !== 200 || response.body === null) {
      await response.body?.cancel()
      throw new TimoneError('unavailable', `${new URL(address).host} answered ${response.status}`)
    }
    const text = await readAtMost(response, MAX_DOCUMENT)
    if (text === undefined) throw new TimoneError('too_large', 'the document of the issuer is too large')
    return shape.parse(JSON.parse(text))
  }
}
