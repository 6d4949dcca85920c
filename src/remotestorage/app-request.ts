import { TimoneError } from '../errors.ts'
import { type AppScope, parseAppScopes } from './app-scopes.ts'

/** What an app asks for at `/oauth/{login}`, checked (RFC 6749, sections 4.1.1 and 4.2.1; RFC 7636). */
export interface AppRequest {
  readonly responseType: 'token' | 'code'
  /** Normalised; where the answer goes, and nowhere else. */
  readonly redirectUri: string
  /** Of the redirect URI: it is what the token is bound to, for nothing else about an app can be checked. */
  readonly origin: string
  readonly clientId: string
  readonly scopes: readonly AppScope[]
  readonly state: string | undefined
  /** Of a code: SHA-256 of the verifier, base64url. */
  readonly challenge: string | undefined
}

const MAX_STATE = 1500
const MAX_URI = 1500

/** @throws {TimoneError} `invalid`: shown to the person, never sent to an address that was not approved */
export function parseAppRequest(query: URLSearchParams): AppRequest {
  for (const name of new Set(query.keys())) {
    if (query.getAll(name).length > 1) throw invalid(`it gives ${JSON.stringify(name)} more than once`)
  }
  const { redirectUri, origin } = parseRedirect(query.get('redirect_uri') ?? '')
  const clientId = query.get('client_id') || origin
  if (clientId.length > 500) throw invalid('its client_id is too long')
  // Apps name themselves by their origin: one that names another's pretends to be it.
  if (/^https?:/i.test(clientId) && URL.parse(clientId)?.origin !== origin)
    throw invalid('its client_id is of another origin than its redirect_uri')
  const responseType = query.get('response_type')
  if (responseType !== 'token' && responseType !== 'code')
    throw invalid('its response_type must be token or code')
  const state = query.get('state') || undefined
  if (state !== undefined && state.length > MAX_STATE) throw invalid('its state is too long')
  const challenge = query.get('code_challenge') || undefined
  if (responseType === 'code') {
    if (challenge === undefined || query.get('code_challenge_method') !== 'S256')
      throw invalid('a code needs PKCE: code_challenge, with code_challenge_method=S256')
    if (!/^[A-Za-z0-9_-]{43}$/.test(challenge)) throw invalid('its code_challenge is malformed')
  }
  const scopes = parseAppScopes(query.get('scope') ?? '')
  return { responseType, redirectUri, origin, clientId, scopes, state, challenge }
}

/** The fields that {@link parseAppRequest} reads back as the same request. */
export function fieldsOf(query: URLSearchParams): [string, string][] {
  const kept = new Set([
    'redirect_uri',
    'client_id',
    'response_type',
    'scope',
    'state',
    'code_challenge',
    'code_challenge_method',
  ])
  return [...query].filter(([name]) => kept.has(name))
}

/** The address that takes the answer to the app: behind `#` for a token, which servers must not see, else in the query. */
export function answerAddress(request: AppRequest, answer: Record<string, string>): string {
  const all = request.state === undefined ? answer : { ...answer, state: request.state }
  // Not as forms do it: some clients read `+` as it is.
  const text = Object.entries(all)
    .map(([name, value]) => `${name}=${encodeURIComponent(value)}`)
    .join('&')
  if (request.responseType === 'token') return `${request.redirectUri}#${text}`
  return `${request.redirectUri}${request.redirectUri.includes('?') ? '&' : '?'}${text}`
}

function parseRedirect(text: string): { redirectUri: string; origin: string } {
  const url = text.length > MAX_URI ? null : URL.parse(text)
  if (url === null || (url.protocol !== 'https:' && url.protocol !== 'http:'))
    throw invalid('its redirect_uri must begin with https:// or http://')
  if (url.username !== '' || url.password !== '') throw invalid('its redirect_uri must not name a user')
  if (url.hash !== '' || text.includes('#')) throw invalid('its redirect_uri must not have a fragment')
  // The origin becomes part of a header, in which other characters have a meaning.
  if (!/^([a-z0-9_-]+\.)*[a-z0-9_-]+\.?$/.test(url.hostname))
    throw invalid('its redirect_uri must name a host')
  return { redirectUri: url.href, origin: url.origin }
}

function invalid(why: string): TimoneError {
  return new TimoneError('invalid', `The app asks in a way that is not safe to answer: ${why}.`)
}
