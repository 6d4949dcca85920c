import type { Kysely } from 'kysely'
import type { Schema } from '../database/schema.ts'

/** What other programs are told of; the rest is for the audit trail alone. */
export const TOLD = ['user.create', 'user.patch', 'user.delete'] as const

/** One line of the audit trail. */
export interface Event {
  /** Login of who did it; empty: the server itself, or nobody known. */
  actor: string
  /** `user.create`, `token.revoke`, … */
  action: string
  /** What it was done to, as `user:17`. */
  subject: string
  /** Address that the request came from; empty: not from the network. */
  source: string
  /** Never a secret. */
  data?: Readonly<Record<string, unknown>>
}

/**
 * Writes down that something happened. Within the transaction that did it, both are kept or neither.
 * @param now milliseconds since the epoch
 */
export async function recordEvent(db: Kysely<Schema>, event: Event, now: number = Date.now()): Promise<void> {
  const { data = {}, ...rest } = event
  const at = new Date(now).toISOString()
  const published_at = TOLD.some((action) => action === event.action) ? null : at
  await db
    .insertInto('events')
    .values({ ...rest, at, data: JSON.stringify(data), published_at })
    .execute()
}
