import * as client from 'openid-client'
import * as z from 'zod/mini'
import { TimoneError } from '../errors.ts'
import { PendingSignIns } from './pending-sign-in.ts'
import type { ForeignIdentity } from './users.ts'

/** How people sign in: `[login]` of the settings. */
export interface LoginSettings {
  /** Issuer URL of the identity provider, whose discovery document is read. */
  issuer: string
  clientId: string
  clientSecret: string
  /** Separated by spaces; `openid` among them. */
  scope: string
  /** Name of the claim that lists a user's groups; undefined: groups are not looked at. */
  groupsClaim?: string | undefined
  /** Seconds that tokens of `timone login` live. */
  tokenExpiresIn: number
}

export interface OidcLoginOptions extends Omit<LoginSettings, 'clientSecret' | 'tokenExpiresIn'> {
  /** Undefined: a public client. */
  clientSecret?: string | undefined
  /** Name of the provider in the settings; undefined: the one that makes users known here. */
  provider?: string | undefined
  /** Public URL of this server. */
  url: string
  /** Encrypts what is pending; the operator's token secret. */
  secret: string
  /** Milliseconds since the epoch. */
  now?: () => number
}

/** Somebody whom the provider vouches for. */
export interface SignedIn {
  identity: ForeignIdentity
  /** Undefined: groups are not looked at. */
  groups: string[] | undefined
  /** Local path to go on to. */
  returnTo: string
  /** Id of the session whose user the account is to be linked to; undefined: it is to sign in. */
  link: string | undefined
}

/** A provider at which people sign in with their browser. */
export interface BrowserLogin {
  /** As `identities` names it, or the discovery document of that. */
  readonly issuer: string
  /**
   * Begins a sign-in, or the linking of an account.
   * @param returnTo local path, checked already
   * @param link id of the session whose user the account is to be linked to
   * @returns where to send the browser, and what it must bring back in a cookie
   * @throws {TimoneError} `unavailable` when the provider does not answer
   */
  begin(returnTo: string, link?: string): Promise<{ location: string; pending: string }>
  /**
   * Ends what this browser began.
   * @param query of the callback
   * @throws {TimoneError} `forbidden` when this browser began none, it is too old, or the provider did not let them in;
   *   `unavailable` when the provider does not answer
   */
  finish(query: string, pending: string | undefined): Promise<SignedIn>
}

/** Seconds by which the provider's clock may differ. */
const LEEWAY = 60
/** Seconds that the provider is waited for. */
const PATIENCE = 10
const MAX_TEXT = 1000

const text = z.catch(z.optional(z.string().check(z.maxLength(MAX_TEXT))), undefined)
const Claims = z.object({
  sub: z.string().check(z.minLength(1), z.maxLength(255)),
  preferred_username: text,
  name: text,
  email: text,
  email_verified: z.catch(z.optional(z.boolean()), undefined),
  picture: text,
})

/** Signs people in at an OpenID provider: authorization code with PKCE, state and nonce. */
export class OidcLogin implements BrowserLogin {
  readonly #options: OidcLoginOptions
  readonly #pending: PendingSignIns
  #config: Promise<client.Configuration> | undefined

  constructor(options: OidcLoginOptions) {
    this.#options = options
    const { secret, provider = '', now = Date.now } = options
    this.#pending = new PendingSignIns({ secret, provider, now })
  }

  get issuer(): string {
    return this.#options.issuer
  }

