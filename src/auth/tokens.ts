import { hkdfSync, randomUUID, webcrypto } from 'node:crypto'
import { compactVerify, decodeProtectedHeader, errors, type JWTPayload, jwtVerify, SignJWT } from 'jose'
import { TimoneError } from '../errors.ts'
import { type Repository, repositoryName } from '../repository.ts'
import type { Principal, TokenUse } from './principal.ts'
import { parseScope, parseScopes, printScope, type Scope } from './scope.ts'
import { VerifiedClaims } from './verified-claims.ts'

/** Longest token that is looked at, bytes. */
export const MAX_TOKEN_LENGTH: number = 16 * 1024

/** Seconds by which the clocks of issuer and server may differ. */
const LEEWAY = 60

/** `typ` of the tokens that timone issues to people and runners, which it can take back (RFC 8725, section 3.11). */
export const ISSUED_TYPE = 'timone+jwt'

/** `typ` of the tokens that timone puts into its own answers (RFC 8725, section 3.11: explicit typing). */
const USE_TYPE = 'timone-use+jwt'

/** What opaque tokens begin with; no JWT does, whose first part is base64 of `{"`. */
const OPAQUE = 'tmo_'

const AUDIENCE = 'timone:'
const USES: ReadonlySet<string> = new Set<TokenUse>(['transfer', 'renew', 'verify'])

// The type is not named in the global scope that tsc sees, only in node:crypto.
type Key = webcrypto.CryptoKey

export interface TokensOptions {
  /** Shared with the operator's tools, which sign user tokens with it (HS256). Never empty. */
  secret: string
  /** Public URL of the server: issuer of use tokens, and the one audience that a user token may name. */
  issuer: string
  /** Refuse user tokens that carry no scope claim, instead of trusting them with all of LFS. */
  requireScope: boolean
  /** Checks what timone itself issued to people and runners; without it all of that is refused. */
  issued?: IssuedTokenCheck | undefined
  /** Milliseconds since the epoch; default the system clock. */
  now?: () => number
}

/** Tokens that are kept track of: JWTs of type {@link ISSUED_TYPE}, and opaque ones (`tmo_…`). */
export interface IssuedTokenCheck {
  /** @throws {TimoneError} `unauthorized` for one that is forged, expired or revoked */
  verify(token: string): Promise<Principal>
}

/**
 * Issues and checks timone's tokens, all HS256.
 *
 * User tokens are signed with the secret itself, as the operator's own tools do. Use tokens, which the server puts into
 * its answers, are signed with a key derived from it: neither kind can ever pass for the other.
 */
export class Tokens {
  readonly #issuer: string
  readonly #requireScope: boolean
  readonly #issued: IssuedTokenCheck | undefined
  readonly #now: () => number
  readonly #verified: VerifiedClaims
  readonly #userKey: Promise<Key>
  readonly #useKey: Promise<Key>

