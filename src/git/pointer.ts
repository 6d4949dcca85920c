import { isOid, type Oid } from '../oid.ts'

/** What a Git LFS pointer file says (git-lfs docs/spec.md). */
export interface Pointer {
  readonly oid: Oid
  /** Bytes of the object, not of the pointer. */
  readonly size: number
  /**
   * True when the pointer was made with extensions (`ext-0-…` lines): the object is not the file's content, only
   * git-lfs with the same extensions configured can turn one into the other.
   */
  readonly extended: boolean
  /** True when the bytes are just what git-lfs writes today; else it would write the same pointer differently. */
  readonly canonical: boolean
}

/** Blobs of this size, bytes, and larger ones are no pointers (git-lfs lfs/scanner.go, `blobSizeCutoff`). */
export const POINTER_LIMIT = 1024

const LATEST = 'https://git-lfs.github.com/spec/v1'
const VERSIONS: ReadonlySet<string> = new Set([
  'http://git-media.io/v/2',
  'https://hawser.github.com/spec/v1',
  LATEST,
])
const KEYS = ['version', 'oid', 'size'] as const
const EXTENSION = /^ext-\d-\w/
/** What Go's `bytes.TrimSpace` takes away: Unicode white space, which in Latin 1 is these and 0x85, 0xA0 in UTF-8. */
const SPACE =
  /^[\t\n\v\f\r \u0085\u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]+|[\t\n\v\f\r \u0085\u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]+$/g

/** The pointer that `bytes` are; undefined when git-lfs takes them for something else (lfs/pointer.go). */
export function parsePointer(bytes: Buffer): Pointer | undefined {
  if (bytes.length === 0 || bytes.length >= POINTER_LIMIT) return undefined
  const text = bytes.toString('utf8')
  if (!/git-media|hawser|git-lfs/.test(text)) return undefined
  const values: Partial<Record<(typeof KEYS)[number], string>> = {}
  const extensions = new Map<string, string>()
  let found = 0
  for (const raw of text.replace(SPACE, '').split('\n')) {
    const line = raw.endsWith('\r') ? raw.slice(0, -1) : raw
    if (line === '') continue
    const space = line.indexOf(' ')
    const expected = KEYS[found]
    if (space === -1 || expected === undefined) return undefined
    const key = line.slice(0, space)
    const value = line.slice(space + 1)
    if (key === expected) {
      values[expected] = value
      found++
    } else if (EXTENSION.test(key)) extensions.set(key, value)
    else return undefined
  }
  const oid = parseHash(values.oid)
  const size = parseSize(values.size)
  if (!VERSIONS.has(values.version ?? '') || oid === undefined || size === undefined) return undefined
  const priorities = new Set<string>()
  for (const [key, value] of extensions) {
    const priority = key.charAt(4)
    if (parseHash(value) === undefined || priorities.has(priority)) return undefined
    priorities.add(priority)
  }
  const extended = extensions.size > 0
  return { oid, size, extended, canonical: !extended && text === printPointer({ oid, size }) }
}

/** The pointer file of an object, as git-lfs writes it; that of the empty object is an empty file. */
export function printPointer({ oid, size }: Pick<Pointer, 'oid' | 'size'>): string {
  return size === 0 ? '' : `version ${LATEST}\noid sha256:${oid}\nsize ${size}\n`
}

function parseHash(value: string | undefined): Oid | undefined {
  if (value === undefined || !value.startsWith('sha256:')) return undefined
  const oid = value.slice(7)
  return isOid(oid) ? oid : undefined
}

function parseSize(value: string | undefined): number | undefined {
  // Go's ParseInt takes a sign; a size below zero is none.
  if (value === undefined || !/^(\+?\d+|-0+)$/.test(value)) return undefined
  const size = Number(value)
  return Number.isSafeInteger(size) ? Math.abs(size) : undefined
}
