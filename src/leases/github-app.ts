import { createPrivateKey, type KeyObject } from 'node:crypto'
import { SignJWT } from 'jose'
import * as z from 'zod/mini'
import { TimoneError } from '../errors.ts'
import { readGitHubResource } from './github-resource.ts'
import type { LeaseSource, Minted, MintRequest } from './lease.ts'
import { askUpstream, quote, retryAfterOf, type UpstreamAnswer } from './upstream.ts'

/** An app that is registered at GitHub. */
export interface GitHubApp {
  /** Its id, or its client id. */
  readonly id: string
  /** PEM, PKCS#1 as GitHub hands it out or PKCS#8. */
  readonly privateKey: string
}

export interface GitHubAppsOptions {
  apps: readonly GitHubApp[]
  /** `https://api.github.com`, or `https://HOST/api/v3` of a GitHub Enterprise Server. */
  api: string
  /** Seconds before a token's end from which it is renewed. */
  renewBefore: number
  /** Milliseconds since the epoch. */
  now?: () => number
}

/** Seconds that a JWT of ours lives: GitHub takes up to ten minutes, by its own clock. */
const JWT_LIFE = 540
/** Seconds that our clock may be ahead of GitHub's. */
const JWT_LEEWAY = 60

const Installation = z.object({ id: z.number() })
const Token = z.object({ token: z.string().check(z.minLength(1)), expires_at: z.string() })

/**
 * Installation access tokens of GitHub Apps, for one repository each
 * (docs.github.com/rest/apps/apps#create-an-installation-access-token-for-an-app). Tokens are opaque, of any length.
 */
export class GitHubApps implements LeaseSource {
  readonly renewBefore: number
  readonly needsConsent = false
  readonly remedy = 'ask the operator of this server'
  readonly #apps: readonly { id: string; key: KeyObject }[]
  readonly #api: string
  readonly #now: () => number
  /** Milliseconds that GitHub's clock is ahead of ours, once that has mattered. */
  #skew = 0

  /** @throws {TimoneError} `config` for a private key that is none */
  constructor(options: GitHubAppsOptions) {
    this.renewBefore = options.renewBefore
    this.#api = options.api.replace(/\/+$/, '')
    this.#now = options.now ?? Date.now
    this.#apps = options.apps.map(({ id, privateKey }) => ({ id, key: readKey(id, privateKey) }))
  }

  /** @throws {TimoneError} `invalid` where no app is installed, or GitHub refuses; `upstream` for later */
  async mint({ resource, signal }: MintRequest): Promise<Minted> {
    const { namespace, repository, permissions } = readGitHubResource(resource)
    for (const app of this.#apps) {
      const found = await this.#ask(app, 'GET', `/repos/${namespace}/${repository}/installation`, signal)
      if (found.status === 404) continue
      const installation = Installation.safeParse(found.json)
      if (found.status !== 200 || !installation.success) throw this.#refusal(found)

      const body = {
        repositories: [repository],
        ...(Object.keys(permissions).length === 0 ? {} : { permissions }),
      }
      const path = `/app/installations/${installation.data.id}/access_tokens`
      const answer = await this.#ask(app, 'POST', path, signal, body)
      const token = Token.safeParse(answer.json)
      if (answer.status !== 201 || !token.success) throw this.#refusal(answer)
      const expiresAt = Date.parse(token.data.expires_at)
      if (Number.isNaN(expiresAt))
        throw new TimoneError('upstream', 'GitHub answered without a date of expiry')
      return { accessToken: token.data.token, tokenType: 'token', expiresAt }
    }
    throw new TimoneError(
      'invalid',
      `Failed to retrieve a token: App is not installed on ${namespace}/${repository}`,
    )
  }

  async #ask(
    app: { id: string; key: KeyObject },
    method: string,
    path: string,
    signal: AbortSignal,
    body?: object,
  ): Promise<UpstreamAnswer> {
    const send = async (): Promise<UpstreamAnswer> =>
      askUpstream('GitHub', {
        url: `${this.#api}${path}`,
        method,
        headers: {
          accept: 'application/vnd.github+json',
          authorization: `Bearer ${await this.#jwt(app)}`,
          'content-type': 'application/json',
          'user-agent': 'timone',
          'x-github-api-version': '2022-11-28',
        },
        signal,
        ...(body === undefined ? {} : { body: JSON.stringify(body) }),
      })
    const answer = await send()
    if (answer.status !== 401) return answer
    // A JWT from the future or the past is refused: by whose clock, the answer says.
    const skew = Date.parse(answer.headers.get('date') ?? '') - this.#now()
    if (Number.isNaN(skew) || Math.abs(skew - this.#skew) < JWT_LEEWAY * 500) return answer
    this.#skew = skew
    return send()
  }

  #jwt(app: { id: string; key: KeyObject }): Promise<string> {
    const now = Math.floor((this.#now() + this.#skew) / 1000)
    return new SignJWT()
      .setProtectedHeader({ alg: 'RS256', typ: 'JWT' })
      .setIssuer(app.id)
      .setIssuedAt(now - JWT_LEEWAY)
      .setExpirationTime(now + JWT_LIFE)
      .sign(app.key)
  }

  /** Rate limits are said with 403 or 429 (docs.github.com/rest/using-the-rest-api/rate-limits-for-the-rest-api). */
  #refusal({ status, headers, json }: UpstreamAnswer): TimoneError {
    const said = quote((json as { message?: unknown } | undefined)?.message)
    const limited =
      status === 429 ||
      (status === 403 &&
        (headers.has('retry-after') ||
          headers.get('x-ratelimit-remaining') === '0' ||
          /rate limit/i.test(said)))
    if (limited) {
      const reset = Number(headers.get('x-ratelimit-reset') ?? Number.NaN) - this.#now() / 1000
      const retryAfter = retryAfterOf(headers, this.#now()) ?? (reset > 0 ? reset : 60)
      return new TimoneError('upstream', 'GitHub wants fewer requests: try again later', {
        status,
        retryAfter,
      })
    }
    if (status < 400 || status >= 500) {
      const retryAfter = retryAfterOf(headers, this.#now())
      const wait = retryAfter === undefined ? {} : { retryAfter }
      return new TimoneError('upstream', `GitHub answered ${status}: try again later`, { status, ...wait })
    }
    return new TimoneError('invalid', `GithubException: ${status} ${said}`.trim(), { status })
  }
}

/** `crypto` reads both kinds of PEM; the error of one that it does not read says nothing of the key. */
function readKey(id: string, pem: string): KeyObject {
  let key: KeyObject
  try {
    key = createPrivateKey(pem)
  } catch {
    throw new TimoneError('config', `the private key of the GitHub App ${id} is no PEM of a private key`)
  }
  if (key.asymmetricKeyType !== 'rsa')
    throw new TimoneError(
      'config',
      `the private key of the GitHub App ${id} is no RSA key: GitHub takes no others`,
    )
  return key
}
