import { allows, parseScopes, type Scope } from '../auth/scope.ts'
import { TimoneError } from '../errors.ts'

/** A part of the storage as apps name it, `photos:rw` or `*:r` (draft-dejong-remotestorage-26, section 9). */
export interface AppScope {
  /** `*`: all of it. */
  readonly module: string
  readonly level: 'r' | 'rw'
}

const MAX_SCOPES = 20

/** @throws {TimoneError} `invalid` */
export function parseAppScopes(text: string): AppScope[] {
  const parts = [...new Set(text.split(' ').filter((part) => part !== ''))]
  if (parts.length === 0 || parts.length > MAX_SCOPES) throw malformed()
  return parts.map((part) => {
    const [, module, level] = /^(\*|[A-Za-z0-9_@+-][A-Za-z0-9._@+-]{0,99}):(rw|r)$/.exec(part) ?? []
    // The public folders are part of the modules that they belong to.
    if (module === undefined || module === 'public') throw malformed()
    return { module, level: level as 'r' | 'rw' }
  })
}

export function printAppScopes(scopes: readonly AppScope[]): string {
  return scopes.map(({ module, level }) => `${module}:${level}`).join(' ')
}

/** As tokens hold it. */
export function storageScopes(scopes: readonly AppScope[]): string[] {
  return scopes.map(({ module, level }) => `storage:${module}:${level}`)
}

/** True when `granted`, as tokens hold it, includes all of `wanted`. */
export function includesAll(granted: readonly string[], wanted: readonly AppScope[]): boolean {
  const scopes: Scope[] = parseScopes(granted.join(' '))
  return wanted.every(({ module, level }) => allows(scopes, { noun: 'storage', resource: module, level }))
}

/** In plain words, for a person. */
export function describeAppScope({ module, level }: AppScope): string {
  const verb = level === 'rw' ? 'read, change and delete' : 'read, but not change,'
  return module === '*'
    ? `${verb} everything in your storage`
    : `${verb} what is in “${module}”, and in its public folder`
}

function malformed(): TimoneError {
  return new TimoneError(
    'invalid',
    'The app does not say what it wants to open: its scope must read as photos:rw, or *:r.',
  )
}
