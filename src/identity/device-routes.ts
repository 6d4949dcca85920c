import { Hono } from 'hono'
import { html } from 'hono/html'
import { parseScopes, printScope } from '../auth/scope.ts'
import { TimoneError } from '../errors.ts'
import { FailureLimit } from '../failure-limit.ts'
import { type DeviceCodes, INTERVAL, LIFETIME } from './device-codes.ts'
import { readForm } from './form.ts'
import { type IdentityEnv, sourceOf } from './identity-env.ts'
import type { IssuedTokens } from './issued-tokens.ts'
import { OAuthError } from './oauth-error.ts'
import { page } from './page.ts'
import { problemPage } from './problem-page.ts'
import { checkCsrf, type Session, type Sessions } from './sessions.ts'
import type { TokenGrant } from './token-endpoint.ts'
import type { Users } from './users.ts'

export const DEVICE_CODE = 'urn:ietf:params:oauth:grant-type:device_code'

/** What a sign-in opens when it does not say: all of LFS that its user may do. */
const DEFAULT_SCOPE = 'lfs:*:rw'

/** Wrong codes that one user may type in while a code lives, for then it is guessing (RFC 8628, section 5.1). */
const MAX_GUESSES = 10
/** Sign-ins that one address may begin in a minute: each is a row in the database that nobody has signed in for. */
const MAX_BEGUN = 120

export interface DeviceRoutesOptions {
  codes: DeviceCodes
  sessions: Sessions
  /** Public URL of this server. */
  url: string
  /** Milliseconds since the epoch. */
  now: () => number
}

/** `POST /oauth/device_authorization`, and the page `/auth/device` where people approve. */
export function deviceRoutes({ codes, sessions, url, now }: DeviceRoutesOptions): Hono<IdentityEnv> {
  const app = new Hono<IdentityEnv>()
  const guesses = new FailureLimit({
    most: MAX_GUESSES,
    window: LIFETIME * 1000,
    message: 'too many codes that are not known: wait ten minutes, and begin again',
    now,
  })
  const begun = new FailureLimit({
    most: MAX_BEGUN,
    window: 60_000,
    message: 'too many sign-ins are begun from there: wait a minute',
    now,
  })

  app.post('/oauth/device_authorization', async (c) => {
    try {
      const form = await readForm(c.req)
      const client = readClient(form)
      const scopes = readScopes(form.get('scope') ?? DEFAULT_SCOPE)
      begun.count(sourceOf(c))
      const { deviceCode, userCode } = await codes.begin(client, scopes)
      const answer = {
        device_code: deviceCode,
        user_code: userCode,
        verification_uri: `${url}/auth/device`,
        verification_uri_complete: `${url}/auth/device?user_code=${userCode}`,
        expires_in: LIFETIME,
        interval: INTERVAL,
      }
      return c.json(answer, 200, { 'Cache-Control': 'no-store' })
    } catch (error) {
      if (error instanceof OAuthError) return error.toResponse()
      throw error
    }
  })

  const signIn = (userCode: string | undefined): Response => {
    const here = `/auth/device${userCode === undefined ? '' : `?user_code=${encodeURIComponent(userCode)}`}`
    const location = `/auth/login?return_to=${encodeURIComponent(here)}`
    return new Response(null, { status: 302, headers: { Location: location, 'Cache-Control': 'no-store' } })
  }
  /** The sign-in that waits under this code. @throws {TimoneError} `rate_limited` for whoever guesses */
  const find = async (session: Session, userCode: string) => {
    // Of the user, not of the session: of those one can have as many as one likes.
    const guesser = String(session.user.id)
    guesses.check(guesser)
    const found = await codes.pending(userCode)
    if (found === undefined) guesses.count(guesser)
    return found
  }

  app.get('/auth/device', (c) =>
    problemPage(async () => {
      const userCode = c.req.query('user_code')?.slice(0, 40)
      const session = await sessions.of({ cookie: c.req.header('cookie') })
      if (session === undefined) return signIn(userCode)
      if (userCode === undefined || userCode === '') return askForCode(200, undefined)
      const device = await find(session, userCode)
      if (device === undefined)
        return askForCode(404, 'No sign-in waits under this code. It may have expired: begin again.')
      return page({
        title: 'Sign in a device?',
        body: html`<p>A program that calls itself <strong>${device.client}</strong> shows the code
<strong><code>${userCode.toUpperCase()}</code></strong> and asks to act as <strong>${session.user.login}</strong>, for:</p>
<ul>${device.scopes.split(' ').map((scope) => html`<li><code>${scope}</code></li>`)}</ul>
<p>Approve only if you have just begun this yourself, and your terminal shows the same code.</p>
<form method="post" action="/auth/device">
<input type="hidden" name="csrf" value="${session.csrf}"><input type="hidden" name="user_code" value="${userCode}">
<button name="answer" value="approve">Approve</button><button name="answer" value="deny">Deny</button></form>`,
      })
    }),
  )

  app.post('/auth/device', (c) =>
    problemPage(async () => {
      const session = await sessions.of({ cookie: c.req.header('cookie') })
      if (session === undefined) return signIn(undefined)
      c.set('subject', session.user.login)
      const form = await readForm(c.req)
      checkCsrf(session, form.get('csrf'))
      const device = await find(session, form.get('user_code') ?? '')
      const answer = form.get('answer')
      if (answer !== 'approve' && answer !== 'deny')
        throw new TimoneError('invalid', 'choose approve or deny')
      const approved = answer === 'approve'
      if (device === undefined || !(await codes.decide(device.hash, session.user, approved, sourceOf(c))))
        return askForCode(404, 'This sign-in does not wait any longer: begin again.')
      return approved
        ? page({
            title: 'Signed in',
            body: html`<p>Your terminal goes on by itself. You can close this page.</p>`,
          })
        : page({ title: 'Refused', body: html`<p>The device was not signed in.</p>` })
    }),
  )

  return app
}

