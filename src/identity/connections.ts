import type { User } from './users.ts'

/** An account elsewhere whose credentials we hold for a user, or could hold. */
export interface Connection {
  /** Name of the provider, and what of it is opened: together they name a row of the table `leases`. */
  readonly source: string
  readonly resource: string
  /** For people. */
  readonly name: string
  /** `none`: not connected yet. */
  readonly state: 'active' | 'broken' | 'none'
  /** Why it is broken; never a secret. */
  readonly error: string | null
  readonly scope: string | null
  /** Milliseconds since the epoch; undefined: not connected. */
  readonly updatedAt?: number | undefined
  /** Path of this server that connects it, or connects it anew; undefined: it cannot be connected here. */
  readonly connect?: string | undefined
}

/** What the account page shows of the credentials of other services, which another room keeps. */
export interface Connections {
  of(userId: number): Promise<Connection[]>
  /** Takes a user's credentials back, at their provider too where that is possible. False when there were none. */
  end(user: User, key: { source: string; resource: string }, from: string): Promise<boolean>
}
