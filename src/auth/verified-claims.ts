import { hash } from 'node:crypto'
import type { JWTPayload } from 'jose'
import { ExpiringCache } from '../expiring-cache.ts'

/** Tokens whose claims are kept, and the longest such token: a few MiB at most. */
const MOST = 2_000
const LONGEST = 2_048
/** Milliseconds that claims are kept at most. */
const KEPT_FOR = 60_000

/**
 * Claims of JWTs whose signature was found good a moment ago. A signature does not become bad again, and computing it costs
 * more than the rest of a small request. Whether the token was revoked is not a matter of its signature, and is asked
 * each time, by others.
 */
export class VerifiedClaims {
  readonly #known: ExpiringCache<JWTPayload>
  readonly #now: () => number
  readonly #leeway: number

  /** @param leeway seconds after its end for which a token is still taken */
  constructor(leeway: number, now: () => number) {
    this.#known = new ExpiringCache({ max: MOST, now })
    this.#now = now
    this.#leeway = leeway
  }

  /** The claims of `jwt`, by `verify` where they are not known. Expired tokens never are. @throws what `verify` throws */
  async of(jwt: string, verify: () => Promise<JWTPayload>): Promise<JWTPayload> {
    // Tokens are not kept in memory: who gets to see it must not find keys to everything.
    const name = hash('sha256', jwt, 'base64')
    const known = this.#known.peek(name)
    if (known !== undefined) return known
    const claims = await verify()
    if (jwt.length > LONGEST) return claims
    const { exp = Number.POSITIVE_INFINITY } = claims
    this.#known.set(name, claims, Math.min((exp + this.#leeway) * 1000, this.#now() + KEPT_FOR))
    return claims
  }
}