  /** Where the provider sends people back to: an address of its own, so that no other's answer is taken for its. */
  get redirectUri(): string {
    return redirectUriOf(this.#options)
  }

  async begin(returnTo: string, link?: string): Promise<{ location: string; pending: string }> {
    const config = await this.#configuration()
    const [state, nonce, verifier] = [
      client.randomState(),
      client.randomNonce(),
      client.randomPKCECodeVerifier(),
    ]
    const location = client.buildAuthorizationUrl(config, {
      redirect_uri: this.redirectUri,
      scope: this.#options.scope,
      state,
      nonce,
      code_challenge: await client.calculatePKCECodeChallenge(verifier),
      code_challenge_method: 'S256',
    })
    const pending = await this.#pending.seal({ state, nonce, verifier, returnTo, link })
    return { location: location.href, pending }
  }

  async finish(query: string, pending: string | undefined): Promise<SignedIn> {
    const { state, nonce, verifier, returnTo, link } = await this.#pending.open(pending)
    const config = await this.#configuration()
    const claims = await this.#exchange(config, query, { state, nonce, verifier })
    const known = Claims.parse(claims)
    const { groupsClaim } = this.#options
    return {
      identity: {
        // Of others the settings may name the discovery document.
        issuer: this.#options.provider === undefined ? this.#options.issuer : config.serverMetadata().issuer,
        subject: known.sub,
        label: known.preferred_username ?? known.email,
        email: known.email,
        emailVerified: known.email_verified,
        name: known.name,
        picture: known.picture,
        login: known.preferred_username,
      },
      groups: groupsClaim === undefined ? undefined : readGroups(claims[groupsClaim]),
      returnTo,
      link,
    }
  }

  async #exchange(
    config: client.Configuration,
    query: string,
    { state, nonce, verifier }: { state: string; nonce: string; verifier: string },
  ): Promise<Record<string, unknown>> {
    try {
      const tokens = await client.authorizationCodeGrant(
        config,
        // Of our own making: what a proxy or a client calls us is not to be trusted.
        new URL(`${this.redirectUri}${query}`),
        { expectedState: state, expectedNonce: nonce, pkceCodeVerifier: verifier, idTokenExpected: true },
      )
      const claims = tokens.claims()
      if (claims === undefined) throw new TypeError('no ID token')
      if (config.serverMetadata().userinfo_endpoint === undefined) return { ...claims }
      // Most providers put no groups, and some no name, into the ID token.
      const more = await client.fetchUserInfo(config, tokens.access_token, claims.sub)
      return { ...more, ...claims }
    } catch (error) {
      throw failureOf(error)
    }
  }

  /** Read once; a failure is not kept. */
  async #configuration(): Promise<client.Configuration> {
    const { issuer, clientId, clientSecret } = this.#options
    this.#config ??= client
      .discovery(
        new URL(issuer),
        clientId,
        { [client.clockTolerance]: LEEWAY },
        clientSecret === undefined ? client.None() : client.ClientSecretBasic(clientSecret),
        {
          timeout: PATIENCE,
          execute: [
            // TLS would do for a token that comes straight from the provider (OpenID Connect Core, 3.1.3.7); signatures
            // also hold where somebody between us and the provider ends it.
            client.enableNonRepudiationChecks,
            // Settings allow plain http on loopback only.
            ...(issuer.startsWith('http://') ? [client.allowInsecureRequests] : []),
          ],
        },
      )
      .catch((error: unknown) => {
        this.#config = undefined
        throw new TimoneError(
          'unavailable',
          `the identity provider ${issuer} cannot be reached: try again later`,
          {
            cause: error,
          },
        )
      })
    return this.#config
  }
}

/** Where `provider` sends people back to. */
export function redirectUriOf({ url, provider }: { url: string; provider?: string | undefined }): string {
  return `${url}/auth/callback${provider === undefined ? '' : `/${provider}`}`
}

/** A claim of groups: a list of texts, or one text. */
function readGroups(value: unknown): string[] {
  return [value].flat().filter((item) => typeof item === 'string')
}

/** What is thrown for an error of the client library. */
export function failureOf(error: unknown): TimoneError {
  if (error instanceof client.AuthorizationResponseError && error.error === 'access_denied')
    return new TimoneError('forbidden', 'the identity provider did not let you in', { cause: error })
  const { code } = error as { code?: unknown }
  if (code === 'OAUTH_JWT_TIMESTAMP_CHECK_FAILED')
    return new TimoneError(
      'forbidden',
      'the clocks of this server and of the identity provider differ by more than a minute: ask the operator to set them',
      { cause: error },
    )
  if (error instanceof TypeError || code === 'OAUTH_TIMEOUT')
    return new TimoneError('unavailable', 'the identity provider does not answer: try again later', {
      cause: error,
    })
  return new TimoneError('forbidden', 'the sign-in did not succeed: begin again', { cause: error })
}
