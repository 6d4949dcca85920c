import { type Context, Hono } from 'hono'
import { z } from 'zod'
import type { Principal } from '../auth/principal.ts'
import { allows } from '../auth/scope.ts'
import { TimoneError } from '../errors.ts'
import type { Asker, Ident } from './ident.ts'
import { readNewIdent, readOperations } from './ident-document.ts'
import { type IdentCode, IdentError } from './ident-error.ts'
import { type IdentityEnv, sourceOf } from './identity-env.ts'
import { fromWire, HTTP_VIEW, toWire } from './user-wire.ts'

export interface UserRoutesOptions {
  ident: Ident
  /** Who sent an `Authorization` header; undefined without one. @throws {TimoneError} `unauthorized` */
  identify: (authorization: string | undefined) => Promise<Principal | undefined>
}

const PATCH_TYPE = 'application/json-patch+json'
const STATUS = {
  bad_request: 400,
  decode_error: 400,
  operation_not_found: 404,
  not_found: 404,
  conflict: 409,
  patch_failed: 409,
  invalid_patch_result: 422,
  invocation_failed: 500,
} as const satisfies Record<IdentCode, number>

const text = z.string().min(1).max(256)
const list = z.strictObject({
  name: text.optional(),
  email: text.optional(),
  github_id: text.optional(),
  facebook_id: text.optional(),
  page_size: z.coerce.number().int().min(1).max(1000).default(100),
  after_id: z.coerce
    .number()
    .int()
    .min(0)
    .max(2 ** 31 - 1)
    .default(0),
})

/** `GET` and `POST /users`, `GET`, `PATCH` and `DELETE /users/{id}`: the same operations as over AMQP. */
export function userRoutes({ ident, identify }: UserRoutesOptions): Hono<IdentityEnv> {
  const app = new Hono<IdentityEnv>()

  /** `resource` is a user's number, or `*`. */
  const enter = async (c: Context<IdentityEnv>, resource: string, level: 'r' | 'rw'): Promise<Asker> => {
    const principal = await identify(c.req.header('authorization'))
    if (principal === undefined) throw new TimoneError('unauthorized', 'sign in to see users')
    c.set('subject', principal.subject)
    // Full trust is for LFS alone.
    const scopes = principal.scopes === 'full' ? [] : principal.scopes
    if (!allows(scopes, { noun: 'users', resource, level })) {
      throw new TimoneError('forbidden', `this needs the scope users:${resource}:${level}`)
    }
    return { actor: principal.subject, source: sourceOf(c) }
  }
  /** Errors of operations in their own words. */
  const attempt = async (c: Context<IdentityEnv>, work: () => Promise<Response>): Promise<Response> => {
    try {
      return await work()
    } catch (error) {
      if (!(error instanceof IdentError)) throw error
      const { code, message } = error
      return c.json({ error: code, message, request_id: c.get('requestId') }, STATUS[code])
    }
  }

  app.get('/users', (c) =>
    attempt(c, async () => {
      await enter(c, '*', 'r')
      acceptsJson(c)
      const { success, data } = list.safeParse(c.req.query())
      if (!success) throw new IdentError('bad_request', 'malformed query')
      const { page_size: limit, after_id: after, ...filter } = data
      const { users, next } = await ident.list(filter, { after, limit })
      if (next !== undefined) {
        const query = new URLSearchParams({
          ...c.req.query(),
          page_size: String(limit),
          after_id: String(next),
        })
        c.header('Link', `</users?${query}>; rel="next"`)
      }
      return answer(c, 200, users.map(toWire))
    }),
  )

  app.post('/users', (c) =>
    attempt(c, async () => {
      const by = await enter(c, '*', 'rw')
      const { user_id } = await ident.create(readNewIdent(fromWire(await readBody(c))), by)
      c.header('Location', `/users/${user_id}`)
      return answer(c, 201, toWire(await ident.get({ user_id })))
    }),
  )

  app.get('/users/:id', (c) =>
    attempt(c, async () => {
      const id = readId(c)
      await enter(c, String(id), 'r')
      acceptsJson(c)
      return answer(c, 200, toWire(await ident.get({ user_id: id })))
    }),
  )

  app.patch('/users/:id', (c) =>
    attempt(c, async () => {
      const id = readId(c)
      const by = await enter(c, String(id), 'rw')
      const type = (c.req.header('content-type') ?? '').split(';')[0]?.trim().toLowerCase()
      if (type !== PATCH_TYPE) {
        c.header('Accept-Patch', PATCH_TYPE)
        const message = `send the patch as ${PATCH_TYPE}`
        return c.json({ error: 'bad_request', message, request_id: c.get('requestId') }, 415)
      }
      await ident.patch(id, readOperations(await readBody(c)), by, HTTP_VIEW)
      return answer(c, 200, toWire(await ident.get({ user_id: id })))
    }),
  )

  app.delete('/users/:id', (c) =>
    attempt(c, async () => {
      const id = readId(c)
      await ident.delete(id, await enter(c, String(id), 'rw'))
      return c.body(null, 204)
    }),
  )

  return app
}

function answer(c: Context<IdentityEnv>, status: 200 | 201, body: unknown): Response {
  return c.json(body as object, status, { 'Cache-Control': 'no-store' })
}

function readId(c: Context<IdentityEnv>): number {
  const text = c.req.param('id') ?? ''
  if (!/^[1-9]\d{0,9}$/.test(text) || Number(text) > 2 ** 31 - 1)
    throw new IdentError('not_found', 'no such user')
  return Number(text)
}

async function readBody(c: Context<IdentityEnv>): Promise<unknown> {
  try {
    return JSON.parse(await c.req.text())
  } catch {
    throw new IdentError('bad_request', 'the body is not JSON')
  }
}

/** @throws {TimoneError} `not_acceptable` */
function acceptsJson(c: Context<IdentityEnv>): void {
  const accept = c.req.header('accept') ?? '*/*'
  if (!/\*\/\*|application\/(\*|json)/i.test(accept)) {
    throw new TimoneError('not_acceptable', 'users are given as application/json only')
  }
}