/** The device's half: the `grant_type` that it asks with again and again. */
export function deviceGrant(deps: {
  codes: DeviceCodes
  issued: IssuedTokens
  users: Users
  /** Seconds that the token lives. */
  expiresIn: number
}): TokenGrant {
  return async ({ form }) => {
    const deviceCode = form.get('device_code') ?? ''
    if (deviceCode === '') throw new OAuthError('invalid_request', 'device_code is missing')
    const client = readClient(form)
    const { userId, scopes } = await deps.codes.redeem(deviceCode, client)
    const user = await deps.users.byId(userId)
    if (user === undefined || user.disabledAt !== null)
      throw new OAuthError('access_denied', 'this user may not sign in')
    const { token } = await deps.issued.issue({
      subject: user.login,
      userId,
      scopes: parseScopes(scopes),
      client,
      expiresIn: deps.expiresIn,
    })
    // `username` is for Basic authentication, which git asks for.
    return {
      access_token: token,
      token_type: 'Bearer',
      expires_in: deps.expiresIn,
      scope: scopes,
      username: user.login,
    }
  }
}

function askForCode(status: number, problem: string | undefined): Promise<Response> {
  return page({
    title: 'Sign in a device',
    status,
    body: html`${problem === undefined ? '' : html`<p><strong>${problem}</strong></p>`}
<form method="get" action="/auth/device"><p><label>The code that your terminal shows:
<input type="text" name="user_code" autocomplete="off" autocapitalize="characters" spellcheck="false" maxlength="20" required></label></p>
<button>Continue</button></form>`,
  })
}

function readClient(form: URLSearchParams): string {
  const client = form.get('client_id') ?? ''
  if (!/^[A-Za-z0-9][A-Za-z0-9 ._@-]{0,99}$/.test(client))
    throw new OAuthError('invalid_client', 'client_id must be a name: letters, digits, spaces and ._@-')
  return client
}

function readScopes(text: string): string {
  try {
    const scopes = parseScopes(text)
    if (scopes.length > 0 && scopes.length <= 50) return scopes.map(printScope).join(' ')
  } catch {
    // Said below.
  }
  throw new OAuthError('invalid_scope', 'a scope reads <noun>:<resource>:<level>, as lfs:org/repo:r')
}
