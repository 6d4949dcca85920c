import { type HttpSend, readText, retryAfter } from '../access/http-client.ts'
import { TimoneError } from '../errors.ts'
import type { Credential } from './git-credential.ts'
import {
  audiencesOf,
  findRunnerToken,
  isSafeOrigin,
  type RunnerToken,
  runnerAudience,
} from './runner-identity.ts'

/** User name that goes with any token of a server. */
export const RUNNER_USER = 'x-access-token'

/** What a server gave for a job's identity token. `token` is secret. */
export interface RunnerSession {
  token: string
  /** Seconds. */
  expiresIn: number
  scope: string
}

const TIMEOUT = 30_000

/**
 * The server that a URL is of: an LFS endpoint without its `/org/repo/info/lfs`, any other without slashes at its end.
 */
export function serverOf(url: URL): URL {
  const server = new URL(url.origin)
  server.pathname = url.pathname.replace(/\/+$/, '').replace(/\/[^/]+\/[^/]+\/info\/lfs$/, '')
  return server
}

/** What the tokens for a server name as audience, where nothing else is said: its address without a slash at the end. */
export function audienceOf(server: URL): string {
  return server.origin + server.pathname.replace(/\/+$/, '')
}

/**
 * Trades a job's identity token at `POST /oauth/token` (RFC 8693).
 * @throws {TimoneError} `unauthorized` with the server's reason, `unavailable`, or what the network did
 */
export async function exchangeRunnerToken(
  server: URL,
  { token }: RunnerToken,
  { send, signal }: { send: HttpSend; signal?: AbortSignal | undefined },
): Promise<RunnerSession> {
  if (!isSafeOrigin(server)) {
    throw new TimoneError('config', `${server.origin} is plain http: the identity token goes over https only`)
  }
  const url = new URL(server)
  url.pathname = `${url.pathname.replace(/\/+$/, '')}/oauth/token`
  const body = new URLSearchParams({
    grant_type: 'urn:ietf:params:oauth:grant-type:token-exchange',
    subject_token: token,
    subject_token_type: 'urn:ietf:params:oauth:token-type:jwt',
  }).toString()
  const response = await send({
    method: 'POST',
    url,
    headers: {
      accept: 'application/json',
      'content-type': 'application/x-www-form-urlencoded',
      'content-length': String(Buffer.byteLength(body)),
    },
    body,
    idleTimeout: TIMEOUT,
    ...(signal === undefined ? {} : { signal }),
  })
  const text = await readText(response, 64 * 1024, TIMEOUT)
  const { status } = response
  const answer = readJson(text)
  const { host } = url
  if (
    status === 200 &&
    typeof answer.access_token === 'string' &&
    /^[\x21-\x7e]+$/.test(answer.access_token)
  ) {
    const seconds = Number(answer.expires_in)
    return {
      token: answer.access_token,
      expiresIn: Number.isFinite(seconds) && seconds > 0 ? seconds : 300,
      scope: typeof answer.scope === 'string' ? answer.scope : '',
    }
  }
  const said = String(answer.error_description ?? answer.error ?? '')
    .replaceAll(token, '…')
    .slice(0, 300)
  if (status === 429 || status >= 500) {
    const wait = retryAfter(response.headers)
    const details = { status, host, ...(wait === undefined ? {} : { retryAfter: wait }) }
    throw new TimoneError(
      'unavailable',
      `${host} cannot exchange the identity token now (${status}): ${said}`,
      details,
    )
  }
  if (status === 404) {
    throw new TimoneError(
      'unauthorized',
      `${host} does not exchange identity tokens: its operator must add a [[trust]] rule`,
      { status, host },
    )
  }
  throw new TimoneError(
    'unauthorized',
    `${host} does not take the identity token of this job (${status})${said === '' ? '' : `: ${said}`}`,
    { status, host },
  )
}

/**
 * A credential for an LFS endpoint in a CI job, or undefined where this is none, or the endpoint is not one that the
 * job's token may go to. What only a repository's `.lfsconfig` names gets a token that says itself that it is for that
 * server, or that the job's environment says so of (`TIMONE_ID_TOKEN_AUDIENCE`); never another.
 */
export async function runnerCredential(
  endpoint: { url: URL; foreign: boolean },
  options: {
    env: Readonly<Record<string, string | undefined>>
    send: HttpSend
    signal?: AbortSignal | undefined
  },
): Promise<Credential | undefined> {
  const server = serverOf(endpoint.url)
  if (!isSafeOrigin(server)) return undefined
  const named = runnerAudience(options.env)
  const isNamed = named !== undefined && isFor(named, server)
  const onDemand = !options.env.TIMONE_ID_TOKEN && !options.env.TIMONE_ID_TOKEN_FILE
  if (endpoint.foreign && onDemand && !isNamed) return undefined
  const found = await findRunnerToken({ ...options, audience: named ?? audienceOf(server) })
  if (found === undefined) return undefined
  const audiences = audiencesOf(found.token)
  const meant = audiences.length > 0 && audiences.every((name) => isFor(name, server))
  if (endpoint.foreign && !isNamed && !meant) return undefined
  const { token } = await exchangeRunnerToken(server, found, options)
  return { username: RUNNER_USER, password: token, lines: [] }
}

/** Is `audience` an address of this very server? */
function isFor(audience: string, server: URL): boolean {
  return URL.parse(audience)?.origin === server.origin
}

function readJson(text: string): Record<string, unknown> {
  try {
    const value: unknown = JSON.parse(text)
    return typeof value === 'object' && value !== null ? (value as Record<string, unknown>) : {}
  } catch {
    return {}
  }
}
