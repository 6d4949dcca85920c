import { createHash } from 'node:crypto'
import { EncryptJWT, jwtDecrypt } from 'jose'
import * as z from 'zod/mini'
import { TimoneError } from '../errors.ts'

/** Seconds for which a sign-in may be under way. */
export const PENDING_FOR = 600

const Pending = z.object({
  state: z.string(),
  nonce: z.string(),
  verifier: z.string(),
  returnTo: z.string(),
  /** Id of the session whose user the account is to be linked to; undefined: it is to sign in. */
  link: z.optional(z.string()),
})
export type Pending = z.infer<typeof Pending>

/** What a browser takes along to a provider and must bring back, encrypted, in a cookie. */
export class PendingSignIns {
  readonly #key: Uint8Array
  readonly #now: () => number

  /**
   * @param options.secret the operator's token secret
   * @param options.provider whose sign-ins these are: what began at one does not end at another
   */
  constructor({ secret, provider, now }: { secret: string; provider: string; now: () => number }) {
    this.#key = createHash('sha256').update(`timone pending sign-in\0${provider}\0${secret}`).digest()
    this.#now = now
  }

  seal(pending: Pending): Promise<string> {
    return new EncryptJWT({ ...pending })
      .setProtectedHeader({ alg: 'dir', enc: 'A256GCM' })
      .setExpirationTime(Math.floor(this.#now() / 1000) + PENDING_FOR)
      .encrypt(this.#key)
  }

  /** @throws {TimoneError} `forbidden` when this browser began none here, or it is too old */
  async open(sealed: string | undefined): Promise<Pending> {
    try {
      const { payload } = await jwtDecrypt(sealed ?? '', this.#key, {
        keyManagementAlgorithms: ['dir'],
        contentEncryptionAlgorithms: ['A256GCM'],
        requiredClaims: ['exp'],
        currentDate: new Date(this.#now()),
      })
      return Pending.parse(payload)
    } catch {
      throw new TimoneError(
        'forbidden',
        'this sign-in was not begun in this browser, or took longer than 10 minutes: begin again',
      )
    }
  }
}
