import { type Context, Hono } from 'hono'
import { readForm } from './form.ts'
import type { IdentityEnv } from './identity-env.ts'
import { sourceOf } from './identity-env.ts'
import { OAuthError } from './oauth-error.ts'

/** A request to `POST /oauth/token`. */
export interface TokenRequest {
  /** Every parameter, each there once, but for `audience` and `resource`. */
  readonly form: URLSearchParams
  /** The `Authorization` header. */
  readonly authorization: string | undefined
  /** Address that it came from. */
  readonly source: string
}

/** What a token endpoint answers (RFC 6749, section 5.1), and what extensions add to it. */
export interface TokenAnswer {
  access_token: string
  token_type: 'Bearer'
  /** Seconds. */
  expires_in?: number
  scope?: string
  [more: string]: unknown
}

/** Answers one `grant_type`. @throws {OAuthError} for what the client is told; other errors mean a fault of ours */
export type TokenGrant = (request: TokenRequest) => Promise<TokenAnswer>

/** Revokes one token, if it is ours and may be revoked by whoever holds it (RFC 7009, section 2.2: unknown ones are fine). */
export type RevokeToken = (token: string, source: string) => Promise<void>

/** No cookie is looked at here, so any site's scripts may ask: apps of browsers do. */
const OPEN = { 'Access-Control-Allow-Origin': '*' }
const SECRET = { 'Cache-Control': 'no-store', Pragma: 'no-cache' }

/** `POST /oauth/token`, by `grant_type`, and `POST /oauth/revoke`. Who adds a grant to the map adds it to the endpoint. */
export function tokenRoutes(deps: {
  grants: ReadonlyMap<string, TokenGrant>
  revoke: RevokeToken
}): Hono<IdentityEnv> {
  const app = new Hono<IdentityEnv>()

  const answer = async (work: () => Promise<Response>): Promise<Response> => {
    try {
      return await work()
    } catch (error) {
      if (error instanceof OAuthError) return error.toResponse(OPEN)
      throw error
    }
  }
  const preflight = (c: Context<IdentityEnv>) =>
    c.body(null, 204, {
      ...OPEN,
      'Access-Control-Allow-Methods': 'POST',
      'Access-Control-Allow-Headers': 'Authorization, Content-Type',
      'Access-Control-Max-Age': '7200',
    })
  app.options('/oauth/token', preflight)
  app.options('/oauth/revoke', preflight)

  app.post('/oauth/token', (c) =>
    answer(async () => {
      const form = await readForm(c.req)
      const type = form.get('grant_type')
      if (type === null) throw new OAuthError('invalid_request', 'grant_type is missing')
      const grant = deps.grants.get(type)
      if (grant === undefined)
        throw new OAuthError(
          'unsupported_grant_type',
          `grant_type must be one of ${[...deps.grants.keys()].join(', ')}`,
        )
      const { authorization } = c.req.header()
      return c.json(await grant({ form, authorization, source: sourceOf(c) }), 200, { ...OPEN, ...SECRET })
    }),
  )

  app.post('/oauth/revoke', (c) =>
    answer(async () => {
      const token = (await readForm(c.req)).get('token')
      if (token === null) throw new OAuthError('invalid_request', 'token is missing')
      await deps.revoke(token, sourceOf(c))
      return c.body(null, 200, { ...OPEN, ...SECRET })
    }),
  )

  return app
}
