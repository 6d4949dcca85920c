import { createHash } from 'node:crypto'
import * as z from 'zod/mini'
import type { Principal } from '../auth/principal.ts'
import { refused } from '../auth/tokens.ts'
import { readAtMost } from '../bounded-text.ts'
import { TimoneError } from '../errors.ts'
import { ExpiringCache } from '../expiring-cache.ts'
import { type Repository, repositoryName } from '../repository.ts'

/** How tokens of GitHub begin: personal, OAuth, app's user and installation (`GITHUB_TOKEN`), fine-grained. */
const GITHUB_TOKEN = /^(?:gh[pousr]_|github_pat_)[\w.-]{10,2000}$/

/** So long an answer of GitHub's counts, milliseconds: rights that are taken there end here soon. */
const LIFE = 60_000
const TIMEOUT = 5_000
const MAX_ANSWER = 512 * 1024
/** Seconds to wait where GitHub does not say. */
const WAIT = 60

const Repo = z.object({
  full_name: z.string(),
  permissions: z.optional(z.object({ pull: z.optional(z.boolean()), push: z.optional(z.boolean()) })),
})
const Account = z.object({ login: z.string().check(z.regex(/^[A-Za-z0-9_.[\]-]{1,100}$/)) })

export interface GithubUsersOptions {
  /** Base of the REST API, without a slash at the end: `https://api.github.com`, or `https://HOST/api/v3`. */
  apiUrl: string
  /** `org/repo` or `org/*`: whose namesakes at GitHub decide. */
  repositories: readonly string[]
  fetch?: typeof fetch
  /** Milliseconds since the epoch. */
  now?: () => number
}

interface Rights {
  level: 'none' | 'r' | 'rw'
  subject: string
}

/** Lets holders of a GitHub token do in a repository what they may do in its namesake at GitHub. */
export class GithubUsers {
  readonly #options: GithubUsersOptions
  readonly #fetch: typeof fetch
  readonly #now: () => number
  readonly #rights: ExpiringCache<Rights | 'refused'>

  constructor(options: GithubUsersOptions) {
    this.#options = options
    this.#fetch = options.fetch ?? fetch
    this.#now = options.now ?? Date.now
    this.#rights = new ExpiringCache({ max: 10_000, now: this.#now })
  }

  /** Does this password look like a token of GitHub's? */
  isToken(password: string): boolean {
    return GITHUB_TOKEN.test(password)
  }

  /**
   * @throws {TimoneError} `unauthorized` for a token that GitHub does not take, or a repository that GitHub is not asked
   *   about; `rate_limited` or `unavailable` when GitHub does not answer: nothing is let in then
   */
  async principal(token: string, repository: Repository): Promise<Principal> {
    const name = repositoryName(repository)
    const { repositories } = this.#options
    if (!repositories.includes(name) && !repositories.includes(`${repository.org}/*`)) throw refused()
    const key = JSON.stringify([createHash('sha256').update(token).digest('base64url'), name])
    const rights = await this.#rights.get(key, async () => ({
      value: await this.#ask(token, name),
      until: this.#now() + LIFE,
    }))
    if (rights === 'refused') throw refused()
    const { level, subject } = rights
    return {
      subject,
      scopes: level === 'none' ? [] : [{ noun: 'lfs', resource: name, level }],
      authTime: Math.floor(this.#now() / 1000),
    }
  }

  async #ask(token: string, name: string): Promise<Rights | 'refused'> {
    const answer = await this.#get(`/repos/${name}`, token)
    if (answer.status === 401) return 'refused'
    const { data } = Repo.safeParse(answer.json)
    // Not theirs to see, or moved elsewhere: whoever has the old name now is somebody else.
    const seen =
      answer.status === 200 && data !== undefined && data.full_name.toLowerCase() === name.toLowerCase()
    const level = !seen ? 'none' : data.permissions?.push ? 'rw' : data.permissions?.pull ? 'r' : 'none'
    return { level, subject: await this.#subject(token, name) }
  }

  /** The user behind a token; a job's token has none. */
  async #subject(token: string, name: string): Promise<string> {
    if (!token.startsWith('ghs_')) {
      const { status, json } = await this.#get('/user', token)
      const { data } = Account.safeParse(json)
      if (status === 200 && data !== undefined) return `github:${data.login}`
    }
    return `github:${name}`
  }

  /** One GET (GitHub REST API, "Getting started", "Rate limits"). */
  async #get(path: string, token: string): Promise<{ status: number; json: unknown }> {
    const { apiUrl } = this.#options
    let status: number
    let headers: Headers
    let text: string | undefined
    try {
      const response = await this.#fetch(`${apiUrl}${path}`, {
        redirect: 'manual',
        headers: {
          authorization: `Bearer ${token}`,
          accept: 'application/vnd.github+json',
          'x-github-api-version': '2022-11-28',
          'user-agent': 'timone',
        },
        signal: AbortSignal.timeout(TIMEOUT),
      })
      ;({ status, headers } = response)
      text = await readAtMost(response, MAX_ANSWER)
      if (text === undefined) throw new TimoneError('too_large', 'the answer of GitHub is too large')
    } catch (cause) {
      throw new TimoneError('unavailable', 'GitHub does not answer: try again later', { cause })
    }
    const wait = headers.get('retry-after')
    const limited = status === 403 && (headers.get('x-ratelimit-remaining') === '0' || wait !== null)
    if (status === 429 || limited) {
      const reset = Number(headers.get('x-ratelimit-reset')) - this.#now() / 1000
      const seconds = Number(wait) > 0 ? Number(wait) : reset > 0 ? Math.ceil(reset) : WAIT
      throw new TimoneError('rate_limited', 'GitHub takes no more requests for this token now', {
        retryAfter: seconds,
      })
    }
    if (status >= 500)
      throw new TimoneError('unavailable', `GitHub answers ${status}: try again later`, { status })
    try {
      return { status, json: JSON.parse(text) }
    } catch {
      return { status, json: undefined }
    }
  }
}
