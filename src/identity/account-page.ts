import { html } from 'hono/html'
import type { HtmlEscapedString } from 'hono/utils/html'
import type { Connection } from './connections.ts'
import type { LinkedIdentity } from './linked-identities.ts'
import { page } from './page.ts'
import type { Session } from './sessions.ts'
import type { StoredToken } from './token-rows.ts'

export interface Account {
  session: Session
  identities: readonly LinkedIdentity[]
  tokens: readonly StoredToken[]
  connections: readonly Connection[]
  /** Providers whose accounts can be linked. */
  ways: readonly { id: string; name: string; issuer: string }[]
}

type Html = HtmlEscapedString | Promise<HtmlEscapedString>

/** Everything that gets at a user's account, each with a button that ends it. */
export function accountPage({ session, identities, tokens, connections, ways }: Account): Promise<Response> {
  const { user, csrf } = session
  const of = (...kinds: StoredToken['kind'][]) => tokens.filter(({ kind }) => kinds.includes(kind))
  const button = (
    action: string,
    fields: Readonly<Record<string, string>>,
    word: string,
    what: string,
    text = word,
  ) =>
    html`<form method="post" action="${action}"><input type="hidden" name="csrf" value="${csrf}">${Object.entries(
      fields,
    ).map(([name, value]) => html`<input type="hidden" name="${name}" value="${value}">`)}
<button aria-label="${word} ${what}">${text}</button></form>`
  const tokenEntry = (token: StoredToken) =>
    entry(
      token.client || 'no name',
      [scopesOf(token), since(token), ended(token)],
      button('/account/revoke', { id: token.id }, 'Revoke', token.client || token.id),
    )

  return page({
    title: 'Your account',
    body: html`<p>You are <strong>${user.login}</strong> (${user.name}${user.email === null ? '' : html`, ${user.email}`}).</p>
${section(
  'Linked identities',
  identities.map(({ issuer, subject, label, createdAt }) =>
    entry(
      label ?? subject,
      [html`at ${issuer}`, html`since ${time(createdAt)}`],
      identities.length === 1
        ? html`<p><small>Your only one: it cannot be unlinked.</small></p>`
        : button('/account/unlink', { issuer }, 'Unlink', issuer),
    ),
  ),
)}
${ways
  .filter(({ issuer }) => !identities.some((identity) => isSame(identity.issuer, issuer)))
  .map(({ id, name }) =>
    button('/account/link', { provider: id }, 'Link', name, `Link an account at ${name}`),
  )}
${section(
  'Sign-ins',
  of('session').map((token) =>
    token.id === session.id
      ? entry('This browser', [since(token)], button('/auth/logout', {}, 'Sign out', 'this browser'))
      : entry(
          token.client || 'A browser without a name',
          [since(token), ended(token)],
          button('/account/revoke', { id: token.id }, 'Revoke', token.client || 'this sign-in'),
        ),
  ),
)}
${section('Tokens', of('jwt', 'personal').map(tokenEntry))}
${section('Approved apps', of('app').map(tokenEntry))}
${section(
  'Connected accounts',
  connections.map((connection) => {
    const { source, resource, name, state, connect } = connection
    return entry(
      name,
      [state === 'none' ? html`not connected` : html`${state}`, ...detailsOf(connection)],
      html`${
        connect === undefined || state === 'active'
          ? ''
          : html`<p><a href="${connect}">${state === 'none' ? 'Connect' : 'Reconnect'} ${name}</a></p>`
      }${state === 'none' ? '' : button('/account/disconnect', { source, resource }, 'Disconnect', name)}`,
    )
  }),
)}`,
  })
}

/** The settings may name an issuer by its discovery document. */
function isSame(issuer: string, named: string): boolean {
  return issuer.replace(/\/$/, '') === named.replace(/\/(\.well-known\/[\w-]+)?$/, '')
}

function section(title: string, entries: readonly Html[]): Html {
  return html`<section><h2>${title}</h2>${entries.length === 0 ? html`<p><small>None.</small></p>` : entries}</section>`
}

function entry(name: string, details: readonly (Html | undefined)[], action: Html): Html {
  const lines = details
    .filter((detail) => detail !== undefined)
    .map((detail, index) => html`${index === 0 ? '' : ' · '}${detail}`)
  return html`<article><div><strong>${name}</strong></div><div><small>${lines}</small></div>${action}</article>`
}

function scopesOf({ scopes }: StoredToken): Html {
  return scopes.length === 0 ? html`opens nothing` : html`opens ${scopes.join(' ')}`
}

function since({ createdAt, lastUsedAt }: StoredToken): Html {
  return html`since ${time(createdAt)}${lastUsedAt === null ? '' : html`, last used ${time(lastUsedAt)}`}`
}

function ended({ expiresAt }: StoredToken): Html {
  return expiresAt === null ? html`until you revoke it` : html`until ${time(expiresAt)}`
}

function detailsOf({ error, scope, updatedAt }: Connection): (Html | undefined)[] {
  return [
    error === null ? undefined : html`${error}`,
    scope === null ? undefined : html`opens ${scope}`,
    updatedAt === undefined ? undefined : html`renewed ${time(new Date(updatedAt).toISOString())}`,
  ]
}

/** To the minute; without scripts nobody's time zone is known. */
function time(iso: string): Html {
  return html`<time datetime="${iso}">${iso.slice(0, 16).replace('T', ' ')} UTC</time>`
}
