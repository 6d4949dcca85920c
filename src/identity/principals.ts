import type { Kysely } from 'kysely'
import { authenticate } from '../auth/authenticate.ts'
import type { Principal } from '../auth/principal.ts'
import { narrow, parseScopes, type Scope } from '../auth/scope.ts'
import { type IssuedTokenCheck, refused, type Tokens } from '../auth/tokens.ts'
import type { Schema } from '../database/schema.ts'
import type { Grants } from './grants.ts'
import { isOpaqueToken, OpaqueTokens } from './opaque-tokens.ts'
import type { StoredToken } from './token-rows.ts'
import type { Users } from './users.ts'

/**
 * Who sent a request, by its `Authorization` header: an operator's JWT, a JWT that we issued, or an opaque personal
 * token, as Bearer or as Basic password.
 *
 * Scopes `full`, of operator's tokens without scopes, mean LFS and nothing else: never `users:`, `lease:`, `storage:`.
 * `userId` is set where a user of ours goes by the token's subject.
 * @returns undefined without a header
 * @throws {TimoneError} `unauthorized` for credentials that are not good, also for an operator's token of a user
 *   whom the operator has disabled
 */
export async function principalOf(
  authorization: string | undefined,
  { tokens, users }: { tokens: Tokens; users: Users },
): Promise<Principal | undefined> {
  const principal = await authenticate(authorization, tokens)
  if (principal === undefined || principal.userId !== undefined) return principal
  // A token for one use in one repository speaks for nobody elsewhere.
  if (principal.use !== undefined) throw refused()
  const user = await users.byLogin(principal.subject)
  if (user === undefined) return principal
  if (user.disabledAt !== null) throw refused()
  return { ...principal, userId: user.id }
}

/** Makes the principal of a token that the database knows, with no more rights than its user has now. */
export class IssuedPrincipals {
  readonly #grants: Grants
  readonly #now: () => number

  constructor(grants: Grants, now: () => number = Date.now) {
    this.#grants = grants
    this.#now = now
  }

  /** `subject` is for tokens of nobody: a runner's. */
  async of(token: StoredToken, subject: string | undefined): Promise<Principal> {
    const name = token.user?.login ?? subject
    if (name === undefined) throw refused()
    const scopes = parseScopes(token.scopes.join(' '))
    return {
      subject: name,
      scopes: token.user === undefined ? scopes : limit(scopes, await this.#grants.rightsOf(token.user)),
      authTime: Math.floor(this.#now() / 1000),
      tokenId: token.id,
      ...(token.userId === null ? {} : { userId: token.userId }),
      ...(token.expiresAt === null ? {} : { expiresAt: Math.floor(Date.parse(token.expiresAt) / 1000) }),
    }
  }
}

/** Checks opaque tokens: those that people made for themselves, and those of apps. Sessions and codes are no tokens. */
export class OpaqueTokenCheck implements IssuedTokenCheck {
  readonly #tokens: OpaqueTokens
  readonly #principals: IssuedPrincipals

  constructor(db: Kysely<Schema>, principals: IssuedPrincipals, now: () => number = Date.now) {
    this.#tokens = new OpaqueTokens(db, now)
    this.#principals = principals
  }

  async verify(token: string): Promise<Principal> {
    const found = isOpaqueToken(token) ? await this.#tokens.find(token) : undefined
    if (found === undefined || (found.kind !== 'personal' && found.kind !== 'app')) throw refused()
    return this.#principals.of(found, undefined)
  }
}

/** What of a token's scopes its user may still do. */
export function limit(scopes: readonly Scope[], rights: readonly Scope[]): Scope[] {
  const own = scopes.filter(isOwn)
  return [
    ...own,
    ...narrow(
      scopes.filter((scope) => !isOwn(scope)),
      rights,
    ),
  ]
}

/** What belongs to each user, and needs no grant: their storage, and their own accounts at other providers. */
export function isOwn({ noun, resource }: Scope): boolean {
  return noun === 'storage' || (noun === 'lease' && !/[*/]/.test(resource) && resource !== 'github')
}
