import type { Operation } from '../access/credentials.ts'
import type { HttpSend } from '../access/http-client.ts'
import { type Credential, type CredentialQuestion, GitCredential } from '../agent/git-credential.ts'
import { type LfsApi, postLfs } from '../agent/lfs-api.ts'
import { describeDuration } from '../config/duration.ts'
import { isTimoneError, TimoneError } from '../errors.ts'
import type { Oid } from '../oid.ts'
import { serverOf } from './doctor-advice.ts'
import { type Finding, fail, failed, ok, warn } from './doctor-report.ts'

/** What Batch let us do, and with which object. */
export interface Permitted {
  operation: Operation
  object: { oid: Oid; size: number }
  /** Batch's answer. */
  answer: unknown
}

/** Milliseconds that a credential helper may take: nobody types anything. */
const HELPER_PATIENCE = 10_000
/** Seconds left of a token's life from which on it is worth a word. */
const SOON = 24 * 3600

/** The user's environment, with everything off that would ask for a password. */
export function quietly(env: Readonly<Record<string, string | undefined>>): NodeJS.ProcessEnv {
  const count = Number(env.GIT_CONFIG_COUNT ?? 0) || 0
  const ssh = [env.GIT_SSH_COMMAND, env.GIT_SSH].every((value) => value === undefined || value === '')
  return {
    ...env,
    GIT_TERMINAL_PROMPT: '0',
    // Empty: neither this one, nor core.askPass, nor SSH_ASKPASS (git's prompt.c).
    GIT_ASKPASS: '',
    GCM_INTERACTIVE: 'never',
    GIT_CONFIG_COUNT: String(count + 1),
    [`GIT_CONFIG_KEY_${count}`]: 'credential.interactive',
    [`GIT_CONFIG_VALUE_${count}`]: 'false',
    ...(ssh ? { SSH_ASKPASS_REQUIRE: 'never' } : {}),
  }
}

/** git's helpers, looked at only: none is told anything, and none may take for ever. */
export class QuietCredential extends GitCredential {
  /** What they gave. Secret. */
  given: Credential | undefined
  #asked = false

  constructor(options: { cwd: string; env: NodeJS.ProcessEnv }) {
    super({ ...options, quiet: true })
  }

