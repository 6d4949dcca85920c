import type { Kysely } from 'kysely'
import type { Schema } from '../database/schema.ts'
import { recordEvent } from './events.ts'
import { SERVICES, subjectValue } from './ident-document.ts'

/**
 * Other programs know of the sign-ins in {@link SERVICES}, and are told of one that was linked or, without `subject`,
 * unlinked as of every change: `notifications.user.patch`. Of all others they know nothing.
 * @param db the transaction that does it
 */
export async function tellOfLink(
  db: Kysely<Schema>,
  user: { id: number; login: string },
  { issuer, subject }: { issuer: string; subject?: string },
  { source, now }: { source: string; now: number },
): Promise<void> {
  const service = SERVICES.find((name) => name === issuer)
  if (service === undefined) return
  const path = `/${service}`
  const op =
    subject === undefined ? { op: 'remove', path } : { op: 'add', path, value: { id: subjectValue(subject) } }
  const event = { actor: user.login, action: 'user.patch', subject: `user:${user.id}`, source }
  await recordEvent(db, { ...event, data: { ops: [op] } }, now)
}
