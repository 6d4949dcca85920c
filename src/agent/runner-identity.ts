import { execFile } from 'node:child_process'
import { open } from 'node:fs/promises'
import { type HttpSend, readText } from '../access/http-client.ts'
import { TimoneError } from '../errors.ts'

export interface RunnerOptions {
  env: Readonly<Record<string, string | undefined>>
  /** For whom the token is to be, where the CI system makes one on demand. */
  audience: string
  send: HttpSend
  signal?: AbortSignal | undefined
}

/** An identity token of a CI job. Secret. */
export interface RunnerToken {
  token: string
  /** Where it came from, for messages. */
  source: string
}

/** A JWT has three parts of base64url (RFC 7515, section 3.1); nothing longer is one. */
const TOKEN = /^[\w-]+\.[\w-]+\.[\w-]+$/
const MAX_TOKEN = 16 * 1024
const TIMEOUT = 20_000

/**
 * The identity token (OIDC) of the CI job that we run in: `TIMONE_ID_TOKEN`, which GitLab sets by `id_tokens`, or the
 * file that `TIMONE_ID_TOKEN_FILE` names; else GitHub's, Buildkite's or CircleCI's own.
 * @returns undefined when this is no such job
 * @throws {TimoneError} `config` when there is one and its token cannot be had
 */
export async function findRunnerToken(options: RunnerOptions): Promise<RunnerToken | undefined> {
  const { env } = options
  const given = env.TIMONE_ID_TOKEN?.trim()
  if (given) return checked(given, 'TIMONE_ID_TOKEN')
  if (env.TIMONE_ID_TOKEN_FILE)
    return checked(await readFile(env.TIMONE_ID_TOKEN_FILE), 'TIMONE_ID_TOKEN_FILE')
  if (env.ACTIONS_ID_TOKEN_REQUEST_URL && env.ACTIONS_ID_TOKEN_REQUEST_TOKEN)
    return checked(await askGitHub(options), 'GitHub Actions')
  if (env.BUILDKITE === 'true' && env.BUILDKITE_AGENT_ACCESS_TOKEN)
    return checked(await askBuildkite(options), 'Buildkite')
  const circle = env.CIRCLE_OIDC_TOKEN_V2 || env.CIRCLE_OIDC_TOKEN
  if (circle) return checked(circle.trim(), 'CircleCI')
  return undefined
}

/** What the job's environment says that its tokens are for; undefined where it does not. */
export function runnerAudience(env: RunnerOptions['env']): string | undefined {
  const audience = env.TIMONE_ID_TOKEN_AUDIENCE?.trim()
  return audience === '' ? undefined : audience
}

/**
 * The audiences that a token names, unchecked: only to decide where it may be sent.
 */
export function audiencesOf(token: string): string[] {
  try {
    const claims = JSON.parse(Buffer.from(token.split('.')[1] ?? '', 'base64url').toString('utf8')) as {
      aud?: unknown
    }
    return [claims.aud].flat().filter((name) => typeof name === 'string')
  } catch {
    return []
  }
}

/** https, or plain http to this machine: nothing secret goes over anything else. */
export function isSafeOrigin(url: URL): boolean {
  return (
    url.protocol === 'https:' ||
    (url.protocol === 'http:' && /^(localhost|\[::1\]|127(\.\d{1,3}){3})$/.test(url.hostname))
  )
}

function checked(token: string, source: string): RunnerToken {
  if (token.length > MAX_TOKEN || !TOKEN.test(token))
    throw new TimoneError('config', `the identity token of this job is no JWT (${source})`)
  return { token, source }
}

async function readFile(path: string): Promise<string> {
  try {
    const file = await open(path, 'r')
    try {
      const { buffer, bytesRead } = await file.read(Buffer.alloc(MAX_TOKEN + 2), 0)
      return buffer.toString('utf8', 0, bytesRead).trim()
    } finally {
      await file.close()
    }
  } catch (cause) {
    throw new TimoneError('config', 'cannot read the file that TIMONE_ID_TOKEN_FILE names', { cause })
  }
}

/** GitHub: "Configuring OpenID Connect in cloud providers", requesting the JWT with environment variables. */
async function askGitHub({ env, audience, send, signal }: RunnerOptions): Promise<string> {
  const url = URL.parse(env.ACTIONS_ID_TOKEN_REQUEST_URL ?? '')
  if (url === null || !isSafeOrigin(url))
    throw new TimoneError('config', 'ACTIONS_ID_TOKEN_REQUEST_URL is no https address')
  url.searchParams.set('audience', audience)
  const response = await send({
    method: 'GET',
    url,
    headers: {
      authorization: `Bearer ${env.ACTIONS_ID_TOKEN_REQUEST_TOKEN}`,
      accept: 'application/json; api-version=2.0',
      'user-agent': 'timone',
    },
    idleTimeout: TIMEOUT,
    ...(signal === undefined ? {} : { signal }),
  })
  const text = await readText(response, 64 * 1024, TIMEOUT)
  let value: unknown
  try {
    value = response.status === 200 ? (JSON.parse(text) as { value?: unknown }).value : undefined
  } catch {
    // Said below.
  }
  if (typeof value === 'string') return value
  throw new TimoneError(
    'config',
    `GitHub gave no identity token (${response.status}): the job needs permissions: id-token: write`,
    { status: response.status, host: url.host },
  )
}

/** buildkite-agent(1): `oidc request-token`. */
async function askBuildkite({ env, audience, signal }: RunnerOptions): Promise<string> {
  return new Promise((resolve, reject) => {
    execFile(
      'buildkite-agent',
      ['oidc', 'request-token', '--audience', audience],
      { env, timeout: TIMEOUT, maxBuffer: 64 * 1024, windowsHide: true, ...(signal && { signal }) },
      (error, stdout) => {
        if (error === null) resolve(stdout.trim())
        else
          reject(
            new TimoneError(
              'config',
              'buildkite-agent oidc request-token gave no token: run it in this job to see why',
            ),
          )
      },
    )
  })
}
