import { createHash } from 'node:crypto'
import { EncryptJWT, jwtDecrypt } from 'jose'
import * as client from 'openid-client'
import * as z from 'zod/mini'
import { TimoneError } from '../errors.ts'
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

export interface OidcLoginOptions extends LoginSettings {
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
}

/** Seconds for which a sign-in may be under way. */
export const PENDING_FOR = 600
/** Seconds by which the provider's clock may differ. */
const LEEWAY = 60
/** Seconds that the provider is waited for. */
const PATIENCE = 10
const MAX_TEXT = 1000

const Pending = z.object({
  state: z.string(),
  nonce: z.string(),
  verifier: z.string(),
  returnTo: z.string(),
})
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
export class OidcLogin {
  readonly #options: OidcLoginOptions
  readonly #now: () => number
  readonly #key: Uint8Array
  #config: Promise<client.Configuration> | undefined

  constructor(options: OidcLoginOptions) {
    this.#options = options
    this.#now = options.now ?? Date.now
    this.#key = createHash('sha256').update(`timone pending sign-in\0${options.secret}`).digest()
  }

  /** Where the provider sends people back to. */
  get redirectUri(): string {
    return `${this.#options.url}/auth/callback`
  }

  /**
   * Begins a sign-in.
   * @param returnTo local path, checked already
   * @returns where to send the browser, and what it must bring back in a cookie
   * @throws {TimoneError} `unavailable` when the provider does not answer
   */
  async begin(returnTo: string): Promise<{ location: string; pending: string }> {
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
    const seconds = Math.floor(this.#now() / 1000)
    const pending = await new EncryptJWT({ state, nonce, verifier, returnTo })
      .setProtectedHeader({ alg: 'dir', enc: 'A256GCM' })
      .setExpirationTime(seconds + PENDING_FOR)
      .encrypt(this.#key)
    return { location: location.href, pending }
  }

  /**
   * Ends a sign-in that this browser began.
   * @param query of the callback
   * @throws {TimoneError} `forbidden` when this browser began none, it is too old, or the provider did not let them in;
   *   `unavailable` when the provider does not answer
   */
  async finish(query: string, pending: string | undefined): Promise<SignedIn> {
    const { state, nonce, verifier, returnTo } = await this.#read(pending)
    const config = await this.#configuration()
    const claims = await this.#exchange(config, query, { state, nonce, verifier })
    const known = Claims.parse(claims)
    const { groupsClaim } = this.#options
    return {
      identity: {
        issuer: this.#options.issuer,
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

  async #read(pending: string | undefined): Promise<z.infer<typeof Pending>> {
    try {
      const { payload } = await jwtDecrypt(pending ?? '', this.#key, {
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

  /** Read once; a failure is not kept. */
  async #configuration(): Promise<client.Configuration> {
    const { issuer, clientId, clientSecret } = this.#options
    this.#config ??= client
      .discovery(
        new URL(issuer),
        clientId,
        { [client.clockTolerance]: LEEWAY },
        client.ClientSecretBasic(clientSecret),
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

/** A claim of groups: a list of texts, or one text. */
function readGroups(value: unknown): string[] {
  return [value].flat().filter((item) => typeof item === 'string')
}

function failureOf(error: unknown): TimoneError {
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
