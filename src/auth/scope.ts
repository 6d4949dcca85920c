import { TimoneError } from '../errors.ts'

/**
 * One right: `<noun>:<resource>:<level>`, for example `lfs:foo/bar:rw`.
 * A segment of `resource` may be `*` as a whole; `*` alone is every resource of the noun.
 */
export interface Scope {
  readonly noun: string
  readonly resource: string
  readonly level: string
}

/** How the levels of a noun compare: `rw` includes `r`, or each right of a comma list stands for itself. */
const NOUNS: ReadonlyMap<string, 'access' | 'rights'> = new Map([
  ['lfs', 'access'],
  ['storage', 'access'],
  ['users', 'access'],
  ['lease', 'rights'],
])

const SEGMENT = /^(?:\*|[A-Za-z0-9_@~+-][A-Za-z0-9._@~+-]{0,99})$/
const RIGHT = /^[a-z0-9_-]{1,64}(?:=[a-z0-9_-]{1,64})?$/

/**
 * Reads one scope.
 * @throws {TimoneError} `invalid`: not of the grammar; the message says which part.
 */
export function parseScope(text: string): Scope {
  const [noun, resource, level, ...rest] = text.split(':')
  if (noun === undefined || resource === undefined || level === undefined || rest.length > 0) {
    throw malformed('it must read <noun>:<resource>:<level>, as in lfs:foo/bar:rw')
  }
  const kind = NOUNS.get(noun)
  if (kind === undefined) throw malformed(`its noun must be one of ${[...NOUNS.keys()].join(', ')}`)
  const segments = resource.split('/')
  if (segments.length > 8 || !segments.every((segment) => SEGMENT.test(segment))) {
    throw malformed('its resource must be names separated by /, each of which may be * as a whole')
  }
  if (noun === 'lfs' && resource !== '*' && segments.length !== 2) {
    throw malformed('the resource of lfs must be org/repo, org/* or *')
  }
  if (
    kind === 'access'
      ? level !== 'r' && level !== 'rw'
      : !level.split(',').every((right) => RIGHT.test(right))
  ) {
    throw malformed(
      kind === 'access' ? 'its level must be r or rw' : 'its level must be rights separated by commas',
    )
  }
  return { noun, resource, level }
}

/**
 * Reads scopes separated by spaces (RFC 6749, section 3.3). No scope at all is an empty list: no rights.
 * @throws {TimoneError} `invalid` when one of them is malformed.
 */
export function parseScopes(text: string): Scope[] {
  return text
    .split(' ')
    .filter((part) => part !== '')
    .map(parseScope)
}

/** The text that {@link parseScope} reads back as the same scope. */
export function printScope(scope: Scope): string {
  return `${scope.noun}:${scope.resource}:${scope.level}`
}

/**
 * Does one of `granted` include `wanted`? More grants never take a right away.
 * `wanted` may itself hold `*`, which only a `*` in the same place, or `*` alone, grants.
 */
export function allows(granted: readonly Scope[], wanted: Scope): boolean {
  return granted.some(
    (scope) =>
      scope.noun === wanted.noun &&
      includesResource(scope.resource, wanted.resource) &&
      includesLevel(scope.noun, scope.level, wanted.level),
  )
}

function includesResource(pattern: string, resource: string): boolean {
  if (pattern === '*') return true
  const patterns = pattern.split('/')
  const segments = resource.split('/')
  return (
    patterns.length === segments.length &&
    patterns.every((part, index) => part === segments[index] || (part === '*' && segments[index] !== ''))
  )
}

function includesLevel(noun: string, granted: string, wanted: string): boolean {
  if (NOUNS.get(noun) === 'access') return granted === wanted || (granted === 'rw' && wanted === 'r')
  const rights = new Set(granted.split(','))
  return wanted.split(',').every((right) => rights.has(right))
}

function malformed(why: string): TimoneError {
  return new TimoneError('invalid', `malformed scope: ${why}`)
}

/** What of `wanted` is within `granted`: where they overlap in part, the part. */
export function narrow(wanted: readonly Scope[], granted: readonly Scope[]): Scope[] {
  const both = wanted.flatMap((scope) => granted.map((other) => meet(scope, other)))
  const found = both.filter((scope) => scope !== undefined)
  // Without those that others of them include.
  return found.filter(
    (scope, index) =>
      !found.some(
        (other, at) => at !== index && allows([other], scope) && (at < index || !allows([scope], other)),
      ),
  )
}

/** What both of two scopes allow; undefined: nothing. */
function meet(one: Scope, two: Scope): Scope | undefined {
  if (one.noun !== two.noun) return undefined
  const resource = meetResource(one.resource, two.resource)
  const level = meetLevel(one.noun, one.level, two.level)
  return resource === undefined || level === undefined ? undefined : { noun: one.noun, resource, level }
}

function meetResource(one: string, two: string): string | undefined {
  if (one === '*') return two
  if (two === '*') return one
  const [parts, others] = [one.split('/'), two.split('/')]
  if (parts.length !== others.length) return undefined
  const both = parts.map((part, at) => (part === '*' ? others[at] : part))
  return both.every((part, at) => part === others[at] || others[at] === '*') ? both.join('/') : undefined
}

function meetLevel(noun: string, one: string, two: string): string | undefined {
  if (NOUNS.get(noun) === 'access') return one === 'rw' ? two : one
  const rights = new Set(two.split(','))
  const both = one.split(',').filter((right) => rights.has(right))
  return both.length === 0 ? undefined : both.join(',')
}
