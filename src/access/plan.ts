import { TimoneError } from '../errors.ts'
import { isObjectSize, type Oid } from '../oid.ts'

/**
 * The plan of one batch: what its Batch answer told git-lfs to move. The agent gets it at once, in the first actions of
 * the batch, and can work ahead of git-lfs, which asks for one object at a time (git-lfs tq/custom.go).
 *
 * It travels as the fragment of the action's URL, which HTTP never sends on (RFC 9110, section 4.2.5), so that it needs
 * neither memory on the server nor a further request, and no other user of the action is concerned by it.
 */

/** One object of a batch. */
export interface PlannedObject {
  oid: Oid
  /** Bytes. */
  size: number
  /** A damaged object is in the store and is to be replaced. */
  replace: boolean
}

const NAME = 'plan='
const VERSION = 1
/** SHA-256. */
const OID_LENGTH = 32
/** Objects in one plan; Batch takes no more either. */
const MAX_OBJECTS = 100_000

/** The absolute URL `href` with the plan in its fragment: about 50 characters an object. */
export function hrefWithPlan(href: string, objects: readonly PlannedObject[]): string {
  // Per object: 32 bytes of oid, and twice the size plus one for `replace`, seven bits to a byte, the lowest first.
  const bytes = Buffer.alloc(1 + objects.length * (OID_LENGTH + 7))
  bytes[0] = VERSION
  let at = 1
  for (const { oid, size, replace } of objects) {
    at += bytes.write(oid, at, 'hex')
    let rest = size * 2 + (replace ? 1 : 0)
    for (; rest > 127; rest = Math.floor(rest / 128)) bytes[at++] = 128 + (rest % 128)
    bytes[at++] = rest
  }
  return `${href}#${NAME}${bytes.toString('base64url', 0, at)}`
}

/**
 * Takes the plan out of an action's URL; empty where it has none. The URL itself is not checked.
 * @throws {TimoneError} `invalid` when there is one that cannot be read.
 */
export function splitPlan(href: string): { href: string; plan: PlannedObject[] } {
  const bare = hrefWithoutPlan(href)
  const fragment = href.slice(bare.length + 1)
  return { href: bare, plan: fragment.startsWith(NAME) ? decode(fragment.slice(NAME.length)) : [] }
}

/** An action's URL without the plan. */
export function hrefWithoutPlan(href: string): string {
  const at = href.indexOf('#')
  return at === -1 ? href : href.slice(0, at)
}

function decode(text: string): PlannedObject[] {
  const bytes = Buffer.from(text, 'base64url')
  if (bytes[0] !== VERSION) throw unreadable()
  const objects: PlannedObject[] = []
  let at = 1
  while (at < bytes.length) {
    if (objects.length === MAX_OBJECTS) throw unreadable()
    const oid = bytes.toString('hex', at, at + OID_LENGTH) as Oid
    at += OID_LENGTH
    let number = 0
    for (let weight = 1; ; weight *= 128) {
      const byte = bytes[at++]
      if (byte === undefined || weight > 2 ** 49) throw unreadable()
      number += (byte & 127) * weight
      if (byte < 128) break
    }
    const size = Math.floor(number / 2)
    if (!isObjectSize(size)) throw unreadable()
    objects.push({ oid, size, replace: number % 2 === 1 })
  }
  return objects
}

const unreadable = (): TimoneError =>
  new TimoneError('invalid', 'the server gave a plan of the batch that cannot be read')
