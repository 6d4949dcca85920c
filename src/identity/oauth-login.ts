import * as client from 'openid-client'
import * as z from 'zod/mini'
import { readAtMost } from '../bounded-text.ts'
import { TimoneError } from '../errors.ts'
import { type BrowserLogin, failureOf, redirectUriOf, type SignedIn } from './oidc-login.ts'
import { PendingSignIns } from './pending-sign-in.ts'

/** A plain OAuth 2.0 provider, as GitHub: it has no ID token, and says at an address of its own who somebody is. */
export interface OAuthLoginOptions {
  /** Name in the settings. */
  provider: string
  authorizationEndpoint: string
  tokenEndpoint: string
  /** Answers who a token is for, with `id` or `sub`; at GitHub `https://api.github.com/user`. */
  userinfoEndpoint: string
  clientId: string
  clientSecret?: string | undefined
  /** Public URL of this server. */
  url: string
  /** Encrypts what is pending; the operator's token secret. */
  secret: string
  /** Milliseconds since the epoch. */
  now?: (() => number) | undefined
}

/** Seconds that the provider is waited for. */
const PATIENCE = 10
const MAX_ANSWER = 256 * 1024

const text = z.catch(z.optional(z.string().check(z.maxLength(1000))), undefined)
const subject = z.union([z.string().check(z.minLength(1), z.maxLength(255)), z.int().check(z.positive())])
const Person = z.object({
  id: z.optional(subject),
  sub: z.optional(subject),
  login: text,
  preferred_username: text,
  name: text,
})

/** Signs people in at a plain OAuth 2.0 provider: authorization code with PKCE and state. */
export class OAuthLogin implements BrowserLogin {
  readonly issuer: string
  readonly #options: OAuthLoginOptions
  readonly #pending: PendingSignIns
  readonly #config: client.Configuration

  constructor(options: OAuthLoginOptions) {
    const { secret, provider, clientId, clientSecret, userinfoEndpoint, now = Date.now } = options
    this.#options = options
    this.#pending = new PendingSignIns({ secret, provider, now })
    const { host, href, protocol } = new URL(userinfoEndpoint)
    // GitHub's is the name that users of the interface for other programs are linked by. The whole address of another
    // provider is the issuer of no ID token, whose subjects are others.
    this.issuer = host === 'api.github.com' ? 'github' : href
    const server = {
      issuer: new URL(options.tokenEndpoint).origin,
      authorization_endpoint: options.authorizationEndpoint,
      token_endpoint: options.tokenEndpoint,
    }
    // In the body: what every plain OAuth 2.0 provider takes.
    const method = clientSecret === undefined ? client.None() : client.ClientSecretPost(clientSecret)
    this.#config = new client.Configuration(server, clientId, {}, method)
    this.#config.timeout = PATIENCE
    // The settings take http on loopback only.
    if (protocol === 'http:') client.allowInsecureRequests(this.#config)
  }

  async begin(returnTo: string, link?: string): Promise<{ location: string; pending: string }> {
    const [state, verifier] = [client.randomState(), client.randomPKCECodeVerifier()]
    const location = client.buildAuthorizationUrl(this.#config, {
      redirect_uri: redirectUriOf(this.#options),
      state,
      code_challenge: await client.calculatePKCECodeChallenge(verifier),
      code_challenge_method: 'S256',
    })
    const pending = await this.#pending.seal({ state, nonce: '', verifier, returnTo, link })
    return { location: location.href, pending }
  }

  async finish(query: string, pending: string | undefined): Promise<SignedIn> {
    const { state, verifier, returnTo, link } = await this.#pending.open(pending)
    let answer: unknown
    try {
      const url = new URL(`${redirectUriOf(this.#options)}${query}`)
      const checks = { expectedState: state, pkceCodeVerifier: verifier }
      const { access_token: token } = await client.authorizationCodeGrant(this.#config, url, checks)
      answer = await this.#ask(token)
    } catch (error) {
      throw error instanceof TimoneError ? error : failureOf(error)
    }
    const { data } = Person.safeParse(answer)
    const id = data?.id ?? data?.sub
    if (data === undefined || id === undefined)
      throw new TimoneError('unavailable', 'the provider does not say who you are: try again later')
    const { login = data.preferred_username, name } = data
    return {
      identity: { issuer: this.issuer, subject: String(id), label: login, name, login },
      groups: undefined,
      returnTo,
      link,
    }
  }

  /** Who the token is for. It is needed for nothing else, and not kept. */
  async #ask(token: string): Promise<unknown> {
    const headers = new Headers({ accept: 'application/json', 'user-agent': 'timone' })
    const url = new URL(this.#options.userinfoEndpoint)
    const response = await client.fetchProtectedResource(this.#config, token, url, 'GET', null, headers)
    const body = await readAtMost(response, MAX_ANSWER)
    try {
      return response.status === 200 && body !== undefined ? JSON.parse(body) : undefined
    } catch {
      return undefined
    }
  }
}
