import { mayRead, mayWrite } from '../auth/principal.ts'
import { parseScope, printScope, type Scope } from '../auth/scope.ts'
import { Tokens } from '../auth/tokens.ts'
import { parseDuration } from '../config/duration.ts'
import { readSettings } from '../config/load-settings.ts'
import { isTimoneError, TimoneError } from '../errors.ts'
import { parseRepository, type Repository, repositoryName } from '../repository.ts'
import { type Io, printJson } from './io.ts'
import type { SecretOptions } from './token.ts'

export interface AuthenticateOptions extends SecretOptions {
  readonly path?: string | undefined
  readonly operation?: string | undefined
  readonly user?: string | undefined
  readonly scope?: readonly string[] | undefined
  /** The user's grants in the database are what they may do. */
  readonly grants?: boolean | undefined
  readonly root?: string | undefined
  readonly expires?: string | undefined
}

/** Seconds. git-lfs asks again when it is over. */
const LIFETIME = 15 * 60
/** As long as a link or a storage credential may last. */
const LONGEST = 12 * 3600

/** What a shell says of a command that it does not know; git-lfs then tries the next thing (lfshttp/ssh.go). */
const UNKNOWN_COMMAND = 127

/**
 * `timone git-lfs-authenticate`: prints `{href, header, expires_in}` for one repository and one direction.
 * Gives 127 when ssh was asked for some other command.
 * @throws {TimoneError} `config` for what the operator must mend; `invalid`, `not_found` or `forbidden` for what the
 *   user asked
 */
export async function gitLfsAuthenticate(options: AuthenticateOptions, io: Io): Promise<number> {
  const asked = request(options, io)
  if (asked === undefined) {
    io.stderr.write('timone: this host knows git-lfs-authenticate only\n')
    return UNKNOWN_COMMAND
  }
  const user = options.user ?? io.env.TIMONE_USER
  if (user === undefined || user === '')
    throw new TimoneError('config', 'say who has come, with --user NAME or TIMONE_USER')
  const expiresIn = options.expires === undefined ? LIFETIME : parseDuration(options.expires)
  if (expiresIn > LONGEST) throw new TimoneError('config', '--expires must be 12h or less')
  const repository = parsePath(asked.path, options.root)
  const operation = parseOperation(asked.operation)
  // Ours, and no setting of a server.
  const { TIMONE_USER: _user, ...env } = io.env
  const { settings } = await readSettings({
    flags: { data: options.data },
    configFile: options.config,
    env,
    cwd: io.cwd,
  })
  if (settings.tokenSecret === undefined) {
    const advice = "set TIMONE_TOKEN_SECRET to the server's, or name its --config or --data"
    throw new TimoneError('config', `no token secret: ${advice}`)
  }
  if (options.scope === undefined && options.grants !== true && settings.requireScope) {
    const advice = "say what this user may do, with --grants or --scope 'lfs:org/*:rw'"
    throw new TimoneError('config', `this server trusts nobody with everything: ${advice}`)
  }
  const given = options.scope?.map(readScope)
  const rights =
    options.grants === true ? [...(given ?? []), ...(await grantsOf(user, settings.databaseUrl))] : given
  check(rights, user, repository, operation)
  const tokens = new Tokens({
    secret: settings.tokenSecret,
    issuer: settings.url,
    requireScope: settings.requireScope,
  })
  const level = operation === 'upload' ? 'rw' : 'r'
  const scope = printScope({ noun: 'lfs', resource: repositoryName(repository), level })
  const token = await issue(tokens, user, scope, expiresIn)
  printJson(io, {
    href: `${settings.url}/${repositoryName(repository)}/info/lfs`,
    header: { Authorization: `Bearer ${token}` },
    expires_in: expiresIn,
  })
  return 0
}

