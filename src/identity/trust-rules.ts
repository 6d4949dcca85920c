import { parseScope } from '../auth/scope.ts'
import { TimoneError } from '../errors.ts'

/** Whose identity tokens the server takes, from which jobs, and what those may do then. */
export interface TrustRule {
  /** Issuer URL, exactly as the tokens have it in `iss`. */
  readonly issuer: string
  /** The one audience that the tokens must have. */
  readonly audience: string
  /** Claims that must all fit: the value, or a pattern in which `*` stands for any characters; one of a list is enough. */
  readonly match: Readonly<Record<string, readonly string[]>>
  /** Scopes of `auth/scope.ts`. */
  readonly scopes: readonly string[]
  /** Life of the tokens that are given for it, seconds. */
  readonly ttl: number
  /** Where the issuer's keys are; undefined: found by OIDC discovery. */
  readonly jwksUrl?: string | undefined
}

/** Claims that a value is given to by the caller, or that are the same for every token of an issuer. */
const NO_PIN: ReadonlySet<string> = new Set(['iss', 'aud', 'exp', 'iat', 'nbf', 'jti'])

const EXACT = /^[^*]+$/
const PATH = /^[^*/]+\//

/**
 * Issuers that sign for everyone who has an account there: a claim that only says which branch, or that a job runs,
 * is true for anybody. At least one pattern must name the owner.
 */
const SHARED_ISSUERS: readonly { issuer: RegExp; owners: Readonly<Record<string, RegExp>> }[] = [
  {
    // GitHub: `sub` names the repository, with or without the ids of owner and repository behind @, or is customised.
    issuer: /^https:\/\/token\.actions\.githubusercontent\.com(\/|$)/,
    owners: {
      sub: /^repo:[^*/]+\/|^repository_(owner_)?id:[^*:]+(:|$)|^repository_owner:[^*:]+(:|$)|^repository:[^*/]+\//,
      repository: PATH,
      repository_id: EXACT,
      repository_owner: EXACT,
      repository_owner_id: EXACT,
      job_workflow_ref: PATH,
      workflow_ref: PATH,
      enterprise: EXACT,
      enterprise_id: EXACT,
    },
  },
  {
    issuer: /^https:\/\/gitlab\.com\/?$/,
    owners: {
      sub: /^project_path:[^*/]+\//,
      project_path: PATH,
      project_id: EXACT,
      namespace_path: /^[^*/]+(\/|$)/,
      namespace_id: EXACT,
    },
  },
  {
    issuer: /^https:\/\/agent\.buildkite\.com\/?$/,
    owners: {
      sub: /^organization:[^*:]+:/,
      organization_slug: EXACT,
      organization_id: EXACT,
      pipeline_id: EXACT,
      cluster_id: EXACT,
    },
  },
]

/**
 * Checks rules before a server starts with them.
 * @throws {TimoneError} `config`: a scope that is none, an issuer that cannot be asked safely, or a rule that could match
 *   anyone
 */
export function checkTrustRules(rules: readonly TrustRule[]): void {
  for (const [index, rule] of rules.entries()) {
    const fail = (why: string): never => {
      throw new TimoneError('config', `trust rule ${index + 1} (${rule.issuer}): ${why}`)
    }
    for (const address of [rule.issuer, ...(rule.jwksUrl === undefined ? [] : [rule.jwksUrl])]) {
      if (!isSafeAddress(address))
        fail('issuer and jwks_url must be https addresses without user, query or fragment')
    }
    if (rule.audience === '' || rule.audience.includes('*')) fail('audience must be one exact text')
    if (rule.scopes.length === 0) fail('scopes must name at least one scope, as lfs:org/repo:rw')
    for (const scope of rule.scopes) {
      try {
        parseScope(scope)
      } catch (error) {
        fail((error as Error).message)
      }
    }
    const pins = Object.entries(rule.match).filter(([claim, values]) => isPin(claim, values))
    if (pins.length === 0) {
      fail('it could match anyone: match must pin a claim, as repository_id = "123456"')
    }
    const shared = SHARED_ISSUERS.find(({ issuer }) => issuer.test(rule.issuer))
    if (shared !== undefined) {
      const named = pins.some(([claim, values]) => {
        const owner = Object.hasOwn(shared.owners, claim) ? shared.owners[claim] : undefined
        return owner !== undefined && values.every((value) => owner.test(value))
      })
      if (!named) {
        fail(
          `it could match anyone who has an account there: match must name the owner in one of ${Object.keys(shared.owners).join(', ')}`,
        )
      }
    }
  }
}

/** Does every value of a list say something? One that is only `*` makes the whole list say nothing. */
function isPin(claim: string, values: readonly string[]): boolean {
  return !NO_PIN.has(claim) && values.length > 0 && values.every((value) => !/^\**$/.test(value))
}

/** https, or plain http to this machine. */
export function isSafeAddress(address: string): boolean {
  const url = URL.parse(address)
  if (url === null || url.username !== '' || url.password !== '' || url.search !== '' || url.hash !== '')
    return false
  return url.protocol === 'https:' || (url.protocol === 'http:' && isLoopbackHost(url.hostname))
}

function isLoopbackHost(host: string): boolean {
  return host === 'localhost' || host === '[::1]' || /^127(\.\d{1,3}){3}$/.test(host)
}

/** Do all claims that the rule names fit? A claim that is a list fits when one of its items does. */
export function ruleMatches(rule: TrustRule, claims: Readonly<Record<string, unknown>>): boolean {
  return Object.entries(rule.match).every(([claim, patterns]) => {
    if (!Object.hasOwn(claims, claim)) return false
    const items = [claims[claim]].flat().filter((item) => item !== null && typeof item !== 'object')
    return items.some((item) => patterns.some((pattern) => globMatches(pattern, String(item))))
  })
}

/** `*` stands for any characters, also none and also `/`. In time linear to pattern times text, whatever the pattern. */
export function globMatches(pattern: string, text: string): boolean {
  const [head = '', ...rest] = pattern.split('*')
  if (rest.length === 0) return pattern === text
  const tail = rest.pop() as string
  if (!text.startsWith(head) || text.length < head.length + tail.length || !text.endsWith(tail)) return false
  const end = text.length - tail.length
  let at = head.length
  for (const piece of rest) {
    const found = text.indexOf(piece, at)
    if (found < 0 || found + piece.length > end) return false
    at = found + piece.length
  }
  return true
}
