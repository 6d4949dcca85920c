import { isOid, type Oid } from '../oid.ts'
import { parseRepository, type Repository } from '../repository.ts'

/**
 * The prefix of everything that belongs to one repository: `<prefix><org>/<repo>/`.
 * Storage credentials are limited to it, so it always ends with a slash.
 */
export function repositoryPrefix(prefix: string, repository: Repository): string {
  return `${prefix}${repository.org}/${repository.repo}/`
}

/**
 * The prefix of the large documents of one user's storage: `<prefix>~<user id>/storage/`. No organisation's name may
 * begin with `~` (repository.ts), so that no token for LFS repositories, not even one for all of them, leads there.
 */
export function spacePrefix(prefix: string, userId: number): string {
  return `${prefix}~${userId}/storage/`
}

/** The key of an object: `<prefix><org>/<repo>/<oid[0:2]>/<oid[2:4]>/<oid>`, the layout that timone always had. */
export function objectKey(repositoryPrefix: string, oid: Oid): string {
  return `${repositoryPrefix}${oid.slice(0, 2)}/${oid.slice(2, 4)}/${oid}`
}

/** The object whose key this is; undefined for any other key: a bucket may hold things that are not ours. */
export function parseObjectKey(
  prefix: string,
  key: string,
): { repository: Repository; oid: Oid } | undefined {
  if (!key.startsWith(prefix)) return undefined
  const [org = '', repo = '', , , oid] = key.slice(prefix.length).split('/')
  if (!isOid(oid)) return undefined
  try {
    const repository = parseRepository(org, repo)
    return objectKey(repositoryPrefix(prefix, repository), oid) === key ? { repository, oid } : undefined
  } catch {
    return undefined
  }
}
