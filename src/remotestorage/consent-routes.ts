import { createHash, timingSafeEqual } from 'node:crypto'
import { type Context, Hono } from 'hono'
import { html } from 'hono/html'
import { TimoneError } from '../errors.ts'
import type { Event } from '../identity/events.ts'
import { readForm } from '../identity/form.ts'
import { type IdentityEnv, sourceOf } from '../identity/identity-env.ts'
import { OAuthError } from '../identity/oauth-error.ts'
import type { OpaqueTokens } from '../identity/opaque-tokens.ts'
import { page } from '../identity/page.ts'
import { problemPage } from '../identity/problem-page.ts'
import { checkCsrf, type Session, type Sessions } from '../identity/sessions.ts'
import type { TokenGrant } from '../identity/token-endpoint.ts'
import { type AppRequest, answerAddress, fieldsOf, parseAppRequest } from './app-request.ts'
import { describeAppScope, includesAll, printAppScopes, storageScopes } from './app-scopes.ts'
import { isOldGrant, type OldGrantData } from './old-grants.ts'

export interface ConsentOptions {
  sessions: Sessions
  tokens: OpaqueTokens
  /** Writes into the audit trail. */
  record: (event: Event) => Promise<void>
}

/** Seconds for which a code is good (RFC 6749, section 4.1.2: ten minutes at most). */
const CODE_EXPIRES = 60

/** What belongs to a code, and is asked about when it is redeemed. */
interface CodeData {
  challenge: string
  redirectUri: string
  clientId: string
  scope: string
}

/** What belongs to an app's token: consent is remembered for this address only. */
interface AppData {
  redirectUri: string
}

function isSameApp(client: string, data: unknown, request: AppRequest): boolean {
  if (typeof data !== 'object' || data === null) return false
  if ('md5' in data) return isOldGrant(data as OldGrantData, request)
  return client === request.origin && (data as AppData).redirectUri === request.redirectUri
}

/** `GET` and `POST /oauth/{login}`: the page where people let apps into their storage. */
export function consentRoutes({ sessions, tokens, record }: ConsentOptions): Hono<IdentityEnv> {
  const app = new Hono<IdentityEnv>()

  const signedIn = async (c: Context<IdentityEnv>): Promise<Session | undefined> => {
    const session = await sessions.of({ cookie: c.req.header('cookie') })
    if (session === undefined) return undefined
    c.set('subject', session.user.login)
    if (session.user.login !== c.req.param('login')?.toLowerCase())
      throw new TimoneError(
        'forbidden',
        `You are signed in as ${session.user.login}, and the app asks for the storage of somebody else. Sign out at /auth/signed-in first, or connect the app to your own address.`,
      )
    return session
  }
  const grant = async (c: Context<IdentityEnv>, session: Session, request: AppRequest): Promise<Response> => {
    const { origin: client, redirectUri, clientId, challenge } = request
    const { user } = session
    const scope = printAppScopes(request.scopes)
    const scopes = storageScopes(request.scopes)
    await record({
      actor: user.login,
      action: 'app.consent',
      subject: `user:${user.id}`,
      source: sourceOf(c),
      data: { client, scopes },
    })
    if (challenge !== undefined && request.responseType === 'code') {
      const data: CodeData = { challenge, redirectUri, clientId, scope }
      const code = { userId: user.id, kind: 'code', scopes, client, expiresIn: CODE_EXPIRES, data } as const
      return redirect(answerAddress(request, { code: (await tokens.issue(code)).token }))
    }
    const data: AppData = { redirectUri }
    const { token } = await tokens.issue({ userId: user.id, kind: 'app', scopes, client, data })
    return redirect(answerAddress(request, { access_token: token, token_type: 'bearer', scope }))
  }
  /** Said yes before, to this address, for this much, and did not take it back since. */
  const isRemembered = async ({ user }: Session, request: AppRequest): Promise<boolean> =>
    (await tokens.list(user.id)).some(
      ({ kind, client, scopes, data }) =>
        kind === 'app' && includesAll(scopes, request.scopes) && isSameApp(client, data, request),
    )

  app.get('/oauth/:login', (c) =>
    problemPage(async () => {
      const query = new URL(c.req.url).searchParams
      const request = parseAppRequest(query)
      const session = await signedIn(c)
      if (session === undefined) return signIn(c, query)
      if (await isRemembered(session, request)) return grant(c, session, request)
      return page({
        title: 'Let an app into your storage?',
        formTargets: [request.origin],
        body: html`<p>The app at <strong><code>${request.origin}</code></strong> asks to use the storage of
<strong>${session.user.login}</strong>. It would be able to:</p>
<ul>${request.scopes.map((scope) => html`<li>${describeAppScope(scope)}</li>`)}</ul>
<p>Allow it only if you have just connected this app yourself. It can do so until you take it back.</p>
<form method="post" action="/oauth/${session.user.login}"><input type="hidden" name="csrf" value="${session.csrf}">
${fieldsOf(query).map(([name, value]) => html`<input type="hidden" name="${name}" value="${value}">`)}
<button name="answer" value="allow">Allow</button><button name="answer" value="deny">Deny</button></form>`,
      })
    }),
  )

  app.post('/oauth/:login', (c) =>
    problemPage(async () => {
      const form = await readForm(c.req)
      const session = await signedIn(c)
      if (session === undefined) return signIn(c, form)
      checkCsrf(session, form.get('csrf'))
      const request = parseAppRequest(form)
      const answer = form.get('answer')
      if (answer === 'allow') return grant(c, session, request)
      if (answer === 'deny') return redirect(answerAddress(request, { error: 'access_denied' }))
      throw new TimoneError('invalid', 'choose allow or deny')
    }),
  )

  return app
}

