import { isTimoneError } from '../errors.ts'
import type { Connection, Connections } from '../identity/connections.ts'
import type { Event } from '../identity/events.ts'
import type { User } from '../identity/users.ts'
import type { LeaseBroker } from './lease-broker.ts'
import type { LeaseStore } from './lease-store.ts'
import type { OAuthProvider } from './oauth-provider.ts'

export interface UserConnectionsOptions {
  broker: LeaseBroker
  store: LeaseStore
  providers: ReadonlyMap<string, { source: OAuthProvider; description: { name?: string | undefined } }>
  audit: (event: Event) => Promise<void>
}

/** The leases of users: accounts that they connected, and could connect. */
export class UserConnections implements Connections {
  readonly #options: UserConnectionsOptions

  constructor(options: UserConnectionsOptions) {
    this.#options = options
  }

  /** Those of the providers in their order, then what is there besides. */
  async of(userId: number): Promise<Connection[]> {
    const { store, providers } = this.#options
    const rows = await store.list(`user:${userId}`)
    const known = [...providers].map(([source, { description }]): Connection => {
      const row = rows.find((row) => row.source === source && row.resource === '')
      return {
        source,
        resource: '',
        name: description.name ?? source,
        state: row?.state ?? 'none',
        error: row?.error ?? null,
        scope: row?.scope ?? null,
        updatedAt: row?.updatedAt,
        connect: `/api/v1.0/${source}/authorize?return_url=/account`,
      }
    })
    const others = rows.filter(({ source, resource }) => !(resource === '' && providers.has(source)))
    return [
      ...known,
      ...others.map(({ source, resource, state, error, scope, updatedAt }) => {
        const name = resource === '' ? source : `${source}: ${resource}`
        return { source, resource, name, state, error, scope, updatedAt }
      }),
    ]
  }

  async end(
    user: User,
    { source, resource }: { source: string; resource: string },
    from: string,
  ): Promise<boolean> {
    const { broker, providers, audit } = this.#options
    const provider = resource === '' ? providers.get(source)?.source : undefined
    let toldProvider = provider !== undefined
    const found = await broker
      .end({ owner: `user:${user.id}`, source, resource }, async ({ refreshToken, accessToken }) => {
        if (refreshToken !== undefined) await provider?.revoke(refreshToken, 'refresh_token')
        else if (accessToken !== undefined) await provider?.revoke(accessToken, 'access_token')
      })
      .catch((error: unknown) => {
        // It is gone here, which is what was asked for; that the provider did not hear of it is in the audit trail.
        if (!isTimoneError(error, 'upstream', 'invalid')) throw error
        toldProvider = false
        return true
      })
    if (found) {
      const event = { actor: user.login, action: 'lease.revoke', subject: `provider:${source}`, source: from }
      await audit({ ...event, data: { told_provider: toldProvider } })
    }
    return found
  }
}
