import { decodeJwt, errors, type JWTPayload, jwtVerify } from 'jose'
import type { Kysely } from 'kysely'
import { allows, parseScope, printScope, type Scope } from '../auth/scope.ts'
import { MAX_TOKEN_LENGTH } from '../auth/tokens.ts'
import type { Schema } from '../database/schema.ts'
import { isTimoneError } from '../errors.ts'
import { recordEvent } from './events.ts'
import type { IssuedTokens } from './issued-tokens.ts'
import { IssuerKeys } from './issuer-keys.ts'
import { OAuthError } from './oauth-error.ts'
import { ruleMatches, type TrustRule } from './trust-rules.ts'

export interface TrustOptions {
  rules: readonly TrustRule[]
  issued: IssuedTokens
  db: Kysely<Schema>
  /** Public URL: what a request may name as the audience that it wants a token for. */
  url: string
  fetch?: typeof fetch
  /** Milliseconds since the epoch. */
  now?: () => number
}

/** A runner's request for a token (RFC 8693, section 2.1). */
export interface ExchangeRequest {
  /** The runner's identity token. */
  subjectToken: string
  /** Scopes wanted, separated by spaces; undefined: all that the rules give. */
  scope?: string | undefined
  /** Of `audience` and `resource`. */
  targets?: readonly string[]
  /** Address that the request came from, for the audit trail. */
  source: string
}

export interface ExchangedToken {
  token: string
  subject: string
  /** Seconds. */
  expiresIn: number
  /** Separated by spaces. */
  scope: string
}

const ALGORITHMS = ['RS256', 'RS384', 'RS512', 'PS256', 'PS384', 'PS512', 'ES256', 'ES384', 'ES512', 'EdDSA']
/** Seconds by which the clocks of issuer and server may differ. */
const LEEWAY = 60

/** Gives tokens of ours for the identity tokens of CI systems, by the operator's trust rules. */
export class Trust {
  readonly #options: TrustOptions
  readonly #now: () => number
  readonly #keys = new Map<string, IssuerKeys>()