/** `grant_type=authorization_code`: gives the token for a code, once (RFC 6749, section 4.1.3; RFC 7636, section 4.6). */
export function codeGrant(tokens: OpaqueTokens): TokenGrant {
  /** Somebody else has the code as well, or had the token: it is no longer good (RFC 9700, section 2.1.1). */
  const refuseAgain = async (text: string, source: string): Promise<never> => {
    const id = await tokens.nameOf(text, 'code')
    if (id !== undefined) await tokens.revoke(tokenIdOf(id), { source })
    throw refused()
  }
  return async ({ form, source }) => {
    const text = form.get('code') ?? ''
    const code = await tokens.find(text, 'code')
    if (code === undefined) return refuseAgain(text, source)
    const data = code.data as CodeData
    const { redirectUri } = data
    const verifier = form.get('code_verifier') ?? ''
    const given = createHash('sha256').update(verifier).digest()
    const wanted = Buffer.from(data.challenge, 'base64url')
    const isSame =
      /^[A-Za-z0-9._~-]{43,128}$/.test(verifier) &&
      given.length === wanted.length &&
      timingSafeEqual(given, wanted) &&
      URL.parse(form.get('redirect_uri') ?? '')?.href === redirectUri &&
      form.get('client_id') === data.clientId
    if (!isSame) {
      // Who tries has one chance.
      await tokens.revoke(code.id, { source })
      throw refused()
    }
    const { userId, scopes, client } = code
    const app: AppData = { redirectUri }
    const next = { userId, kind: 'app', scopes, client, data: app, id: tokenIdOf(code.id) } as const
    const { token } = (await tokens.exchange(code.id, next)) ?? (await refuseAgain(text, source))
    return { access_token: token, token_type: 'Bearer', scope: data.scope }
  }
}

/** The name of the token that a code is exchanged for, so that it is found when the code is shown once more. */
function tokenIdOf(code: string): string {
  const hex = createHash('sha256').update(`token of ${code}`).digest('hex')
  // As a UUID of version 8 (RFC 9562, section 5.8).
  return hex.slice(0, 32).replace(/^(.{8})(.{4}).(.{3}).(.{3})(.{12})$/, '$1-$2-8$3-8$4-$5')
}

function refused(): OAuthError {
  return new OAuthError(
    'invalid_grant',
    'the code is not valid, was used before, or was made for another client_id, redirect_uri or code_verifier',
  )
}

function signIn(c: Context<IdentityEnv>, query: URLSearchParams): Response {
  const here = `/oauth/${c.req.param('login')}?${new URLSearchParams(fieldsOf(query))}`
  return redirect(`/auth/login?return_to=${encodeURIComponent(here)}`)
}

/** Also after a form: 303 makes browsers forget what was in it. */
function redirect(location: string): Response {
  return new Response(null, {
    status: 303,
    headers: { Location: location, 'Cache-Control': 'no-store', 'Referrer-Policy': 'no-referrer' },
  })
}
