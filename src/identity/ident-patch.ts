import { randomUUID } from 'node:crypto'
import jsonPatch from 'fast-json-patch'
import { type IdentDocument, type PatchOperation, readPatched, SERVICES } from './ident-document.ts'
import { IdentError } from './ident-error.ts'

/** Segments of a path that reach into objects' own machinery. */
const FORBIDDEN: ReadonlySet<string> = new Set(['__proto__', 'constructor', 'prototype'])

/** How a caller sees users. Patches are of what they see. */
export interface View {
  show(document: IdentDocument): object
  /** The other way round; not checked yet. */
  read(shown: unknown): unknown
}

/** What a patch makes of a user, and the operations as others may hear of them. */
export interface Patched {
  /** An `access_token` in it is a new one. */
  document: IdentDocument
  operations: PatchOperation[]
}

/**
 * Applies JSON Patch (RFC 6902) to a user. Stored access tokens can be replaced and removed, never read: to `test` and
 * `copy` they are a random word.
 * @param stored services that a token is kept of
 * @param view how the caller sees the user; without one, as it is
 * @throws {IdentError} `patch_failed` when an operation cannot be done, `invalid_patch_result` when a user cannot look
 *   like the outcome
 */
export function patchDocument(
  document: IdentDocument,
  operations: readonly PatchOperation[],
  stored: ReadonlySet<string> = new Set(),
  view?: View,
): Patched & { keptTokens: Set<string> } {
  for (const operation of operations) guard(operation)
  const word = `kept-${randomUUID()}`
  const before = structuredClone(document)
  for (const service of SERVICES) {
    const link = before[service]
    if (link !== undefined && stored.has(service)) link.access_token = word
  }
  let after: unknown
  try {
    // The operations are copied: the library may write into their values.
    after = jsonPatch.applyPatch(
      view === undefined ? before : view.show(before),
      structuredClone(operations) as jsonPatch.Operation[],
      true,
    ).newDocument
  } catch (error) {
    const { name = '' } = error as { name?: string }
    throw new IdentError('patch_failed', `the patch cannot be applied${name === '' ? '' : ` (${name})`}`)
  }
  const result = readPatched(view === undefined ? after : readShown(view, after))
  if (result.id !== document.id) throw new IdentError('invalid_patch_result', 'the id cannot be changed')
  const keptTokens = new Set<string>()
  for (const service of SERVICES) {
    const link = result[service]
    // Whoever does not see tokens leaves them as they are.
    if (link === undefined || (view === undefined && link.access_token !== word)) continue
    if (view === undefined) delete link.access_token
    else if (link.access_token !== undefined || !stored.has(service)) continue
    // A token of one account is none of another.
    if (link.id === document[service]?.id) keptTokens.add(service)
  }
  if (JSON.stringify(result).includes(word)) {
    throw new IdentError('invalid_patch_result', 'an access token cannot be copied elsewhere')
  }
  const heard = view === undefined ? withoutTokens(operations) : differences(document, result)
  return { document: result, operations: heard, keptTokens }
}

function readShown(view: View, shown: unknown): unknown {
  try {
    return view.read(shown)
  } catch (error) {
    if (!(error instanceof IdentError)) throw error
    throw new IdentError('invalid_patch_result', error.message)
  }
}

/** The same change in the paths that everybody knows. */
function differences(before: IdentDocument, after: IdentDocument): PatchOperation[] {
  return withoutTokens(jsonPatch.compare(before, after) as PatchOperation[])
}

function guard({ op, path, from }: PatchOperation): void {
  for (const pointer of [path, from ?? '']) {
    const segments = pointer.split('/').map((part) => part.replaceAll('~1', '/').replaceAll('~0', '~'))
    if (segments.some((segment) => FORBIDDEN.has(segment))) {
      throw new IdentError('patch_failed', 'a path leads into what is no part of a user')
    }
  }
  const changes = [...(op === 'test' ? [] : [path]), ...(op === 'move' ? [from ?? ''] : [])]
  if (changes.some((pointer) => /^\/id(\/|$)/.test(pointer))) {
    throw new IdentError('patch_failed', 'the id cannot be changed')
  }
}

/** The operations without any access token: those that set or test one are left out, larger values lose theirs. */
function withoutTokens(operations: readonly PatchOperation[]): PatchOperation[] {
  return operations
    .filter(({ path, from }) => !/\/access_token$/.test(path) && !/\/access_token$/.test(from ?? ''))
    .map((operation) => ('value' in operation ? { ...operation, value: strip(operation.value) } : operation))
}

function strip(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(strip)
  if (typeof value !== 'object' || value === null) return value
  return Object.fromEntries(
    Object.entries(value)
      .filter(([key]) => key !== 'access_token')
      .map(([key, inner]) => [key, strip(inner)]),
  )
}
