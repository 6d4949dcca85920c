import { type Repository, repositoryName } from '../repository.ts'
import { allows, type Scope } from './scope.ts'

/**
 * What a token that we put into an answer is good for, and nothing else:
 * `transfer` the credentials and transfers routes, `renew` the credentials route, `verify` the verify route.
 * A token without a use is a person's or runner's own and opens Batch and locks.
 */
export type TokenUse = 'transfer' | 'renew' | 'verify'

/** Who asks, and what they may do. Made by `authenticate.ts` only, from a token that was checked. */
export interface Principal {
  /** Stable name of the user. */
  readonly subject: string
  /** `full`: the operator's full trust for LFS, which a token without scopes has always had. */
  readonly scopes: readonly Scope[] | 'full'
  readonly use?: TokenUse
  /** Direction that a token with a use is limited to. */
  readonly operation?: 'upload' | 'download'
  /** Seconds since the epoch: when the user signed in, from which the total life of renewals counts. */
  readonly authTime: number
  /** Our own user, where the token names one. */
  readonly userId?: number
  /** Name of a token that can be revoked. */
  readonly tokenId?: string
  /** Seconds since the epoch: when that token expires. */
  readonly expiresAt?: number
}

/** May this principal download from `repository`? */
export function mayRead(principal: Principal, repository: Repository): boolean {
  return mayAct(principal, repository, 'r')
}

/** May this principal upload to `repository`, and take locks in it? */
export function mayWrite(principal: Principal, repository: Repository): boolean {
  return mayAct(principal, repository, 'rw')
}

function mayAct(principal: Principal, repository: Repository, level: 'r' | 'rw'): boolean {
  if (principal.scopes === 'full') return true
  return allows(principal.scopes, { noun: 'lfs', resource: repositoryName(repository), level })
}
