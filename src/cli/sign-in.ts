import { setTimeout as sleep } from 'node:timers/promises'
import { isTimoneError, TimoneError } from '../errors.ts'
import { CredentialStore } from './credential-store.ts'
import { runGit } from './git.ts'
import { type Io, print, printJson, say } from './io.ts'
import { defaultRemote, openClone } from './lfs-clone.ts'
import { wayTo } from './lfs-way.ts'
import { ask } from './prompt.ts'
import { SignInClient, type WhoAnswer } from './sign-in-client.ts'

/** What we call ourselves where people approve. */
const CLIENT = 'timone login'

export interface LoginOptions {
  readonly tokenStdin?: boolean
  readonly user?: string
}

/**
 * `timone login URL`: gets a token and hands it to git's credential helpers, and nobody else.
 * @throws {TimoneError} `config` for what must be put right first
 */
export async function login(address: string, options: LoginOptions, io: Io): Promise<number> {
  const url = readAddress(address)
  const store = new CredentialStore(io)
  // Before anything is asked for: a token that cannot be kept is of no use.
  await store.requireHelper(url)
  await store.requirePath(url)
  const client = new SignInClient(baseOf(url), io.signal)
  const { username, token } = await getToken(client, options, io)
  const who = await client.whoAmI(token, username)
  if (who === undefined)
    throw new TimoneError('unauthorized', `${client.base} does not take this token for ${username}`)
  const expiry = who.expires_at === null ? undefined : Math.floor(Date.parse(who.expires_at) / 1000)
  try {
    await store.keep(url, { username, password: token }, expiry)
  } catch (error) {
    // Nobody has it: so it must not be good for anything either.
    await client.revoke(token).catch(() => {})
    throw error
  }
  warnOfClock(who, io)
  print(io, `signed in to ${client.base} as ${who.user}${until(who)}; git and git-lfs use it from now on`)
  return 0
}

/** `timone logout [URL]`: ends the token at the server, and makes git's helpers forget it. 1: the server still takes it. */
export async function logout(address: string | undefined, io: Io): Promise<number> {
  const url = readAddress(address ?? (await addressHere(io)))
  const store = new CredentialStore(io)
  await store.requirePath(url)
  const known = await store.find(url)
  if (known === undefined) {
    say(io, `git's credential helpers know nothing of ${url.host}: nothing to do`)
    return 0
  }
  const client = new SignInClient(baseOf(url), io.signal)
  let left: string | undefined
  try {
    await client.revoke(known.password)
    const who = await client.whoAmI(known.password)
    if (who !== undefined)
      left = `the operator signed that token, it stays good${until(who)}: ask them if it must not`
  } catch (error) {
    if (!(error instanceof TimoneError) || error.code === 'cancelled') throw error
    left = `the token could not be revoked, for ${error.message}`
  }
  await store.forget(url, known)
  print(io, `signed out of ${client.base}: git's credential helpers were told to forget ${known.username}`)
  if (left === undefined) return 0
  say(io, left)
  return 1
}

/** `timone whoami [URL]`: what the stored credentials open. 1: none, or the server does not take them. */
export async function whoAmI(
  address: string | undefined,
  options: { json?: boolean },
  io: Io,
): Promise<number> {
  const url = readAddress(address ?? (await addressHere(io)))
  const store = new CredentialStore(io)
  await store.requirePath(url)
  const known = await store.find(url)
  const client = new SignInClient(baseOf(url), io.signal)
  const again = `sign in with: timone login ${client.base}`
  if (known === undefined) {
    say(io, `not signed in to ${client.base}: ${again}`)
    return 1
  }
  const who = await client.whoAmI(known.password, known.username)
  if (who === undefined) {
    say(io, `${client.base} does not take the stored credentials of ${known.username} (any more): ${again}`)
    return 1
  }
  warnOfClock(who, io)
  if (options.json === true) {
    const { user, name, email, scopes, expires_at, server } = who
    printJson(io, { user, name, email, scopes, expires_at, server })
    return 0
  }
  const scopes =
    who.scopes === null
      ? 'all of LFS (a token without scopes)'
      : who.scopes.join(' ') || 'nothing yet: ask the operator for a grant'
  print(
    io,
    `user     ${clean(who.user)}${who.name === null ? '' : ` (${clean(who.name)})`}`,
    `scopes   ${clean(scopes)}`,
    `expires  ${clean(who.expires_at ?? 'never')}`,
    `server   ${clean(who.server)}`,
  )
  return 0
}

