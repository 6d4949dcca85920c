import { TimoneError } from '../errors.ts'

/** A repository and what may be done to it. Names are in lower case: GitHub does not tell `Foo` from `foo`. */
export interface GitHubResource {
  readonly namespace: string
  readonly repository: string
  /** Level of each permission, as `contents` → `read`; empty: all that the app has. */
  readonly permissions: Readonly<Record<string, string>>
}

/** Levels from weak to strong; each includes those before it. */
const LEVELS = ['read', 'write', 'admin'] as const

/**
 * Reads the names in a path and the permissions asked for, `contents:read,issues:write`.
 * @throws {TimoneError} `invalid`
 */
export function parseGitHubResource(
  namespace: string,
  repository: string,
  permissions: string | undefined,
): GitHubResource {
  // Logins of managed users end with an underscore and a short code.
  if (!/^[A-Za-z0-9][A-Za-z0-9_-]{0,99}$/.test(namespace))
    throw new TimoneError('invalid', 'the namespace is no login that GitHub would give')
  if (!/^[A-Za-z0-9._-]{1,100}$/.test(repository) || repository === '.' || repository === '..')
    throw new TimoneError('invalid', 'the repository is no name that GitHub would give')
  return {
    namespace: namespace.toLowerCase(),
    repository: repository.toLowerCase(),
    permissions: permissions === undefined ? {} : parsePermissions(permissions.split(','), ':'),
  }
}

/** The resource as one text: one thing, one spelling. */
export function printGitHubResource({ namespace, repository, permissions }: GitHubResource): string {
  const rights = Object.entries(permissions)
    .map(([name, level]) => `${name}=${level}`)
    .sort()
  return `${namespace}/${repository}${rights.length === 0 ? '' : `?${rights.join(',')}`}`
}

/** What {@link printGitHubResource} gave. */
export function readGitHubResource(text: string): GitHubResource {
  const [path = '', rights] = text.split('?')
  const [namespace = '', repository = ''] = path.split('/')
  return {
    namespace,
    repository,
    permissions: rights === undefined ? {} : parsePermissions(rights.split(','), '='),
  }
}

/** Rights of a scope, `contents=read`, as permissions. Others are left out. */
export function permissionsOf(rights: readonly string[]): Record<string, string> {
  const known = rights.filter((right) => /^[a-z_]+=(read|write|admin)$/.test(right))
  return parsePermissions(known, '=')
}

/** Does `level` of a permission include `wanted`? */
export function includesLevel(level: string | undefined, wanted: string): boolean {
  const rank = (name: string | undefined): number => LEVELS.indexOf(name as (typeof LEVELS)[number])
  return level !== undefined && rank(level) >= rank(wanted)
}

function parsePermissions(items: readonly string[], separator: string): Record<string, string> {
  const permissions: Record<string, string> = {}
  for (const item of items) {
    const [name = '', level = '', ...rest] = item.trim().split(separator)
    if (rest.length > 0 || !/^[a-z][a-z_]{0,63}$/.test(name) || !LEVELS.some((known) => known === level))
      throw new TimoneError('invalid', 'permissions must read NAME:LEVEL, as in contents:read,issues:write')
    // The strongest of several: a list never takes a right away.
    if (!includesLevel(permissions[name], level)) permissions[name] = level
  }
  return permissions
}
