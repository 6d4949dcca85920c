import type { ErrorCode } from '../errors.ts'
import { TimoneError } from '../errors.ts'

/** An error as HTTP shows it. */
export interface Problem {
  status: number
  code: ErrorCode
  /** For the client: one line, without secrets and without the server's own affairs. */
  message: string
  headers: Record<string, string>
}

interface Rule {
  status: number
  /** Said instead of the error's own message, which is for the operator. */
  message?: string
}

/**
 * git-lfs waits and tries again for nothing but 429 with `Retry-After` (lfshttp/errors.go): so that, and never 503,
 * is the answer to everything that may work later.
 */
const LATER: Rule = {
  status: 429,
  message: 'the server is busy, or cannot reach what it needs: try again later',
}
const BROKEN: Rule = {
  status: 500,
  message: 'the storage behind this server does not work as it is set up: its log says more',
}
const INTERNAL: Rule = { status: 500, message: 'internal error: the log of the server says more' }

const RULES: Record<ErrorCode, Rule> = {
  cancelled: { status: 429, message: 'the request was stopped: try again' },
  clock_skew: BROKEN,
  config: BROKEN,
  conflict: { status: 409 },
  connection: LATER,
  credentials_expired: BROKEN,
  denied: BROKEN,
  disk_full: { status: 507, message: 'the disk of the server is full' },
  dns: LATER,
  exists: { status: 409 },
  forbidden: { status: 403 },
  hash_mismatch: { status: 422 },
  internal: INTERNAL,
  invalid: { status: 422 },
  lease_broken: { status: 400 },
  malformed: { status: 400 },
  method_not_allowed: { status: 405 },
  no_such_bucket: BROKEN,
  no_such_upload: { status: 404 },
  not_acceptable: { status: 406 },
  not_found: { status: 404 },
  precondition_failed: { status: 412 },
  proxy: BROKEN,
  quota_exceeded: { status: 507 },
  rate_limited: { status: 429 },
  read_only: { status: 507, message: 'the disk of the server cannot be written to' },
  size_mismatch: { status: 422 },
  throttled: LATER,
  timeout: LATER,
  tls: BROKEN,
  too_large: { status: 413 },
  unauthorized: { status: 401 },
  unavailable: LATER,
  upstream: { status: 503 },
  uri_too_long: { status: 414 },
  wrong_region: BROKEN,
}

/** git asks for a password for these, and knows Basic only. */
const CLONE = /^\/storage\/[^/]+\.git\//

/** Seconds to wait when nobody said how long. */
const RETRY_AFTER = 5
/** git-lfs 3.8 takes more than 300 s for an error. */
const MAX_RETRY_AFTER = 300

/** Clients of `/api/` are not git-lfs: they know 503, and can wait for a provider that asks for more time. */
const MAX_RETRY_AFTER_API = 3600
const isApi = (path: string): boolean => path.startsWith('/api/') && !path.includes('/info/lfs/')

/**
 * The one place that turns errors into HTTP; what is not a {@link TimoneError} is a 500 that says nothing.
 * @param path of the request, which decides what its client understands
 */
export function problemOf(error: unknown, path = ''): Problem {
  const code = error instanceof TimoneError ? error.code : 'internal'
  const rule = isApi(path) ? apiRule(RULES[code], code) : lfsRule(path, code)
  const headers: Record<string, string> = {}
  if (rule.status === 401) {
    // LFS-Authenticate is git-lfs's own (docs/api/authentication.md); the other is HTTP's (RFC 9110, section 11.6.1).
    if (path.startsWith('/storage/') && !CLONE.test(path))
      headers['WWW-Authenticate'] = 'Bearer realm="timone"'
    else {
      headers['LFS-Authenticate'] = 'Basic realm="timone"'
      headers['WWW-Authenticate'] = 'Basic realm="timone"'
    }
  }
  if (rule.status === 429 || rule.status === 503) {
    const wait = (error instanceof TimoneError ? error.retryAfter : undefined) ?? RETRY_AFTER
    const most = isApi(path) ? MAX_RETRY_AFTER_API : MAX_RETRY_AFTER
    headers['Retry-After'] = String(Math.min(most, Math.max(1, Math.ceil(wait))))
  }
  const message = rule.message ?? (error instanceof TimoneError ? error.message : INTERNAL.message)
  return { status: rule.status, code, message: message ?? '', headers }
}

/** Storage sessions come from somebody else as well, who may be away. */
function lfsRule(path: string, code: ErrorCode): Rule {
  return code === 'upstream' && path.includes('/info/lfs/') ? LATER : RULES[code]
}

/** What the services that `/api/` takes over answered in the same case. */
function apiRule(rule: Rule, code: ErrorCode): Rule {
  if (code === 'invalid') return { status: 400 }
  return rule === LATER ? { ...LATER, status: 503 } : rule
}

/**
 * Body of an error answer, as git-lfs `docs/api/batch.md` has it; `code` is there for our own agent, `error` for clients
 * of `/api/`.
 */
export function problemBody(
  problem: Pick<Problem, 'message' | 'code'>,
  requestId: string,
  path = '',
): string {
  const { message, code } = problem
  const error = isApi(path) ? { error: message } : {}
  return JSON.stringify({ ...error, message, code, request_id: requestId })
}

/** `application/vnd.git-lfs+json` on LFS routes, plain JSON elsewhere. */
export function problemType(path: string): string {
  return path.includes('/info/lfs/') ? 'application/vnd.git-lfs+json' : 'application/json'
}
