import { Hono } from 'hono'
import type { Principal } from '../auth/principal.ts'
import { allows } from '../auth/scope.ts'
import { readForm } from './form.ts'
import type { IdentityEnv } from './identity-env.ts'
import { OAuthError } from './oauth-error.ts'
import type { OpaqueTokens } from './opaque-tokens.ts'

export interface IntrospectionOptions {
  tokens: OpaqueTokens
  /** Who asks, by the `Authorization` header. @throws {TimoneError} `unauthorized` */
  identify: (authorization: string | undefined) => Promise<Principal | undefined>
  /** Public URL of this server. */
  url: string
}

const ANY_USER = { noun: 'users', resource: '*', level: 'r' }

/**
 * `POST /oauth/introspect` (RFC 7662): is an app's or a personal token good, and for what? Whoever may read users may
 * ask about every token; whoever else, about the very token that they ask with.
 */
export function introspectionRoutes({ tokens, identify, url }: IntrospectionOptions): Hono<IdentityEnv> {
  const app = new Hono<IdentityEnv>()
  app.post('/oauth/introspect', async (c) => {
    const secret = { 'Cache-Control': 'no-store', Pragma: 'no-cache' }
    try {
      const caller = await identify(c.req.header('authorization'))
      if (caller === undefined)
        throw new OAuthError('invalid_client', 'send a token with the scope users:*:r as Bearer')
      c.set('subject', caller.subject)
      const text = (await readForm(c.req)).get('token')
      if (text === null) throw new OAuthError('invalid_request', 'token is missing')
      const token = await tokens.find(text)
      const mayAsk =
        (caller.scopes !== 'full' && allows(caller.scopes, ANY_USER)) ||
        (caller.tokenId !== undefined && caller.tokenId === token?.id)
      // What somebody may not know is as if it were not there (RFC 7662, section 2.2).
      if (token === undefined || !mayAsk || (token.kind !== 'app' && token.kind !== 'personal'))
        return c.json({ active: false }, 200, secret)
      const answer = {
        active: true,
        scope: token.scopes.join(' '),
        client_id: token.client,
        username: token.user?.login,
        sub: token.user?.login,
        token_type: 'Bearer',
        iat: seconds(token.createdAt),
        iss: url,
        ...(token.expiresAt === null ? {} : { exp: seconds(token.expiresAt) }),
      }
      return c.json(answer, 200, secret)
    } catch (error) {
      if (error instanceof OAuthError) return error.toResponse({ 'WWW-Authenticate': 'Bearer' })
      throw error
    }
  })
  return app
}

function seconds(time: string): number {
  return Math.floor(Date.parse(time) / 1000)
}
