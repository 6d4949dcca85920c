import { userInfo } from 'node:os'
import { isTimoneError, TimoneError } from '../errors.ts'
import { checkGrant, Grants } from '../identity/grants.ts'
import { OpaqueTokens } from '../identity/opaque-tokens.ts'
import { type User, Users } from '../identity/users.ts'
import { clean, type Io, print, printJson, say } from './io.ts'
import { type OperatorOptions, withDatabase } from './operator-database.ts'

interface Office {
  users: Users
  grants: Grants
  tokens: OpaqueTokens
  /** For the audit trail: who sits at the server. */
  actor: string
}

/** `timone user list`: everybody we know and what they may do. */
export function listUsers(options: OperatorOptions, io: Io): Promise<number> {
  return atOffice(options, io, async ({ users, grants }) => {
    const found: (User & { groups: string[] })[] = []
    for (
      let page = await users.list();
      page.length > 0;
      page = await users.list({ after: found.at(-1)?.id ?? 0 })
    )
      for (const user of page) found.push({ ...user, groups: await grants.groupsOf(user.id) })
    const all = await grants.list()
    const people = found.map(({ login, name, email, disabledAt, createdAt, groups }) => ({
      login,
      name,
      email,
      groups,
      scopes: all.filter(({ principal }) => principal === `user:${login}`).map(({ scope }) => scope),
      disabled_at: disabledAt,
      created_at: createdAt,
    }))
    // Also of users who have not signed in yet, and of groups.
    const others = all.filter(({ principal }) => !people.some(({ login }) => principal === `user:${login}`))
    if (options.json === true) printJson(io, { users: people, grants: all })
    else {
      for (const { login, scopes, groups, disabled_at: disabled } of people) {
        const may = [...scopes, ...groups.map((group) => `group:${group}`)].join(' ') || '-'
        print(io, clean(`${login.padEnd(24)} ${disabled === null ? '' : 'disabled  '}${may}`))
      }
      for (const { principal, scope } of others) print(io, clean(`${principal.padEnd(24)} ${scope}`))
    }
    return 0
  })
}

/** `timone user add`: somebody who may sign in later, by an address that the provider has verified. */
export function addUser(
  login: string,
  options: OperatorOptions & { email?: string; name?: string },
  io: Io,
): Promise<number> {
  return atOffice(options, io, async ({ users, actor }) => {
    const user = await users.add({ login, email: options.email, name: options.name }, '', actor)
    print(io, `added ${user.login}`)
    return 0
  })
}

/** `timone user disable` and `enable`: at once, also for tokens that were issued before. */
export function disableUser(
  login: string,
  disabled: boolean,
  options: OperatorOptions,
  io: Io,
): Promise<number> {
  return atOffice(options, io, async ({ users, actor }) => {
    const user = await users.setDisabled(login, disabled, '', actor)
    print(
      io,
      `${user.login} ${disabled ? 'may not sign in, and their tokens open nothing' : 'may sign in again'}`,
    )
    return 0
  })
}

/** `timone user grant` and `revoke`. `who` is a login, or `group:NAME`. 1: nothing to take away. */
export function changeGrant(
  verb: 'grant' | 'revoke',
  who: string,
  scopes: readonly string[],
  options: OperatorOptions,
  io: Io,
): Promise<number> {
  const principal = who.startsWith('group:') || who.startsWith('user:') ? who : `user:${who}`
  return atOffice(options, io, async ({ grants, actor }) => {
    // All of them are checked before one of them counts.
    const checked = scopes.map((scope) => checkGrant({ principal, scope }))
    let code = 0
    for (const { principal, scope } of checked) {
      const changed = await grants[verb](principal, scope, { actor })
      const done =
        verb === 'grant'
          ? changed
            ? 'may now'
            : 'could already'
          : changed
            ? 'may no longer'
            : 'had no grant of'
      if (!changed && verb === 'revoke') code = 1
      print(io, clean(`${principal} ${done} ${scope}`))
    }
    return code
  })
}

/** `timone token list`: tokens that the server has issued and that are still good. */
export function listTokens(options: OperatorOptions & { user?: string }, io: Io): Promise<number> {
  return atOffice(options, io, async ({ users, tokens }) => {
    const user = options.user === undefined ? undefined : await users.byLogin(options.user)
    if (options.user !== undefined && user === undefined)
      throw new TimoneError('not_found', `no such user: ${options.user}`)
    const found = (await tokens.list(user?.id)).map((token) => ({
      id: token.id,
      user: token.user?.login ?? (token.data as { subject?: string } | undefined)?.subject ?? null,
      kind: token.kind,
      scopes: token.scopes,
      client: token.client,
      created_at: token.createdAt,
      expires_at: token.expiresAt,
    }))
    if (options.json === true) printJson(io, found)
    else if (found.length === 0) say(io, 'no token that the server issued is good now')
    else
      for (const { id, user, kind, scopes, client, expires_at } of found)
        print(
          io,
          clean(
            `${id}  ${kind}  ${user ?? '-'}  ${scopes.join(' ') || '-'}  until ${expires_at ?? 'revoked'}  ${client}`,
          ),
        )
    return 0
  })
}

/** `timone token revoke`: by the ids that list prints. 1: one of them is not known, or over. */
export function revokeTokens(ids: readonly string[], options: OperatorOptions, io: Io): Promise<number> {
  return atOffice(options, io, async ({ tokens, actor }) => {
    let code = 0
    for (const id of ids) {
      if (await tokens.revoke(id, { actor })) print(io, clean(`revoked ${id}`))
      else {
        say(io, clean(`no token with the id ${id}, or it was revoked before`))
        code = 1
      }
    }
    return code
  })
}

/** Opens the server's database for its operator. */
async function atOffice(
  options: OperatorOptions,
  io: Io,
  work: (office: Office) => Promise<number>,
): Promise<number> {
  try {
    return await withDatabase(options, io, ({ db }, settings) =>
      work({
        users: new Users(db),
        grants: new Grants(db, settings.grants.map(checkGrant)),
        tokens: new OpaqueTokens(db),
        actor: userInfo().username,
      }),
    )
  } catch (error) {
    if (isTimoneError(error, 'invalid')) throw new TimoneError('config', error.message, { cause: error })
    throw error
  }
}
