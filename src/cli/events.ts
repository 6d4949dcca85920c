import { setTimeout } from 'node:timers/promises'
import { TimoneError } from '../errors.ts'
import { AuditTrail, type TrailEvent } from '../identity/audit-trail.ts'
import { interruptible } from './interruption.ts'
import { clean, type Io, print } from './io.ts'
import { type OperatorOptions, withDatabase } from './operator-database.ts'

export interface EventsOptions extends OperatorOptions {
  /** How many of those that have happened. */
  readonly last: number
  readonly follow?: boolean | undefined
}

/** Milliseconds between looks for new events. */
const EVERY = 500

/**
 * `timone events`: who did what, when, and from where; the newest last.
 * @throws {TimoneError} `cancelled` once the user has seen enough
 */
export function showEvents(options: EventsOptions, io: Io): Promise<number> {
  const show = (events: readonly TrailEvent[]) =>
    print(io, ...events.map((event) => (options.json === true ? JSON.stringify(event) : lineOf(event))))
  return withDatabase(options, io, async ({ db }) => {
    const trail = new AuditTrail(db)
    show(await trail.last(options.last))
    if (options.follow !== true) return 0
    return interruptible(
      io,
      () => {},
      async (signal) => {
        while (true) {
          await setTimeout(EVERY, undefined, { signal }).catch(() => {
            throw new TimoneError('cancelled', 'interrupted')
          })
          show(await trail.more())
        }
      },
    )
  })
}

function lineOf({ at, actor, action, subject, source, data }: TrailEvent): string {
  const more = JSON.stringify(data)
  const words = [at, actor || '-', action, subject || '-', source || '-', more === '{}' ? '' : more]
  return clean(words.join('  ')).trimEnd()
}
