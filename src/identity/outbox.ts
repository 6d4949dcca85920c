import { type Kysely, PostgresAdapter, sql } from 'kysely'
import type { Schema } from '../database/schema.ts'
import { TOLD } from './events.ts'
import { documentsOf, findUser } from './ident-store.ts'

/** Events that are published in one go. */
const BATCH = 100
/** Held by the one instance that publishes, so that all is told in the order in which it happened. */
const LOCK = 7_250_441_907

export interface OutboxOptions {
  db: Kysely<Schema>
  /** Resolves when the broker has the message. */
  publish: (routingKey: string, body: Buffer, contentType: string) => Promise<void>
  report: (error: unknown) => void
  /** Milliseconds between two looks, for what other instances did. */
  every?: number
  /** Milliseconds since the epoch. */
  now?: () => number
}

/** Tells of changes to users once they are committed: each at least once, whatever happens to us in between. */
export class Outbox {
  readonly #options: OutboxOptions
  readonly #now: () => number
  #running: Promise<void> | undefined
  #again = false
  #stopped = false
  #timer: NodeJS.Timeout | undefined

  constructor(options: OutboxOptions) {
    this.#options = options
    this.#now = options.now ?? Date.now
    this.nudge()
    this.#timer = setInterval(() => this.nudge(), options.every ?? 1_000)
  }

  /** Something is to be told. */
  nudge(): void {
    if (this.#stopped) return
    if (this.#running !== undefined) {
      this.#again = true
      return
    }
    this.#running = this.#drain()
      .catch(this.#options.report)
      .finally(() => {
        this.#running = undefined
        if (this.#again) {
          this.#again = false
          this.nudge()
        }
      })
  }

  /** Resolves when nothing is being published any more. */
  async stop(): Promise<void> {
    clearInterval(this.#timer)
    this.#stopped = true
    await this.#running
  }

  async #drain(): Promise<void> {
    const { db } = this.#options
    const isPostgres = db.getExecutor().adapter instanceof PostgresAdapter
    let published = BATCH
    while (published === BATCH && !this.#stopped) {
      // SQLite serves one process, and a transaction that waits for a broker would make everybody wait.
      published = isPostgres
        ? await db.transaction().execute((within) => this.#alone(within))
        : await this.#batch(db)
    }
  }

  async #alone(db: Kysely<Schema>): Promise<number> {
    const { rows } = await sql<{ free: boolean }>`select pg_try_advisory_xact_lock(${LOCK}) as free`.execute(
      db,
    )
    return rows[0]?.free === true ? this.#batch(db) : 0
  }

  async #batch(db: Kysely<Schema>): Promise<number> {
    const events = await db
      .selectFrom('events')
      .select(['id', 'action', 'subject', 'data'])
      .where('published_at', 'is', null)
      .where('action', 'in', TOLD)
      .orderBy('id')
      .limit(BATCH)
      .execute()
    for (const event of events) {
      const body = await notification(db, event)
      await this.#options.publish(
        `notifications.${event.action}`,
        Buffer.from(JSON.stringify(body)),
        'application/json',
      )
    }
    if (events.length > 0) {
      await db
        .updateTable('events')
        .set({ published_at: new Date(this.#now()).toISOString() })
        .where(
          'id',
          'in',
          events.map(({ id }) => id),
        )
        .execute()
    }
    return events.length
  }
}

/** Tokens are in no event and in no document here. */
async function notification(
  db: Kysely<Schema>,
  event: { action: string; subject: string; data: string },
): Promise<object> {
  const id = Number(event.subject.replace(/^user:/, ''))
  if (event.action === 'user.delete') return { user_id: id }
  if (event.action === 'user.patch') {
    return { user_id: id, ops: (JSON.parse(event.data) as { ops?: unknown }).ops ?? [] }
  }
  const row = await findUser(db, { user_id: id })
  const [document] = row === undefined ? [] : await documentsOf(db, [row])
  // Gone again already.
  return document ?? { id }
}
