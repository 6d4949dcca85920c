import { randomUUID } from 'node:crypto'
import { decodeProtectedHeader, type JWTPayload, jwtVerify, SignJWT } from 'jose'
import type { Kysely } from 'kysely'
import type { Principal } from '../auth/principal.ts'
import { printScope, type Scope } from '../auth/scope.ts'
import { ISSUED_TYPE, type IssuedTokenCheck, isUserName, refused } from '../auth/tokens.ts'
import { VerifiedClaims } from '../auth/verified-claims.ts'
import type { Schema } from '../database/schema.ts'
import { TimoneError } from '../errors.ts'
import { isOpaqueToken, OpaqueTokens } from './opaque-tokens.ts'
import type { IssuedPrincipals, OpaqueTokenCheck } from './principals.ts'
import type { KeyAlgorithm, SigningKeys } from './signing-keys.ts'
import { TokenRows, tokenRow } from './token-rows.ts'

export interface IssuedTokensOptions {
  db: Kysely<Schema>
  /** Public URL of the server: issuer and audience. */
  url: string
  /** The operator's secret, for HS256. */
  secret: string
  /** What new tokens are signed with; those signed otherwise before stay good. */
  algorithm: 'HS256' | KeyAlgorithm
  keys: SigningKeys
  principals: IssuedPrincipals
  opaque: OpaqueTokenCheck
  /** Milliseconds since the epoch. */
  now?: () => number
}

export interface NewJwt {
  /** Login of the user, or the name of a runner. */
  subject: string
  /** Null: a runner, which has the scopes as they are; a user has of them what they may do when they use the token. */
  userId: number | null
  scopes: readonly Scope[]
  /** What asked for it, for people who look through their tokens. */
  client: string
  /** Seconds; no more than {@link MAX_LIFETIME}. */
  expiresIn: number
}

/** Seconds that a JWT lives at most; keys check tokens for longer than that. */
export const MAX_LIFETIME: number = 366 * 86_400

/** Seconds by which the clocks of instances may differ. */
const LEEWAY = 60

/**
 * JWTs that timone gives to people and runners: iss, aud, sub, jti, iat, exp, scope. Each has a row in the database, and
 * is good only as long as that is: so revoking one works at once, on every instance.
 */
export class IssuedTokens implements IssuedTokenCheck {
  readonly #options: IssuedTokensOptions
  readonly #secret: Uint8Array
  readonly #now: () => number
  readonly #verified: VerifiedClaims
  readonly #rows: TokenRows

  constructor(options: IssuedTokensOptions) {
    this.#options = options
    this.#secret = Buffer.from(options.secret, 'utf8')
    this.#now = options.now ?? Date.now
    this.#verified = new VerifiedClaims(LEEWAY, this.#now)
    this.#rows = new TokenRows(options.db, this.#now)
  }

