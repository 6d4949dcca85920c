import { TimoneError } from './errors.ts'

/** A Git LFS object id: the SHA-256 of the content, 64 lower-case hexadecimal digits. */
export type Oid = string & { readonly __oid: true }

const OID = /^[0-9a-f]{64}$/

/** True when `value` is an oid as the git-lfs pointer specification spells it. */
export function isOid(value: unknown): value is Oid {
  return typeof value === 'string' && OID.test(value)
}

/** `value` as an {@link Oid}. @throws {TimoneError} `invalid` */
export function parseOid(value: unknown): Oid {
  if (isOid(value)) return value
  throw new TimoneError('invalid', 'an oid must be 64 lower-case hexadecimal digits (SHA-256)')
}

/** True when `value` can be an object's size: a whole number of bytes, at most 5 TiB (the S3 limit). */
export function isObjectSize(value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) >= 0 && (value as number) <= MAX_OBJECT_SIZE
}

/** The largest object that S3 stores, in bytes: 5 TiB. */
export const MAX_OBJECT_SIZE: number = 5 * 2 ** 40