  constructor(options: TokensOptions) {
    if (options.secret === '') throw new TypeError('the token secret must not be empty')
    this.#issuer = options.issuer
    this.#requireScope = options.requireScope
    this.#issued = options.issued
    this.#now = options.now ?? Date.now
    this.#verified = new VerifiedClaims(LEEWAY, this.#now)
    const secret = Buffer.from(options.secret, 'utf8')
    this.#userKey = importKey(secret)
    this.#useKey = importKey(
      new Uint8Array(hkdfSync('sha256', secret, '', 'timone use tokens, version 1', 32)),
    )
  }

  /**
   * A token for a person or a runner, as `timone token create` prints it.
   * @param options.scopes undefined: no scope claim, full trust for LFS; empty: no rights
   * @param options.expiresIn seconds; undefined: never expires
   * @throws {TimoneError} `invalid` when the user name or a scope is malformed
   */
  async issueUser(options: {
    user: string
    scopes?: readonly string[]
    expiresIn?: number
  }): Promise<string> {
    if (!isUserName(options.user)) {
      throw new TimoneError('invalid', 'a user name is 1 to 255 characters without control characters')
    }
    const scope = options.scopes?.map((text) => printScope(parseScope(text))).join(' ')
    const now = this.#seconds()
    const token = new SignJWT({ user: options.user, ...(scope === undefined ? {} : { scope }) })
      .setProtectedHeader({ alg: 'HS256', typ: 'JWT' })
      .setSubject(options.user)
      .setIssuedAt(now)
    if (options.expiresIn !== undefined) token.setExpirationTime(now + positive(options.expiresIn))
    return token.sign(await this.#userKey)
  }

  /**
   * A token for one use, one repository and one direction, which goes into an answer of the server.
   * @param options.subject the principal's stable name
   * @param options.expiresIn seconds
   * @param options.authTime seconds since the epoch: the principal's own, passed on unchanged
   */
  async issueUse(options: {
    use: TokenUse
    subject: string
    repository: Repository
    operation: 'upload' | 'download'
    expiresIn: number
    authTime: number
  }): Promise<string> {
    const level = options.operation === 'upload' ? 'rw' : 'r'
    const now = this.#seconds()
    return new SignJWT({
      op: options.operation,
      auth_time: options.authTime,
      scope: printScope({ noun: 'lfs', resource: repositoryName(options.repository), level }),
    })
      .setProtectedHeader({ alg: 'HS256', typ: USE_TYPE })
      .setIssuer(this.#issuer)
      .setAudience(AUDIENCE + options.use)
      .setSubject(options.subject)
      .setIssuedAt(now)
      .setExpirationTime(now + positive(options.expiresIn))
      .setJti(randomUUID())
      .sign(await this.#useKey)
  }

  /**
   * Who a token is for and what it opens.
   * @throws {TimoneError} `unauthorized`, with one constant message for everything that is wrong with a token, except
   *   `token expired` and a missing scope where one is required, both said only after the signature was found good
   */
  async verify(jwt: string): Promise<Principal> {
    const type = this.#typeOf(jwt)
    if (type === ISSUED_TYPE) {
      if (this.#issued === undefined) throw refused()
      return this.#issued.verify(jwt)
    }
    const isUse = type === USE_TYPE
    let claims: JWTPayload
    try {
      claims = await this.#verified.of(jwt, async () => {
        const verified = await jwtVerify(jwt, await (isUse ? this.#useKey : this.#userKey), {
          algorithms: ['HS256'],
          clockTolerance: LEEWAY,
          currentDate: new Date(this.#now()),
        })
        return verified.payload
      })
    } catch (error) {
      throw error instanceof errors.JWTExpired ? new TimoneError('unauthorized', 'token expired') : refused()
    }
    if (claims.iat !== undefined && claims.iat > this.#seconds() + LEEWAY) throw refused()
    return isUse ? this.#usePrincipal(claims) : this.#userPrincipal(claims)
  }

  /** True when the signature of `jwt` is ours, whatever its claims say: for people who look into a token. */
  async signatureMatches(jwt: string): Promise<boolean> {
    try {
      await compactVerify(jwt, await (this.#typeOf(jwt) === USE_TYPE ? this.#useKey : this.#userKey), {
        algorithms: ['HS256'],
      })
      return true
    } catch {
      return false
    }
  }

  #typeOf(jwt: string): string | undefined {
    if (jwt.length > MAX_TOKEN_LENGTH) throw refused()
    if (jwt.startsWith(OPAQUE)) return ISSUED_TYPE
    try {
      return decodeProtectedHeader(jwt).typ
    } catch {
      throw refused()
    }
  }

  #userPrincipal(claims: JWTPayload): Principal {
    const audiences = claims.aud === undefined ? [this.#issuer] : [claims.aud].flat()
    if (audiences.length === 0 || audiences.some((name) => name !== this.#issuer)) throw refused()
    const { user, username, sub } = claims
    const names = [user, username, sub].filter((name) => typeof name === 'string')
    const subject = names[0]
    if (!isUserName(subject) || names.some((name) => name !== subject)) throw refused()
    const scopes = readScopes(claims)
    if (scopes === undefined && this.#requireScope) {
      throw new TimoneError(
        'unauthorized',
        'the token carries no scope, and this server refuses such tokens (TIMONE_REQUIRE_SCOPE)',
      )
    }
    // The user signs in with this very request; when the token was made does not matter.
    const expiry = claims.exp === undefined ? {} : { expiresAt: claims.exp }
    return { subject, scopes: scopes ?? 'full', authTime: this.#seconds(), ...expiry }
  }

  #usePrincipal(claims: JWTPayload): Principal {
    const { iss, aud, sub, jti, exp, op: operation, auth_time: authTime } = claims
    const use = typeof aud === 'string' && aud.startsWith(AUDIENCE) ? aud.slice(AUDIENCE.length) : undefined
    const scopes = readScopes(claims)
    const scope = scopes?.[0]
    if (
      iss !== this.#issuer ||
      !isUse(use) ||
      !isUserName(sub) ||
      typeof jti !== 'string' ||
      exp === undefined ||
      (operation !== 'upload' && operation !== 'download') ||
      typeof authTime !== 'number' ||
      scope === undefined ||
      scopes?.length !== 1 ||
      scope.noun !== 'lfs' ||
      scope.resource.includes('*') ||
      scope.level !== (operation === 'upload' ? 'rw' : 'r')
    ) {
      throw refused()
    }
    return { subject: sub, scopes: [scope], use, operation, authTime }
  }

  #seconds(): number {
    return Math.floor(this.#now() / 1000)
  }
}

/** The one answer to credentials that are wrong: it does not say in which way. */
export function refused(): TimoneError {
  return new TimoneError('unauthorized', 'the credentials are not valid')
}

/** Undefined: no scope claim at all. A claim that is present and malformed is refused; an empty one grants nothing. */
function readScopes(claims: JWTPayload): readonly Scope[] | undefined {
  const { scope, scopes } = claims
  if (scope === undefined && scopes === undefined) return undefined
  try {
    if (typeof scope === 'string' && scopes === undefined) return parseScopes(scope)
    if (scope === undefined && isStrings(scopes)) return scopes.map(parseScope)
  } catch {
    // Falls through: said like everything else that is wrong with a token.
  }
  throw refused()
}

function isStrings(value: unknown): value is readonly string[] {
  return Array.isArray(value) && value.every((item) => typeof item === 'string')
}

/** May this be a principal's stable name? */
export function isUserName(value: unknown): value is string {
  return typeof value === 'string' && value.length > 0 && value.length <= 255 && !/\p{Cc}/u.test(value)
}

function isUse(value: string | undefined): value is TokenUse {
  return value !== undefined && USES.has(value)
}

function positive(seconds: number): number {
  if (!Number.isSafeInteger(seconds) || seconds <= 0)
    throw new TypeError('expiresIn must be whole seconds above 0')
  return seconds
}

function importKey(bytes: Uint8Array): Promise<Key> {
  return webcrypto.subtle.importKey('raw', bytes, { name: 'HMAC', hash: 'SHA-256' }, false, [
    'sign',
    'verify',
  ])
}
