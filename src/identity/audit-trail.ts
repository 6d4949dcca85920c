import type { Kysely } from 'kysely'
import type { Schema } from '../database/schema.ts'

/** An event as the audit trail has it. */
export interface TrailEvent {
  id: number
  /** ISO 8601. */
  at: string
  /** Login of who did it; empty: the server itself, or nobody known. */
  actor: string
  action: string
  subject: string
  /** Address that the request came from; empty: not from the network. */
  source: string
  data: unknown
}

/** Milliseconds that a transaction may take: its events have lower numbers than those of shorter ones, and come later. */
const LATE = 60_000

/** Reads the audit trail, and goes on reading: every event is given once, also one that was committed out of turn. */
export class AuditTrail {
  readonly #db: Kysely<Schema>
  readonly #now: () => number
  /** All up to here were given, and none of them can come any more. */
  #mark = 0
  /** When each one beyond the mark was given. */
  readonly #given = new Map<number, number>()

  /** `now` gives milliseconds since the epoch. */
  constructor(db: Kysely<Schema>, now: () => number = Date.now) {
    this.#db = db
    this.#now = now
  }

  /** The newest `count` events, the oldest of them first. Others that happened before are not given later. */
  async last(count: number): Promise<TrailEvent[]> {
    const settled = new Date(this.#now() - LATE).toISOString()
    const old = await this.#db
      .selectFrom('events')
      .select('id')
      .where('at', '<', settled)
      .orderBy('id', 'desc')
      .limit(1)
      .executeTakeFirst()
    this.#mark = Number(old?.id ?? 0)
    // In one query: what is committed between two would be in neither, or in both.
    const rows = await this.#db
      .selectFrom('events')
      .selectAll()
      .where(({ or, eb, selectFrom }) =>
        or([
          eb('id', '>', this.#mark),
          eb('id', 'in', selectFrom('events').select('id').orderBy('id', 'desc').limit(count)),
        ]),
      )
      .orderBy('id')
      .execute()
    const events = rows.map(eventOf)
    this.#note(events.filter(({ id }) => id > this.#mark))
    return count === 0 ? [] : events.slice(-count)
  }

  /** What has come since, by its number. */
  async more(): Promise<TrailEvent[]> {
    const rows = await this.#db
      .selectFrom('events')
      .selectAll()
      .where('id', '>', this.#mark)
      .orderBy('id')
      .execute()
    const events = rows.map(eventOf).filter(({ id }) => !this.#given.has(id))
    this.#note(events)
    return events
  }

  #note(events: readonly TrailEvent[]): void {
    const now = this.#now()
    for (const { id } of events) this.#given.set(id, now)
    for (const [id, at] of this.#given) if (now - at > LATE) this.#mark = Math.max(this.#mark, id)
    for (const id of this.#given.keys()) if (id <= this.#mark) this.#given.delete(id)
  }
}

function eventOf(row: {
  id: number | string
  at: string
  actor: string
  action: string
  subject: string
  source: string
  data: string
}): TrailEvent {
  const { id, at, actor, action, subject, source, data } = row
  return { id: Number(id), at, actor, action, subject, source, data: JSON.parse(data) }
}
