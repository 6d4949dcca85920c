import { TimoneError } from '../errors.ts'
import { parseRepository, repositoryName } from '../repository.ts'

/** Where a repository's objects are asked for. */
export interface LfsAddress {
  /** What `lfs.url` is set to: ends with `/org/repo/info/lfs`. */
  readonly url: string
  /** Address of the server itself, without a slash at the end. */
  readonly server: string
  /** `org/repo`. */
  readonly repository: string
}

/**
 * Reads the address that `timone init` is given: `https://host/org/repo`, with or without `/info/lfs`.
 * @throws {TimoneError} `config`, saying what an address looks like; a user name or password is refused, for the
 *   address is committed
 */
export function parseLfsAddress(text: string): LfsAddress {
  const url = URL.parse(text)
  if (url === null || (url.protocol !== 'https:' && url.protocol !== 'http:'))
    throw wrong('it must begin with https://')
  if (url.username !== '' || url.password !== '') {
    throw wrong('leave out user name and password: everyone who can read the repository would see them')
  }
  if (url.search !== '' || url.hash !== '') throw wrong('leave out what begins with ? or #')
  const path = url.pathname.replace(/\/+$/, '').replace(/\/info\/lfs$/, '')
  const segments = path.split('/').slice(1)
  const repo = segments.pop()
  const org = segments.pop()
  if (org === undefined || repo === undefined)
    throw wrong('it must name org and repo, as in https://host/org/repo')
  let repository: string
  try {
    repository = repositoryName(parseRepository(org, repo))
  } catch (error) {
    throw wrong(
      `${org}/${repo} cannot be a repository: names are letters, digits, dot, dash and underscore`,
      error,
    )
  }
  const server = [url.origin, ...segments].join('/')
  return { url: `${server}/${repository}/info/lfs`, server, repository }
}

function wrong(why: string, cause?: unknown): TimoneError {
  return new TimoneError('config', `the address is not right: ${why}`, { cause })
}
