import { TimoneError } from './errors.ts'

/** An LFS repository, `org/repo`, both parts checked. */
export interface Repository {
  readonly org: string
  readonly repo: string
}

/** First path segments that are routes of the server and so can never be an organisation. */
export const RESERVED_ORGS: ReadonlySet<string> = new Set([
  'api',
  'auth',
  'oauth',
  'storage',
  'users',
  'account',
  'healthz',
  'readyz',
  'metrics',
  '.well-known',
])

const NAME = /^[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}$/

/**
 * Checks the two path segments that name a repository; one `.git` suffix of `repo` is dropped, and a name that still has
 * one is none: with and without the suffix must be the same repository.
 * @throws {TimoneError} `not_found`: a name that cannot exist is answered like one that does not.
 */
export function parseRepository(org: string, repo: string): Repository {
  const name = repo.endsWith('.git') ? repo.slice(0, -4) : repo
  if (!NAME.test(org) || !NAME.test(name) || name.endsWith('.git') || RESERVED_ORGS.has(org)) {
    throw new TimoneError('not_found', 'no such repository')
  }
  return { org, repo: name }
}

/** `org/repo`, as scopes, keys and messages spell it. */
export function repositoryName(repository: Repository): string {
  return `${repository.org}/${repository.repo}`
}