  async issue(options: NewJwt): Promise<{ token: string; id: string; expiresAt: string }> {
    const { subject, userId, scopes, client, expiresIn } = options
    if (!isUserName(subject)) throw new TypeError('a token is for somebody')
    if (!Number.isSafeInteger(expiresIn) || expiresIn <= 0 || expiresIn > MAX_LIFETIME)
      throw new TypeError('expiresIn must be whole seconds, a year at most')
    const { db, url, algorithm, keys } = this.#options
    const now = Math.floor(this.#now() / 1000) * 1000
    const seconds = now / 1000
    const id = randomUUID()
    const texts = scopes.map(printScope)
    const jwt = new SignJWT({ scope: texts.join(' ') })
      .setIssuer(url)
      .setAudience(url)
      .setSubject(subject)
      .setJti(id)
      .setIssuedAt(seconds)
      .setExpirationTime(seconds + expiresIn)
    let token: string
    if (algorithm === 'HS256') {
      token = await jwt.setProtectedHeader({ alg: algorithm, typ: ISSUED_TYPE }).sign(this.#secret)
    } else {
      const { kid, key } = await keys.current(algorithm)
      token = await jwt.setProtectedHeader({ alg: algorithm, typ: ISSUED_TYPE, kid }).sign(key)
    }
    const data = userId === null ? { subject } : undefined
    const row = tokenRow({ userId, kind: 'jwt', scopes: texts, client, expiresIn, data }, id, null, now)
    await db.insertInto('tokens').values(row).execute()
    return { token, id, expiresAt: row.expires_at as string }
  }

  /** @throws {TimoneError} `unauthorized`; `token expired` only for one that we signed */
  async verify(token: string): Promise<Principal> {
    if (isOpaqueToken(token)) return this.#options.opaque.verify(token)
    const claims = await this.#claims(token)
    const found = await this.#rows.byId(claims.jti)
    if (found === undefined || found.kind !== 'jwt') throw refused()
    // A login never changes hands, yet what the token says and what we know must be the same.
    const subject = found.user?.login ?? subjectOf(found.data)
    if (subject !== claims.sub) throw refused()
    return this.#options.principals.of(found, subject)
  }

  /** Ends a token at once, whoever holds it. Others' tokens, and such as are over, are left alone. */
  async revoke(token: string, source: string): Promise<void> {
    const opaque = new OpaqueTokens(this.#options.db, this.#now)
    let id: string | undefined
    let actor = ''
    if (isOpaqueToken(token)) {
      const found = await opaque.find(token)
      // A session ends by signing out, which a form protects; a code is spent where it is used.
      if (found?.kind !== 'personal' && found?.kind !== 'app') return
      id = found.id
      actor = found.user?.login ?? ''
    } else {
      try {
        const claims = await this.#claims(token)
        id = claims.jti
        actor = claims.sub
      } catch (error) {
        if (error instanceof TimoneError && error.code === 'unauthorized') return
        throw error
      }
    }
    await opaque.revoke(id, { actor, source })
  }

  async #claims(token: string): Promise<JWTPayload & { jti: string; sub: string }> {
    const claims = await this.#verified.of(token, () => this.#verify(token))
    const { jti, sub, iat = Number.POSITIVE_INFINITY } = claims
    if (!isId(jti) || typeof sub !== 'string' || iat > this.#now() / 1000 + LEEWAY) throw refused()
    return { ...claims, jti, sub }
  }

  async #verify(token: string): Promise<JWTPayload> {
    const { url, keys } = this.#options
    try {
      const { alg, kid, typ } = decodeProtectedHeader(token)
      if (typ !== ISSUED_TYPE) throw refused()
      // The key is chosen by its algorithm, and never used with another: a public key is no HMAC secret.
      const key =
        alg === 'HS256' && kid === undefined
          ? this.#secret
          : (alg === 'EdDSA' || alg === 'RS256') && typeof kid === 'string'
            ? await keys.find(kid, alg)
            : undefined
      if (key === undefined || alg === undefined) throw refused()
      const verified = await jwtVerify(token, key, {
        algorithms: [alg],
        typ: ISSUED_TYPE,
        issuer: url,
        audience: url,
        requiredClaims: ['jti', 'sub', 'iat', 'exp', 'scope'],
        clockTolerance: LEEWAY,
        currentDate: new Date(this.#now()),
      })
      return verified.payload
    } catch (error) {
      if (error instanceof TimoneError && error.code !== 'unauthorized') throw error
      if ((error as { code?: unknown }).code === 'ERR_JWT_EXPIRED')
        throw new TimoneError('unauthorized', 'token expired')
      throw refused()
    }
  }
}

/** Only what we could have made up goes to the database. */
function isId(jti: unknown): jti is string {
  return typeof jti === 'string' && /^[0-9a-f-]{36}$/.test(jti)
}

function subjectOf(data: unknown): string | undefined {
  const subject = (data as { subject?: unknown } | undefined)?.subject
  return typeof subject === 'string' ? subject : undefined
}
