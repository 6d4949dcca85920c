import * as client from 'openid-client'
import { TimoneError } from '../errors.ts'
import type { LeaseSource, Minted, MintRequest } from './lease.ts'
import { quote, retryAfterOf, unreachable } from './upstream.ts'

/** A provider at which users connect accounts of theirs: OpenID Connect, or plain OAuth 2.0. */
export interface OAuthProviderOptions {
  readonly id: string
  /** Undefined: plain OAuth 2.0, with its endpoints. */
  readonly issuer?: string | undefined
  readonly authorizationEndpoint?: string | undefined
  readonly tokenEndpoint?: string | undefined
  readonly revocationEndpoint?: string | undefined
  readonly clientId: string
  readonly clientSecret?: string | undefined
  readonly scope: string
}

/** What an authorization request was made with, and its answer is checked against. */
export interface PendingChecks {
  readonly state: string
  readonly nonce: string
  readonly verifier: string
}

/** Seconds for one answer; shorter than the lease broker waits. */
const TIMEOUT = 9
/** Seconds that clocks may differ. */
const LEEWAY = 60
/** Answers of token endpoints that end a refresh token for good (RFC 6749, section 5.2; GitHub's own). */
const GONE: ReadonlySet<string> = new Set(['invalid_grant', 'bad_refresh_token'])

/** One provider: sends users there, takes codes and refresh tokens to it, and takes back what it gave. */
export class OAuthProvider implements LeaseSource {
  readonly renewBefore = 60
  readonly needsConsent = true
  readonly remedy: string
  readonly #options: OAuthProviderOptions
  readonly #redirectUri: string
  readonly #now: () => number
  #configuration: Promise<client.Configuration> | undefined

  /** @param url public address of the server */
  constructor(options: OAuthProviderOptions, url: string, now: () => number = Date.now) {
    this.#options = options
    this.#now = now
    this.#redirectUri = `${url}/api/v1.0/${options.id}/redirect_uri`
    this.remedy = `connect again at ${url}/api/v1.0/${options.id}/authorize`
  }

