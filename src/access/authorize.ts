import { authenticate, basicPassword } from '../auth/authenticate.ts'
import { mayRead, mayWrite, type Principal, type TokenUse } from '../auth/principal.ts'
import type { Tokens } from '../auth/tokens.ts'
import { TimoneError } from '../errors.ts'
import { type Repository, repositoryName } from '../repository.ts'
import type { Operation } from './credentials.ts'
import type { RateLimit } from './rate-limit.ts'

/** Subject of whoever downloads from a public repository without signing in. */
export const ANONYMOUS = 'anonymous'

/** Passwords that another service has issued, and decides on. */
export interface ForeignPasswords {
  isToken(password: string): boolean
  /** @throws {TimoneError} `unauthorized`, or what keeps the issuer from answering */
  principal(password: string, repository: Repository): Promise<Principal>
}

export interface GateOptions {
  tokens: Tokens
  /** `org/repo`, or `org/*` for all of an organisation: downloads are served to anyone. */
  publicRepositories: readonly string[]
  /** Somebody else's passwords, of which only their issuer knows what they open, as GitHub's tokens. */
  foreign?: ForeignPasswords | undefined
  /** How often each of them may ask. */
  rateLimit: RateLimit
  /** Milliseconds since the epoch. */
  now?: () => number
}

/** Decides on every LFS route who may do what: 401, 403 and 404 as git-lfs `docs/api/batch.md` has them. */
export class Gate {
  readonly #tokens: Tokens
  readonly #public: ReadonlySet<string>
  readonly #rateLimit: RateLimit
  readonly #foreign: ForeignPasswords | undefined
  readonly #now: () => number

  constructor(options: GateOptions) {
    this.#foreign = options.foreign
    this.#tokens = options.tokens
    this.#public = new Set(options.publicRepositories)
    this.#rateLimit = options.rateLimit
    this.#now = options.now ?? Date.now
  }

  /**
   * Who sent `authorization`, if they may know that `repository` exists; undefined for whoever reads a public one without
   * signing in. A token that we made for one use is good for the routes named in `uses` only, a person's own for all.
   * @throws {TimoneError} `unauthorized` without good credentials; `rate_limited`; `not_found` without the right to read, as if the
   * repository did not exist.
   */
  async identify(
    authorization: string | undefined,
    repository: Repository,
    uses: readonly TokenUse[] = [],
  ): Promise<Principal | undefined> {
    const password = this.#foreign === undefined ? undefined : basicPassword(authorization)
    const known =
      password !== undefined && this.#foreign?.isToken(password)
        ? await this.#foreign.principal(password, repository)
        : await authenticate(authorization, this.#tokens)
    // What an answer of ours lets them do was counted with the request for it.
    if (known?.use === undefined) this.#rateLimit.take(known?.subject ?? ANONYMOUS)
    const isPublic = this.#isPublic(repository)
    if (known === undefined) {
      if (isPublic) return undefined
      throw signIn()
    }
    if (known.use !== undefined && !uses.includes(known.use)) {
      throw new TimoneError('unauthorized', 'this token is not meant for this request')
    }
    if (!mayRead(known, repository) && !(isPublic && known.use === undefined)) {
      throw new TimoneError('not_found', 'no such repository')
    }
    return known
  }

  /**
   * The principal that does `operation`, given what {@link identify} found.
   * @throws {TimoneError} `unauthorized` when an upload needs signing in; `forbidden` when the right to write is
   * missing, or the token is for the other direction.
   */
  allow(known: Principal | undefined, repository: Repository, operation: Operation): Principal {
    if (known === undefined) {
      if (operation === 'upload') throw signIn()
      return { subject: ANONYMOUS, scopes: [], authTime: Math.floor(this.#now() / 1000) }
    }
    if (operation === 'upload' && !mayWrite(known, repository)) {
      throw new TimoneError('forbidden', `you may not write to ${repositoryName(repository)}`)
    }
    if (known.operation !== undefined && known.operation !== operation) {
      throw new TimoneError('forbidden', `this token is for the other direction, not for ${operation}`)
    }
    return known
  }

  #isPublic(repository: Repository): boolean {
    return this.#public.has(repositoryName(repository)) || this.#public.has(`${repository.org}/*`)
  }
}

function signIn(): TimoneError {
  return new TimoneError('unauthorized', 'sign in to use this repository: no credentials were sent')
}
