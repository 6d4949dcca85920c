import { TimoneError } from '../errors.ts'
import type { Oid } from '../oid.ts'
import { type BlobRequest, readBlobs } from './blobs.ts'
import { records } from './lines.ts'
import type { PathFilter } from './path-filter.ts'
import { POINTER_LIMIT, type Pointer, parsePointer } from './pointer.ts'
import type { LocalRepository } from './repository.ts'

/** A pointer that git holds, and where. */
export interface PointerEntry {
  /** Relative to the work tree's root, with `/`. Of a blob that has many paths in history: one of them. */
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

/** What {@link pointersBetween} looks at. */
export interface Range {
  /** Refs or commits whose history is looked through. */
  readonly include: readonly string[]
  /** Refs or commits whose history is left out. */
  readonly exclude?: readonly string[]
  /** Leaves out what the remote-tracking branches of this remote reach, as git-lfs does on a push. */
  readonly notOnRemote?: string
}

const everything: PathFilter = () => true
const NUL = 0
const LINE_FEED = 0x0a

interface Place {
  readonly path: string
  readonly mode: number
}

/**
 * The pointers in the tree of `ref`, one entry a path.
 * @throws {TimoneError} `config` when there is no such ref
 */
export async function* pointersOfTree(
  repository: LocalRepository,
  ref: string,
  filter: PathFilter = everything,
): AsyncGenerator<PointerEntry> {
  const git = repository.stream(['ls-tree', '-r', '-z', '-l', '--full-tree', checkRevision(ref)])
  git.stdin.end()
  async function* requests() {
    for await (const lines of records(git.stdout, NUL)) {
      const slice: BlobRequest<Place>[] = []
      for (const line of lines) {
        const tab = line.indexOf(0x09)
        const [mode = '', type, blob = '', size] = line.toString('latin1', 0, tab).split(/ +/)
        // A symbolic link or a submodule is no pointer, however it reads.
        if (type !== 'blob' || !mode.startsWith('100') || Number(size) >= POINTER_LIMIT) continue
        const path = line.toString('utf8', tab + 1)
        if (filter(path)) slice.push({ blob, tag: { path, mode: Number.parseInt(mode, 8) } })
      }
      yield slice
    }
    await git.done
  }
  yield* pointersAmong(repository, requests())
}

/** The pointers in the index: what `pull` fills. Entries outside the sparse checkout and unmerged ones are left out. */
export async function* pointersOfIndex(
  repository: LocalRepository,
  filter: PathFilter = everything,
): AsyncGenerator<PointerEntry> {
  const git = repository.stream(['ls-files', '-z', '-s', '-t', '--full-name', ':/'])
  git.stdin.end()
  async function* requests() {
    for await (const lines of records(git.stdout, NUL)) {
      const slice: BlobRequest<Place>[] = []
      for (const line of lines) {
        const tab = line.indexOf(0x09)
        const [tag, mode = '', blob = '', stage] = line.toString('latin1', 0, tab).split(' ')
        if (tag !== 'H' || stage !== '0' || !mode.startsWith('100')) continue
        const path = line.toString('utf8', tab + 1)
        if (filter(path)) slice.push({ blob, tag: { path, mode: Number.parseInt(mode, 8) } })
      }
      yield slice
    }
    await git.done
  }
  yield* pointersAmong(repository, requests())
}

/** The pointers that a push of `range` brings: those in its commits that are in none of the excluded ones. */
export async function* pointersBetween(
  repository: LocalRepository,
  range: Range,
  filter: PathFilter = everything,
): AsyncGenerator<PointerEntry> {
  const input = [
    ...range.include.map(checkRevision),
    ...(range.exclude ?? []).map((ref) => `^${checkRevision(ref)}`),
  ]
  const not = range.notOnRemote === undefined ? [] : ['--not', `--remotes=${range.notOnRemote}`]
  yield* pointersOfHistory(repository, ['--ignore-missing', ...not, '--stdin'], input, filter)
}

/** The pointers in everything that any ref reaches; `refs`: that these reach. */
export async function* pointersOfAll(
  repository: LocalRepository,
  refs: readonly string[] = [],
): AsyncGenerator<PointerEntry> {
  const args = refs.length === 0 ? ['--all', '--stdin'] : ['--stdin']
  yield* pointersOfHistory(repository, args, refs.map(checkRevision), everything)
}

async function* pointersOfHistory(
  repository: LocalRepository,
  args: readonly string[],
  input: readonly string[],
  filter: PathFilter,
): AsyncGenerator<PointerEntry> {
  const git = repository.stream([
    'rev-list',
    '--objects',
    `--filter=combine:object:type=blob+blob:limit=${POINTER_LIMIT}`,
    ...args,
  ])
  git.stdin.end(input.map((line) => `${line}\n`).join(''))
  async function* requests() {
    for await (const lines of records(git.stdout, LINE_FEED)) {
      const slice: BlobRequest<Place>[] = []
      for (const line of lines) {
        const space = line.indexOf(0x20)
        if (space === -1) continue
        const path = line.toString('utf8', space + 1)
        if (filter(path)) slice.push({ blob: line.toString('latin1', 0, space), tag: { path, mode: 0 } })
      }
      yield slice
    }
    await git.done
  }
  yield* pointersAmong(repository, requests())
}

async function* pointersAmong(
  repository: LocalRepository,
  requests: AsyncIterable<readonly BlobRequest<Place>[]>,
): AsyncGenerator<PointerEntry> {
  for await (const { tag, blob, content } of readBlobs(repository, requests)) {
    if (content === undefined) continue
    const pointer = parsePointer(content)
    if (pointer === undefined) continue
    const { oid, size } = pointer
    yield { path: tag.path, mode: tag.mode, blob, oid, size, unusual: unusual(pointer) }
  }
}

function unusual({ extended, canonical }: Pointer): string | undefined {
  if (extended) return 'its pointer was made with git-lfs extensions'
  return canonical ? undefined : 'its pointer is not written as git-lfs writes pointers'
}

/** A revision that git cannot take for an option or for two. */
function checkRevision(ref: string): string {
  if (ref !== '' && !/^[-^]|[\n\0]|\.\./.test(ref)) return ref
  throw new TimoneError('config', `${JSON.stringify(ref)} is no name of a branch, a tag or a commit`)
}