async function getToken(
  client: SignInClient,
  options: LoginOptions,
  io: Io,
): Promise<{ username: string; token: string }> {
  if (options.tokenStdin === true) {
    const token = await readToken(io)
    const who = await client.whoAmI(token, options.user)
    if (who === undefined) throw new TimoneError('unauthorized', `${client.base} does not take this token`)
    return { username: options.user ?? who.user, token }
  }
  const device = await client.beginDevice(CLIENT)
  if (device === undefined) return typedIn(client, options, io)
  say(
    io,
    `open this address in a browser, on any machine: ${device.verification_uri_complete ?? device.verification_uri}`,
    `and approve the code ${device.user_code}`,
  )
  // Our own clock may be wrong, yet not how fast it runs.
  const ends = performance.now() + Math.min(device.expires_in, 3600) * 1000
  let wait = Math.min(60, Math.max(1, device.interval ?? 5))
  while (performance.now() < ends) {
    try {
      await sleep(wait * 1000, undefined, io.signal === undefined ? {} : { signal: io.signal })
    } catch {
      throw new TimoneError('cancelled', 'interrupted')
    }
    let answer: Awaited<ReturnType<SignInClient['pollDevice']>>
    try {
      answer = await client.pollDevice(CLIENT, device.device_code)
    } catch (error) {
      // The network may be back before the code expires (RFC 8628, section 3.5).
      if (!isTimoneError(error, 'connection', 'unavailable')) throw error
      wait = Math.min(60, wait * 2)
      continue
    }
    if (!('error' in answer)) return { username: answer.username, token: answer.access_token }
    if (answer.error === 'slow_down') wait += 5
    else if (answer.error === 'access_denied')
      throw new TimoneError('forbidden', 'the sign-in was refused in the browser')
    else if (answer.error !== 'authorization_pending') break
  }
  throw new TimoneError('timeout', 'nobody approved the sign-in in time: run timone login again')
}

/** For servers without sign-in in the browser: whoever has a token of the operator types it in. */
async function typedIn(
  client: SignInClient,
  options: LoginOptions,
  io: Io,
): Promise<{ username: string; token: string }> {
  if (!(io.stdin as { isTTY?: boolean }).isTTY)
    throw new TimoneError(
      'config',
      `${client.base} has no sign-in in the browser, and there is no terminal to type a token in: pipe it in with --token-stdin`,
    )
  const terminal = { input: io.stdin, output: io.stderr }
  const { signal } = io
  const username = options.user ?? (await ask(terminal, `User name for ${client.base}: `, { signal })).trim()
  const token = (await ask(terminal, 'Token: ', { hidden: true, signal })).trim()
  if (username === '' || token === '') throw new TimoneError('config', 'a user name and a token are needed')
  return { username, token }
}

async function readToken(io: Io): Promise<string> {
  let text = ''
  for await (const chunk of io.stdin) {
    text += String(chunk)
    if (text.length > 64 * 1024) throw new TimoneError('config', 'stdin holds more than a token')
  }
  const token = text.trim()
  if (!/^[A-Za-z0-9._~+/=-]+$/.test(token))
    throw new TimoneError('config', 'stdin holds no token: pipe exactly one in')
  return token
}

/** The server of the clone around us, or a repository on it. @throws {TimoneError} `config` where there is none, or only ssh leads there */
async function addressHere(io: Io): Promise<string> {
  const { code } = await runGit(['rev-parse', '--git-dir'], io)
  if (code === 0) {
    const clone = await openClone(io, io.signal ?? new AbortController().signal)
    const way = wayTo(clone.config, io.env, 'upload', defaultRemote(clone, 'upload'))
    if (way.kind === 'standalone' && way.place.kind === 'server') return way.place.url.href
    if (way.endpoint?.kind === 'http') return way.endpoint.url.href
  }
  throw new TimoneError('config', 'no clone here says which server is meant: give its address, https://…')
}

function readAddress(text: string): URL {
  const url = URL.parse(text)
  if (url === null || (url.protocol !== 'https:' && url.protocol !== 'http:'))
    throw new TimoneError('config', 'give the address of the server: https://…')
  if (url.username !== '' || url.password !== '')
    throw new TimoneError('config', 'leave user name and password out of the address')
  const isLocal = /^(localhost|127(\.\d+){3}|\[::1\]|.*\.localhost)$/.test(url.hostname)
  if (url.protocol === 'http:' && !isLocal)
    throw new TimoneError('config', 'plain http lets anyone on the way read the token: use the https address')
  url.search = ''
  url.hash = ''
  return url
}

/** Of `https://host/org/repo.git/info/lfs` too, as people paste it. */
function baseOf(url: URL): string {
  return (
    url.origin +
    url.pathname
      .replace(/\/info\/lfs\/?$/, '')
      .replace(/\/+$/, '')
      .replace(/\/[^/]+\/[^/]+$/, '')
  )
}

function until({ expires_at: at }: WhoAnswer): string {
  return at === null ? '' : ` until ${clean(at)}`
}

/** Git and git-lfs compare the token's expiry with this machine's clock. */
function warnOfClock({ time }: WhoAnswer, io: Io): void {
  const off = Math.round((Date.parse(time ?? '') - Date.now()) / 1000)
  if (Math.abs(off) > 120) {
    const minutes = Math.round(Math.abs(off) / 60)
    say(
      io,
      `warning: the clock of this machine is ${minutes} minutes ${off > 0 ? 'behind' : 'ahead of'} the server's: set it`,
    )
  }
}

/** Nothing that a terminal would obey. */
function clean(text: string): string {
  return text.replace(/\p{Cc}+/gu, ' ')
}
