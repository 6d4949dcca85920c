import { Hono } from 'hono'
import { OAuthError } from './oauth-error.ts'
import { exchangeToken, TOKEN_EXCHANGE } from './token-exchange.ts'
import type { Trust } from './trust.ts'

/** Longest form that is read, bytes. */
const MAX_FORM = 64 * 1024

/** `POST /oauth/token` (RFC 6749, section 3.2). */
export function tokenRoutes(trust: Trust): Hono {
  const app = new Hono()
  app.post('/oauth/token', async (c) => {
    try {
      if (!/^application\/x-www-form-urlencoded\b/i.test(c.req.header('content-type') ?? ''))
        throw new OAuthError('invalid_request', 'the body must be application/x-www-form-urlencoded')
      const text = await c.req.text()
      if (text.length > MAX_FORM) throw new OAuthError('invalid_request', 'the form is too long')
      const form = new URLSearchParams(text)
      if (form.get('grant_type') !== TOKEN_EXCHANGE)
        throw new OAuthError('unsupported_grant_type', `grant_type must be ${TOKEN_EXCHANGE}`)
      const answer = await exchangeToken(trust, form, addressOf(c.env))
      return c.json(answer, 200, { 'Cache-Control': 'no-store', Pragma: 'no-cache' })
    } catch (error) {
      if (!(error instanceof OAuthError)) throw error
      const later = error.code === 'temporarily_unavailable'
      const body = { error: error.code, error_description: error.message }
      return c.json(body, later ? 503 : 400, {
        'Cache-Control': 'no-store',
        Pragma: 'no-cache',
        ...(later ? { 'Retry-After': '30' } : {}),
      })
    }
  })
  return app
}

/** Where the request came from, as the server's environment for a request tells. */
function addressOf(env: unknown): string {
  const record = (env as { record?: { address?: string } } | undefined)?.record
  return record?.address ?? ''
}
