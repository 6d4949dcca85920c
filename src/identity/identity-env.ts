import type { Context } from 'hono'

/** What the routes of this room and of `leases` find in, and put into, the Hono context. */
export interface IdentityEnv {
  Variables: {
    /** Id of the request, as logs and error bodies name it. */
    requestId: string
    /** Who asks, for the log; set by the route once it knows. */
    subject: string | undefined
  }
  Bindings: { record: { readonly address: string } }
}

/** Address that a request came from; empty where it is not known. */
export function sourceOf(c: Context<IdentityEnv>): string {
  return (c.env as Partial<IdentityEnv['Bindings']> | undefined)?.record?.address ?? ''
}