  override async fill(question: CredentialQuestion, signal?: AbortSignal): Promise<Credential | undefined> {
    // Asked again only when the server refused the first one: they would give the same.
    if (this.#asked) return undefined
    this.#asked = true
    const limit = AbortSignal.timeout(HELPER_PATIENCE)
    try {
      const both = signal === undefined ? limit : AbortSignal.any([signal, limit])
      this.given = await super.fill(question, both)
      return this.given
    } catch (error) {
      if (!limit.aborted || signal?.aborted === true) throw error
      throw new TimoneError(
        'config',
        `the credential helper gave no answer within ${HELPER_PATIENCE / 1000} s`,
        { cause: error },
      )
    }
  }

  override async approve(): Promise<void> {}

  override async reject(): Promise<void> {}
}

export interface TokenQuestion {
  api: LfsApi
  credentials: QuietCredential
  send: HttpSend
  /** Of the repository: ends with `/info/lfs`. */
  url: URL
  /** An object that no server has. */
  probe: { oid: Oid; size: number }
  sample: () => Promise<{ oid: Oid; size: number } | undefined>
  /** Server's clock minus ours, seconds. */
  offset: number | undefined
  signal: AbortSignal
}

/** Does the server take what git has for it, and for what? */
export async function checkToken(
  question: TokenQuestion,
): Promise<{ finding: Finding; permitted: Permitted | undefined }> {
  const name = 'token'
  const { credentials, probe, url } = question
  const login = `timone login ${serverOf(url)}`
  try {
    const answer = await ask(question, 'upload', probe)
    const finding = describe(credentials.given, 'may read and write', question, login)
    return { finding, permitted: { operation: 'upload', object: probe, answer } }
  } catch (error) {
    const none = (finding: Finding) => ({ finding, permitted: undefined })
    if (isTimoneError(error, 'unauthorized')) {
      if (credentials.given === undefined && (await isPublic(question)))
        return none(warn(name, 'you are not signed in; anyone may read this repository, nobody write', login))
      const expired = expiry(credentials.given, question)
      return none(
        expired !== undefined && expired < 0
          ? fail(name, `${whose(credentials.given)} expired ${describeDuration(-expired)} ago`, login)
          : failed(name, error, login),
      )
    }
    if (isTimoneError(error, 'forbidden')) return readOnly(question, login)
    if (isTimoneError(error, 'not_found')) {
      const message = `the server knows no repository at ${url.pathname}, or you may not read it`
      return none(fail(name, message, grantCommand(question, 'rw')))
    }
    if (isTimoneError(error, 'config'))
      return none(failed(name, error, 'git config --global --replace-all credential.helper cache'))
    return none(failed(name, error, login))
  }
}

async function readOnly(
  question: TokenQuestion,
  login: string,
): Promise<{ finding: Finding; permitted: Permitted | undefined }> {
  const object = await question.sample()
  try {
    const answer = await ask(question, 'download', object ?? question.probe)
    const finding = describe(question.credentials.given, 'may read, not write', question, login)
    return {
      finding,
      permitted: object === undefined ? undefined : { operation: 'download', object, answer },
    }
  } catch (error) {
    return { finding: failed('token', error, grantCommand(question, 'r')), permitted: undefined }
  }
}

const ask = (
  { api, signal }: Pick<TokenQuestion, 'api' | 'signal'>,
  operation: Operation,
  object: { oid: Oid; size: number },
): Promise<unknown> => api.post('objects/batch', batchOf(operation, object, ['timone', 'basic']), signal)

export const batchOf = (
  operation: Operation,
  { oid, size }: { oid: Oid; size: number },
  transfers: string[],
): object => ({ operation, transfers, objects: [{ oid, size }], hash_algo: 'sha256' })

async function isPublic({ send, url, probe, signal }: TokenQuestion): Promise<boolean> {
  const batch = new URL(url)
  batch.pathname += '/objects/batch'
  const body = JSON.stringify(batchOf('download', probe, ['basic']))
  return (await postLfs(send, batch, {}, body, signal)).status === 200
}

/** For the operator: who lacks a right cannot give it to himself. */
function grantCommand({ url, credentials }: TokenQuestion, level: 'r' | 'rw'): string {
  const repository = url.pathname
    .replace(/\/info\/lfs$/, '')
    .split('/')
    .slice(-2)
    .join('/')
  const user = credentials.given?.username ?? 'NAME'
  return `ask the operator for: timone token create --user ${user} --scope lfs:${repository}:${level}`
}

function describe(
  credential: Credential | undefined,
  right: string,
  question: TokenQuestion,
  login: string,
): Finding {
  const name = 'token'
  if (credential === undefined) return ok(name, `accepted, ${right} here (not from git's credential helpers)`)
  const left = expiry(credential, question)
  const { scope } = claimsOf(credential) ?? {}
  const scopes = typeof scope === 'string' ? `, scopes ${scope}` : ''
  const words = `${whose(credential)} ${right} here${scopes}`
  if (left === undefined) return ok(name, words)
  const message = `${words}, good for ${describeDuration(Math.max(0, left))}`
  return left < SOON ? warn(name, message, login) : ok(name, message)
}

const whose = (credential: Credential | undefined): string =>
  credential === undefined ? 'the token' : `the token of ${credential.username}`

/** Seconds left of the token's life, by the server's clock; undefined where that is not known. */
function expiry(
  credential: Credential | undefined,
  { offset = 0 }: Pick<TokenQuestion, 'offset'>,
): number | undefined {
  const exp = claimsOf(credential)?.exp
  return typeof exp === 'number' ? exp - Date.now() / 1000 - offset : undefined
}

/** What a JWT says of itself; undefined when it is none. It is for the server to believe it. */
function claimsOf(credential: Credential | undefined): Record<string, unknown> | undefined {
  const [, payload, signature, ...rest] = credential?.password.split('.') ?? []
  if (payload === undefined || signature === undefined || rest.length > 0) return undefined
  try {
    return JSON.parse(Buffer.from(payload, 'base64url').toString('utf8')) as Record<string, unknown>
  } catch {
    return undefined
  }
}
