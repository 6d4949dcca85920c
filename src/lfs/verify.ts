import { keyOf, type ObjectName } from '../access/object-location.ts'
import { TimoneError } from '../errors.ts'
import type { ObjectStore } from '../storage/object-store.ts'

/**
 * Is the object really in the store, whole? One look-up, never from memory.
 * @throws {TimoneError} `not_found`, `size_mismatch`, or what the store threw.
 */
export async function verifyObject(store: ObjectStore, prefix: string, name: ObjectName): Promise<void> {
  const stored = await store.head(keyOf(prefix, name))
  if (stored === undefined) throw new TimoneError('not_found', `object ${name.oid} is not on the server`)
  if (stored.size !== name.size) {
    throw new TimoneError(
      'size_mismatch',
      `object ${name.oid} has ${stored.size} bytes on the server, expected ${name.size}`,
    )
  }
}