  constructor(options: TrustOptions) {
    this.#options = options
    this.#now = options.now ?? Date.now
    const { fetch, now } = options
    for (const { issuer, jwksUrl } of options.rules) {
      const key = keysOf({ issuer, jwksUrl })
      if (this.#keys.has(key)) continue
      this.#keys.set(key, new IssuerKeys({ issuer, jwksUrl, ...(fetch && { fetch }), ...(now && { now }) }))
    }
  }

  /**
   * A token with the scopes of all rules that fit, for as long as the shortest of them says.
   * @throws {OAuthError} `invalid_request` for a token that is not good enough (RFC 8693, section 2.2.2), `invalid_scope`,
   *   `invalid_target`, or `temporarily_unavailable` while the issuer's keys cannot be had
   */
  async exchange(request: ExchangeRequest): Promise<ExchangedToken> {
    const { db, issued, url } = this.#options
    if (request.targets?.some((target) => target.replace(/\/+$/, '') !== url)) {
      throw new OAuthError('invalid_target', `this server issues tokens for ${url} only`)
    }
    const { claims, rules } = await this.#verify(request.subjectToken)
    const fitting = rules.filter((rule) => ruleMatches(rule, claims))
    if (fitting.length === 0) {
      throw new OAuthError(
        'invalid_request',
        'no trust rule of this server fits the claims of the subject token: ask its operator to add one',
      )
    }
    const granted = fitting.flatMap((rule) => rule.scopes.map(parseScope))
    const scopes = narrow(granted, request.scope)
    const expiresIn = Math.min(...fitting.map((rule) => rule.ttl))
    const subject = subjectOf(claims)
    const { token, id } = await issued.issue({
      subject,
      userId: null,
      scopes: scopes.map(parseScope),
      client: String(claims.iss),
      expiresIn,
    })
    const scope = scopes.join(' ')
    const event = {
      actor: subject,
      action: 'token.exchange',
      subject: `token:${id}`,
      source: request.source,
      data: { issuer: claims.iss, sub: claims.sub, scope, expires_in: expiresIn },
    }
    await recordEvent(db, event, this.#now())
    return { token, subject, expiresIn, scope }
  }

  /** The claims of a token whose signature is good, and the rules for its issuer, audience and keys. */
  async #verify(jwt: string): Promise<{ claims: JWTPayload; rules: readonly TrustRule[] }> {
    const issuer = readIssuer(jwt)
    // Nothing is fetched for an issuer that no rule names.
    const trusted = this.#options.rules.filter((rule) => rule.issuer === issuer)
    if (issuer === undefined || trusted.length === 0) {
      throw new OAuthError('invalid_request', 'this server does not trust the issuer of the subject token')
    }
    const sources = new Set(trusted.map(keysOf))
    let failure: unknown
    for (const source of sources) {
      const keys = this.#keys.get(source) as IssuerKeys
      try {
        const { payload } = await jwtVerify(jwt, keys.find, {
          issuer,
          algorithms: ALGORITHMS,
          clockTolerance: LEEWAY,
          currentDate: new Date(this.#now()),
          requiredClaims: ['exp', 'sub'],
        })
        if (payload.iat !== undefined && payload.iat > this.#now() / 1000 + LEEWAY) throw invalid()
        // A token for several parties could be passed on by any of them.
        const audiences = [payload.aud].flat()
        const audience = audiences.length === 1 ? audiences[0] : undefined
        const rules = trusted.filter((rule) => keysOf(rule) === source && rule.audience === audience)
        if (rules.length > 0) return { claims: payload, rules }
        failure = new OAuthError(
          'invalid_request',
          'the audience of the subject token is not the one that this server trusts',
        )
      } catch (error) {
        failure = error
      }
    }
    if (failure instanceof OAuthError) throw failure
    if (isTimoneError(failure, 'unavailable')) {
      throw new OAuthError('temporarily_unavailable', `${failure.message}: try again later`, {
        cause: failure,
      })
    }
    if (failure instanceof errors.JWTExpired)
      throw new OAuthError('invalid_request', 'the subject token has expired')
    throw invalid(failure)
  }
}

function invalid(cause?: unknown): OAuthError {
  return new OAuthError('invalid_request', 'the subject token is not valid', { cause })
}

function keysOf({ issuer, jwksUrl }: Pick<TrustRule, 'issuer' | 'jwksUrl'>): string {
  return JSON.stringify([issuer, jwksUrl])
}

/** `iss` before anything is checked: only to choose the keys. */
function readIssuer(jwt: string): string | undefined {
  if (jwt.length > MAX_TOKEN_LENGTH) throw invalid()
  try {
    return decodeJwt(jwt).iss
  } catch (error) {
    throw invalid(error)
  }
}

/** What is asked for, all of which must be given; else all that is given. */
function narrow(granted: readonly Scope[], wanted: string | undefined): string[] {
  if (wanted === undefined || wanted.trim() === '') return [...new Set(granted.map(printScope))]
  return wanted
    .split(' ')
    .filter((text) => text !== '')
    .map((text) => {
      let scope: Scope
      try {
        scope = parseScope(text)
      } catch {
        throw new OAuthError('invalid_scope', 'a scope reads <noun>:<resource>:<level>, as lfs:org/repo:r')
      }
      if (!allows(granted, scope)) {
        throw new OAuthError('invalid_scope', 'the trust rules that fit do not give all of these scopes')
      }
      return printScope(scope)
    })
}

/** Stable name of a job's repository: `ci:gitlab.com:group/project`. */
function subjectOf(claims: JWTPayload): string {
  const { iss, sub, repository, project_path: project } = claims
  const name = [repository, project, sub].find((value) => typeof value === 'string' && value !== '')
  const subject = `ci:${new URL(String(iss)).host}:${String(name)}`
  if (subject.length > 255 || /\p{Cc}/u.test(subject)) throw invalid()
  return subject
}
