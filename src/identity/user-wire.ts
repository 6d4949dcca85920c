import { type IdentDocument, SERVICES } from './ident-document.ts'
import { IdentError } from './ident-error.ts'
import type { View } from './ident-patch.ts'

/** Over HTTP the linked sign-ins are under `services`, and what issuers call a user is text. */
export function toWire(user: IdentDocument): object {
  const services = SERVICES.flatMap((service) => {
    const link = user[service]
    return link === undefined ? [] : [[service, { id: String(link.id) }] as const]
  })
  const { id, name, email, picture_url } = user
  return {
    id,
    name,
    email: email ?? null,
    picture_url: picture_url ?? null,
    services: Object.fromEntries(services),
  }
}

/** What {@link toWire} gave, as the rest of the program knows it; not checked yet. @throws {IdentError} `bad_request` */
export function fromWire(value: unknown): unknown {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) return value
  const { services = {}, ...rest } = value as { services?: unknown }
  if (typeof services !== 'object' || services === null)
    throw new IdentError('bad_request', 'malformed: services')
  if (SERVICES.some((service) => service in rest)) throw new IdentError('bad_request', 'malformed: services')
  // Absent and null are the same in JSON of other languages.
  const given = Object.entries({ ...rest, ...services }).filter(([, inner]) => inner !== null)
  return Object.fromEntries(given)
}

/** For patches of what was got over HTTP. */
export const HTTP_VIEW: View = { show: toWire, read: fromWire }
