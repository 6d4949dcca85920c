import { basicPassword } from '../auth/authenticate.ts'
import { allows, parseScopes } from '../auth/scope.ts'
import { TimoneError } from '../errors.ts'
import type { FailureLimit } from '../failure-limit.ts'
import type { OpaqueTokens } from '../identity/opaque-tokens.ts'
import type { User, Users } from '../identity/users.ts'
import type { StoragePath } from './names.ts'

export interface Visitor {
  authorization: string | undefined
  /** `Origin` header: browsers always send it, other programs do not. */
  origin: string | undefined
  /** Address that the request comes from. */
  source: string
}

export interface Wish {
  login: string
  path: StoragePath
  write: boolean
}

/** Whose storage it is, and who asks. */
export interface Admission {
  readonly user: User
  /** Origin of the app; undefined: anybody, for a public document. */
  readonly client: string | undefined
}

/** Decides who may do what in whose storage (draft-dejong-remotestorage-26, sections 5 and 9). */
export class Doorkeeper {
  readonly #tokens: OpaqueTokens
  readonly #users: Users
  readonly #failures: { tokens: FailureLimit; documents: FailureLimit }

  constructor(
    tokens: OpaqueTokens,
    users: Users,
    failures: { tokens: FailureLimit; documents: FailureLimit },
  ) {
    this.#tokens = tokens
    this.#users = users
    this.#failures = failures
  }

  /**
   * @throws {TimoneError} `unauthorized` without a good token, `forbidden` when it is for something else, `not_found` for
   *   a public document of nobody, `rate_limited` after many wrong tokens
   */
  async admit(visitor: Visitor, wish: Wish): Promise<Admission> {
    const { login, path, write } = wish
    if (!write && isPublicDocument(path)) {
      const user = await this.#users.byLogin(login)
      if (user === undefined || user.disabledAt !== null) {
        this.missed(visitor)
        throw absent()
      }
      return { user, client: undefined }
    }
    const [, text] = /^Bearer +([^\s]+)$/i.exec(visitor.authorization ?? '') ?? []
    if (text === undefined) throw new TimoneError('unauthorized', 'an access token is needed')
    const token = await this.#tokens.find(text, 'app')
    if (token?.user === undefined || !comesFrom(visitor.origin, token.client)) {
      this.#failures.tokens.count(visitor.source)
      throw new TimoneError('unauthorized', 'the access token is not valid here: connect the app again')
    }
    if (token.user.login !== login.toLowerCase()) {
      throw new TimoneError('forbidden', 'the access token is for somebody else’s storage')
    }
    const scope = { noun: 'storage', resource: moduleOf(path) ?? '*', level: write ? 'rw' : 'r' }
    const granted = parseScopes(token.scopes.join(' '))
    const ok = allows(granted, scope)
    if (!ok) throw new TimoneError('forbidden', 'the access token does not open this part of the storage')
    return { user: token.user, client: token.client }
  }

  /**
   * Counts that a public document was not there: whoever knows where one is may read it, so nobody may try many names
   * (draft-dejong-remotestorage-26, section 14).
   * @throws {TimoneError} `rate_limited`
   */
  missed({ source }: Pick<Visitor, 'source'>): void {
    this.#failures.documents.count(source)
  }

  /**
   * Whose storage is cloned, by a token that may read all of it, as Basic password or Bearer.
   * @throws {TimoneError} as {@link admit}
   */
  async admitClone({ authorization, origin, source }: Visitor, login: string): Promise<User> {
    if (authorization === undefined)
      throw new TimoneError('unauthorized', 'a token that may read the storage is needed, as password')
    const [, bearer] = /^Bearer +([^\s]+)$/i.exec(authorization) ?? []
    const token = await this.#tokens.find(bearer ?? basicPassword(authorization) ?? '')
    const isGood = token?.kind === 'personal' || (token?.kind === 'app' && comesFrom(origin, token.client))
    if (token?.user === undefined || !isGood) {
      this.#failures.tokens.count(source)
      throw new TimoneError('unauthorized', 'the token is not valid here')
    }
    const whole = { noun: 'storage', resource: '*', level: 'r' }
    if (token.user.login !== login.toLowerCase() || !allows(parseScopes(token.scopes.join(' ')), whole))
      throw new TimoneError(
        'forbidden',
        'the token does not open this storage: it needs the scope storage:*:r',
      )
    return token.user
  }
}

/** The module that a path belongs to; undefined: only a grant for everything opens it. */
export function moduleOf({ segments, folder }: StoragePath): string | undefined {
  const names = segments[0] === 'public' ? segments.slice(1) : segments
  const name = names[0]
  // The module itself is a folder: a document beside it is not part of it.
  if (name === undefined || name === '*' || (names.length === 1 && !folder)) return undefined
  return /^[A-Za-z0-9_@+-][A-Za-z0-9._@+-]{0,99}$/.test(name) ? name : undefined
}

/** Documents, not folders, below `/public/` are there for everybody. */
export function isPublicDocument({ segments, folder }: StoragePath): boolean {
  return segments[0] === 'public' && segments.length > 1 && !folder
}

/** A token belongs to one app: a page of another origin may not use it. */
function comesFrom(origin: string | undefined, client: string): boolean {
  return origin === undefined || origin === client
}

function absent(): TimoneError {
  return new TimoneError('not_found', 'no such document')
}