  /** Where a browser is sent, and what its return is checked against. */
  async begin(): Promise<{ url: string; checks: PendingChecks }> {
    const checks = {
      state: client.randomState(),
      nonce: client.randomNonce(),
      verifier: client.randomPKCECodeVerifier(),
    }
    const { issuer, scope } = this.#options
    const url = client.buildAuthorizationUrl(await this.#ready(), {
      redirect_uri: this.#redirectUri,
      state: checks.state,
      code_challenge: await client.calculatePKCECodeChallenge(checks.verifier),
      code_challenge_method: 'S256',
      ...(scope === '' ? {} : { scope }),
      // A refresh token is given for consent, which a provider otherwise takes as given.
      ...(issuer === undefined ? {} : { nonce: checks.nonce, prompt: 'consent' }),
    })
    return { url: url.href, checks }
  }

  /**
   * Redeems the code with which a browser came back.
   * @param query of the request, with `code` and `state`
   * @throws {TimoneError} `invalid` for a code or state that is not good; `upstream`
   */
  async redeem(query: URLSearchParams, checks: PendingChecks): Promise<Minted> {
    const configuration = await this.#ready()
    const url = new URL(this.#redirectUri)
    url.search = query.toString()
    try {
      const answer = await client.authorizationCodeGrant(configuration, url, {
        expectedState: checks.state,
        pkceCodeVerifier: checks.verifier,
        ...(this.#options.issuer === undefined ? {} : { expectedNonce: checks.nonce }),
      })
      return this.#minted(answer)
    } catch (error) {
      throw this.#failure(error, 'invalid', 'did not take the code: it was used before, or took too long')
    }
  }

  async mint({ refreshToken }: MintRequest): Promise<Minted> {
    if (refreshToken === undefined) throw new TimoneError('lease_broken', 'there is no refresh token')
    const configuration = await this.#ready()
    try {
      return this.#minted(await client.refreshTokenGrant(configuration, refreshToken))
    } catch (error) {
      throw this.#failure(error, 'lease_broken', 'no longer takes the refresh token')
    }
  }

  /** Takes back a token at the provider (RFC 7009), if it can do that. @throws {TimoneError} `upstream` */
  async revoke(token: string, kind: 'refresh_token' | 'access_token'): Promise<void> {
    const configuration = await this.#ready()
    if (configuration.serverMetadata().revocation_endpoint === undefined) return
    try {
      await client.tokenRevocation(configuration, token, { token_type_hint: kind })
    } catch (error) {
      throw this.#failure(error, 'upstream', 'did not take the token back')
    }
  }

  /** Found once; looked for again when that failed. */
  #ready(): Promise<client.Configuration> {
    this.#configuration ??= this.#discover().catch((error: unknown) => {
      this.#configuration = undefined
      throw this.#failure(error, 'upstream', 'has no discovery document')
    })
    return this.#configuration
  }

  async #discover(): Promise<client.Configuration> {
    const { issuer, clientId, clientSecret, authorizationEndpoint, tokenEndpoint } = this.#options
    const authentication = clientSecret === undefined ? client.None() : undefined
    const metadata = { client_secret: clientSecret, [client.clockTolerance]: LEEWAY }
    const insecure = (issuer ?? tokenEndpoint ?? '').startsWith('http:')
    if (issuer !== undefined) {
      // The settings take http on loopback only.
      const execute = insecure ? [client.allowInsecureRequests] : []
      const options = { execute, timeout: TIMEOUT, [client.customFetch]: normalised }
      const method = authentication ?? client.ClientSecretBasic(clientSecret)
      return client.discovery(new URL(issuer), clientId, metadata as never, method, options)
    }
    const server = {
      issuer: new URL(tokenEndpoint ?? '').origin,
      authorization_endpoint: authorizationEndpoint ?? '',
      token_endpoint: tokenEndpoint ?? '',
      ...(this.#options.revocationEndpoint === undefined
        ? {}
        : { revocation_endpoint: this.#options.revocationEndpoint }),
    }
    // In the body: what every plain OAuth 2.0 provider takes.
    const method = authentication ?? client.ClientSecretPost(clientSecret)
    const configuration = new client.Configuration(server, clientId, metadata as never, method)
    configuration.timeout = TIMEOUT
    configuration[client.customFetch] = normalised
    if (insecure) client.allowInsecureRequests(configuration)
    return configuration
  }

  #minted(answer: Awaited<ReturnType<typeof client.refreshTokenGrant>>): Minted {
    const end = (seconds: unknown): number | undefined =>
      typeof seconds === 'number' && seconds > 0 ? this.#now() + seconds * 1000 : undefined
    return {
      accessToken: answer.access_token,
      refreshToken: answer.refresh_token,
      tokenType: answer.token_type,
      scope: answer.scope,
      expiresAt: end(answer.expires_in),
      // Not a standard, yet several have it.
      refreshExpiresAt: end(answer.refresh_expires_in) ?? end(answer.refresh_token_expires_in),
    }
  }

  /** @param gone code for what is over for good, said with `words` */
  #failure(error: unknown, gone: 'invalid' | 'lease_broken' | 'upstream', words: string): TimoneError {
    if (error instanceof TimoneError) return error
    const { id } = this.#options
    if (error instanceof client.ResponseBodyError) {
      if (GONE.has(error.error)) return new TimoneError(gone, `${id} ${words}`)
      return new TimoneError('upstream', `${id} refuses this server: ${quote(error.error, 60)}`, {
        cause: error,
      })
    }
    const causes = causesOf(error)
    const response = causes.find((cause) => cause instanceof Response)
    // Of the token endpoint's own answer, not of what the browser brought.
    const malformed = causes.some((cause) => typeof cause === 'object' && cause !== null && 'body' in cause)
    if (response !== undefined || malformed) {
      const retryAfter = response === undefined ? undefined : retryAfterOf(response.headers, this.#now())
      const wait = retryAfter === undefined ? {} : { retryAfter }
      return new TimoneError('upstream', `${id} gave an answer that is of no use: try again later`, wait)
    }
    const { code = '' } = error as { code?: string }
    if (gone === 'invalid' && /INVALID_RESPONSE|JWT/.test(code))
      return new TimoneError('invalid', `what ${id} sent back does not belong to this sign-in: start again`)
    return unreachable(id, error)
  }
}

/** GitHub says with 200 that it refuses; RFC 6749, section 5.2 has 400 for that. */
const normalised: client.CustomFetch = async (url, options) => {
  const response = await fetch(url, options as RequestInit)
  if (response.status !== 200 || options.method !== 'POST') return response
  const text = await response.clone().text()
  if (!/"error"\s*:/.test(text) || /"access_token"\s*:/.test(text)) return response
  return new Response(text, { status: 400, headers: response.headers })
}

/** An error and what it was made of, outermost first; the libraries wrap each other's. */
function causesOf(error: unknown): unknown[] {
  const causes: unknown[] = []
  for (let at = error; at !== undefined && causes.length < 5; at = (at as { cause?: unknown } | null)?.cause)
    causes.push(at)
  return causes
}