/** Path and operation, from the arguments or from what the user typed behind the host; undefined: some other command. */
function request(
  { path, operation }: AuthenticateOptions,
  io: Io,
): { path: string; operation: string } | undefined {
  if (path !== undefined && operation !== undefined) return { path, operation }
  const original = io.env.SSH_ORIGINAL_COMMAND
  if (path !== undefined || original === undefined)
    throw new TimoneError('config', 'say which repository, and upload or download')
  const words = splitWords(original)
  if (words === undefined || words[0] !== 'git-lfs-authenticate') return undefined
  const [, first, second] = words
  if (first === undefined || second === undefined || words.length > 4)
    throw new TimoneError('invalid', 'git-lfs-authenticate takes a path, and upload or download')
  return { path: first, operation: second }
}

/**
 * The words of a command as a shell reads them, as far as git and git-lfs write them: bare, in quotes, with a backslash
 * between. No shell ever sees them. Undefined when there is anything else in it.
 */
function splitWords(command: string): string[] | undefined {
  const words: string[] = []
  for (const text of command.trim().match(/(?:'[^']*'|"[^"$`\\]*"|\\['!]|[^\s'"\\])+/g) ?? [])
    words.push(
      text.replace(/'([^']*)'|"([^"]*)"|\\(.)/g, (_all, single, double, plain) => single ?? double ?? plain),
    )
  const rest = command.replace(/(?:'[^']*'|"[^"$`\\]*"|\\['!]|[^\s'"\\])+/g, '')
  return rest.trim() === '' && words.length > 0 ? words : undefined
}

function parsePath(path: string, root: string | undefined): Repository {
  const base = root?.replace(/\/+$/, '')
  const inside = base === undefined ? path : path.startsWith(`${base}/`) ? path.slice(base.length) : undefined
  const [org, repo, ...rest] = inside?.replace(/^\//, '').replace(/\/$/, '').split('/') ?? []
  try {
    if (org === undefined || repo === undefined || rest.length > 0) throw new TimoneError('not_found', '')
    return parseRepository(org, repo)
  } catch (error) {
    if (!isTimoneError(error, 'not_found')) throw error
    const wanted = base === undefined ? 'org/repo' : `${base}/org/repo`
    throw new TimoneError('not_found', `no such repository: its path must be ${wanted}, with or without .git`)
  }
}

function parseOperation(text: string): 'upload' | 'download' {
  if (text === 'upload' || text === 'download') return text
  throw new TimoneError('invalid', 'the operation must be upload or download')
}

/** @throws {TimoneError} `forbidden`; `not_found` for who may not even read */
function check(
  scopes: readonly Scope[] | undefined,
  user: string,
  repository: Repository,
  operation: 'upload' | 'download',
): void {
  if (scopes === undefined) return
  const principal = { subject: user, scopes, authTime: 0 }
  if (!mayRead(principal, repository)) throw new TimoneError('not_found', 'no such repository')
  if (operation === 'upload' && !mayWrite(principal, repository))
    throw new TimoneError('forbidden', `${user} may not write to ${repositoryName(repository)}`)
}

/** @throws {TimoneError} `forbidden` for who was shut out; `unavailable` without the database */
async function grantsOf(login: string, databaseUrl: string): Promise<Scope[]> {
  const { connect } = await import('../database/connect.ts')
  const { Grants } = await import('../identity/grants.ts')
  const { Users } = await import('../identity/users.ts')
  const database = await connect(databaseUrl)
  try {
    const user = await new Users(database.db).byLogin(login)
    if (user?.disabledAt != null)
      throw new TimoneError('forbidden', `${login} may not use this server any more`)
    return user === undefined ? [] : await new Grants(database.db).rightsOf(user)
  } finally {
    await database.close()
  }
}

/** @throws {TimoneError} `config` for a malformed scope */
function readScope(text: string): Scope {
  try {
    return parseScope(text)
  } catch (error) {
    if (!isTimoneError(error, 'invalid')) throw error
    throw new TimoneError('config', error.message, { cause: error })
  }
}

async function issue(tokens: Tokens, user: string, scope: string, expiresIn: number): Promise<string> {
  try {
    return await tokens.issueUser({ user, scopes: [scope], expiresIn })
  } catch (error) {
    if (!isTimoneError(error, 'invalid')) throw error
    throw new TimoneError('config', error.message, { cause: error })
  }
}
