import { decodeJwt, decodeProtectedHeader } from 'jose'
import { parseScope } from '../auth/scope.ts'
import { Tokens } from '../auth/tokens.ts'
import { describeDuration, parseDuration } from '../config/duration.ts'
import { type KnownSettings, readSettings } from '../config/load-settings.ts'
import { isTimoneError, TimoneError } from '../errors.ts'
import { type Io, print, printJson, say } from './io.ts'

/** Where the token secret is looked for. */
export interface SecretOptions {
  readonly config?: string | undefined
  readonly data?: string | undefined
}

export interface CreateOptions extends SecretOptions {
  readonly user?: string | undefined
  readonly scope?: readonly string[] | undefined
  readonly expires?: string | undefined
  readonly json: boolean
}

/**
 * `timone token create`: prints a token, signed with the server's secret.
 * @throws {TimoneError} `config` for a malformed option, or when no secret is known
 */
export async function createToken(options: CreateOptions, io: Io): Promise<number> {
  // Not left to commander, which would complain of this before it complains of an option that it does not know.
  const { user } = options
  if (user === undefined) throw new TimoneError('config', 'say whom the token is for, with --user NAME')
  const expiresIn = options.expires === undefined ? undefined : parseDuration(options.expires)
  const { settings } = await read(options, io)
  if (settings.tokenSecret === undefined) {
    throw new TimoneError(
      'config',
      `no token secret: set TIMONE_TOKEN_SECRET to the server's, or name the server's data folder with --data (${settings.data} holds none)`,
    )
  }
  const now = Date.now()
  let token: string
  try {
    for (const scope of options.scope ?? []) checkName(scope)
    token = await new Tokens({
      ...settings,
      secret: settings.tokenSecret,
      issuer: settings.url,
      now: () => now,
    }).issueUser({
      user,
      ...(options.scope === undefined ? {} : { scopes: options.scope }),
      ...(expiresIn === undefined ? {} : { expiresIn }),
    })
  } catch (error) {
    if (isTimoneError(error, 'invalid')) throw new TimoneError('config', error.message, { cause: error })
    throw error
  }

  if (options.scope === undefined) {
    say(
      io,
      settings.requireScope
        ? 'warning: this server refuses tokens without a scope (TIMONE_REQUIRE_SCOPE): give one with --scope lfs:org/repo:rw'
        : 'warning: without --scope this token may read and write every repository',
    )
  }
  if (expiresIn === undefined) say(io, 'warning: without --expires this token is good for ever')
  if (options.json) {
    const expires_at = expiresIn === undefined ? null : new Date(now + expiresIn * 1000).toISOString()
    printJson(io, { token, user, scopes: options.scope ?? null, expires_at })
  } else {
    print(io, token)
  }
  return 0
}

/**
 * `timone token inspect`: prints what is in a token and whether the server would take it. Gives 1 when it would not.
 * @param text the token; undefined or `-`: read from stdin
 * @throws {TimoneError} `config` when it is no token at all
 */
export async function inspectToken(
  text: string | undefined,
  options: SecretOptions & { readonly json: boolean },
  io: Io,
): Promise<number> {
  const jwt = (text === undefined || text === '-' ? await readAll(io) : text).trim()
  let header: object
  let claims: ReturnType<typeof decodeJwt>
  try {
    header = decodeProtectedHeader(jwt)
    claims = decodeJwt(jwt)
  } catch {
    throw new TimoneError(
      'config',
      'this is not a token: a JWT is three parts of base64 with dots between them',
    )
  }
  const { settings } = await read(options, io)
  const { signature, refusal } = await judge(jwt, settings)
  const expiry = describeExpiry(claims.exp, Date.now())
  if (options.json) {
    const expires_at = printTime(claims.exp) ?? null
    printJson(io, {
      header,
      claims,
      signature,
      valid: signature === 'unchecked' ? null : refusal === undefined,
      expires_at,
    })
  } else {
    const state =
      signature === 'unchecked'
        ? 'not checked: no token secret is known here (TIMONE_TOKEN_SECRET, --config or --data)'
        : signature
    const verdict = refusal === undefined ? 'accepted' : `refused: ${refusal}`
    print(
      io,
      `header     ${printable(header)}`,
      `claims     ${printable(claims)}`,
      `expiry     ${expiry}`,
      `signature  ${state}`,
      ...(signature === 'unchecked' ? [] : [`server     ${verdict}`]),
    )
  }
  return refusal === undefined ? 0 : 1
}

async function judge(
  jwt: string,
  settings: KnownSettings['settings'],
): Promise<{ signature: 'valid' | 'invalid' | 'unchecked'; refusal?: string }> {
  if (settings.tokenSecret === undefined) return { signature: 'unchecked' }
  const tokens = new Tokens({ ...settings, secret: settings.tokenSecret, issuer: settings.url })
  const signature = (await tokens.signatureMatches(jwt)) ? 'valid' : 'invalid'
  try {
    await tokens.verify(jwt)
    return { signature }
  } catch (error) {
    if (!isTimoneError(error, 'unauthorized')) throw error
    return { signature, refusal: error.message }
  }
}

/** A scope that can never match is most likely a slip. */
function checkName(text: string): void {
  const scope = parseScope(text)
  if (scope.noun === 'lfs' && scope.resource.endsWith('.git')) {
    throw new TimoneError('invalid', `scope ${text}: leave out .git, repositories are known without it`)
  }
}

function describeExpiry(exp: unknown, now: number): string {
  if (exp === undefined) return 'never'
  const at = printTime(exp)
  if (at === undefined) return 'not a time'
  const seconds = Number(exp) - now / 1000
  return seconds >= 0 ? `${at}, in ${describeDuration(seconds)}` : `${at}, ${describeDuration(-seconds)} ago`
}

/** Seconds since the epoch as RFC 3339; undefined when `value` is none. Claims may hold anything. */
function printTime(value: unknown): string | undefined {
  const time = new Date(typeof value === 'number' ? value * 1000 : Number.NaN)
  return Number.isNaN(time.getTime()) ? undefined : time.toISOString()
}

/** JSON, with nothing in it that a terminal would obey. */
function printable(value: object): string {
  return JSON.stringify(value).replace(
    /[\u007f-\u009f]/g,
    (character) => `\\u${character.charCodeAt(0).toString(16).padStart(4, '0')}`,
  )
}

async function read(options: SecretOptions, io: Io): Promise<KnownSettings> {
  return readSettings({ flags: { data: options.data }, configFile: options.config, env: io.env, cwd: io.cwd })
}

async function readAll(io: Io): Promise<string> {
  let text = ''
  for await (const chunk of io.stdin) {
    text += String(chunk)
    if (text.length > 2 ** 20) throw new TimoneError('config', 'stdin holds more than a token')
  }
  return text
}
