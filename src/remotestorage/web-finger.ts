import { Hono } from 'hono'
import type { IdentityEnv } from '../identity/identity-env.ts'
import type { Users } from '../identity/users.ts'

export interface WebFingerOptions {
  users: Users
  /** Public address of the server, without a slash at its end. */
  url: string
  /** The same of what serves the storage. */
  storageUrl: string
  /** People can sign in in a browser, and so be asked whether an app may come in. */
  signIn: boolean
}

const SPEC = 'http://remotestorage.io/spec/version'
const RFC = 'http://tools.ietf.org/html/rfc'

/** Any page may ask where somebody's storage is. */
const OPEN = { 'Access-Control-Allow-Origin': '*', 'Cache-Control': 'no-cache' }

/** Tells apps where the storage of `user@host` is (draft-dejong-remotestorage-26, section 10; RFC 7033). */
export function webFingerRoutes({ users, url, storageUrl, signIn }: WebFingerOptions): Hono<IdentityEnv> {
  const app = new Hono<IdentityEnv>()
  app.get('/.well-known/webfinger', async (c) => {
    const resource = c.req.query('resource') ?? ''
    const [, login, host = ''] = /^acct:([^@]+)@([^@]+)$/.exec(resource) ?? []
    if (login === undefined) return c.json({ message: 'ask for resource=acct:USER@HOST' }, 400, OPEN)
    const here = new URL(url)
    const isHere = [here.host, here.hostname].includes(host.toLowerCase())
    const user = isHere ? await users.byLogin(login) : undefined
    if (user === undefined || user.disabledAt !== null) return c.json({ message: 'no such user' }, 404, OPEN)
    const link = {
      rel: 'http://tools.ietf.org/id/draft-dejong-remotestorage',
      href: `${storageUrl}/storage/${user.login}`,
      properties: {
        [SPEC]: 'draft-dejong-remotestorage-26',
        // Null: tokens come from the operator.
        [`${RFC}6749#section-4.2`]: signIn ? `${url}/oauth/${user.login}` : null,
        ...(signIn && {
          [`${RFC}6749#section-3.1`]: `${url}/oauth/${user.login}`,
          [`${RFC}6749#section-3.2`]: `${url}/oauth/token`,
          [`${RFC}7636`]: 'S256',
        }),
        // No token in an address: it would be in logs.
        [`${RFC}6750#section-2.3`]: null,
        [`${RFC}7233`]: 'GET',
      },
    }
    return c.body(JSON.stringify({ subject: resource, links: [link] }), 200, {
      ...OPEN,
      'Content-Type': 'application/jrd+json',
    })
  })
  return app
}
