import type { Oid } from '../oid.ts'
import { type Blob, readBlobs } from './blobs.ts'
import { type Pointer, parsePointer } from './pointer.ts'
import type { LocalRepository } from './repository.ts'

/** A pointer that git holds, and where. */
export interface PointerEntry {
  /** Relative to the work tree's root, with `/`. Of a blob with many paths in history: one of them, or empty. */
  readonly path: string
  readonly oid: Oid
  /** Bytes of the object. */
  readonly size: number
  /** File mode as git stores it: 0o100644 or 0o100755; 0 where no tree was asked. */
  readonly mode: number
  /** Id of the pointer's own blob, hexadecimal. */
  readonly blob: string
  /** Why only git-lfs can fill the file, though the object can be moved like any other; undefined: it is an ordinary pointer. */
  readonly unusual: string | undefined
}

/** Where a blob was found. */
export interface Place {
  readonly path: string
  readonly mode: number
}

/** A blob that may be a pointer. */
export type Candidate = Blob<Place> & { readonly path: string }

export function candidate(blob: string, path: string, mode: number): Candidate {
  return { blob, path, tag: { path, mode } }
}

/** Reads the candidates; those that are pointers, in the same order. */
export async function* pointersAmong(
  repository: LocalRepository,
  candidates: AsyncIterable<readonly Blob<Place>[]>,
): AsyncGenerator<PointerEntry> {
  for await (const { tag, blob, content } of readBlobs(repository, candidates)) {
    const pointer = content === undefined ? undefined : parsePointer(content)
    if (pointer === undefined) continue
    const { oid, size } = pointer
    yield { path: tag.path, mode: tag.mode, blob, oid, size, unusual: unusual(pointer, tag.path) }
  }
}

function unusual({ extended, canonical }: Pointer, path: string): string | undefined {
  if (extended) return 'its pointer was made with git-lfs extensions'
  if (!canonical) return 'its pointer is not written as git-lfs writes pointers'
  return path.includes('\ufffd') ? 'its name is not UTF-8' : undefined
}
