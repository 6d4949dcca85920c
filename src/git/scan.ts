import { randomUUID } from 'node:crypto'
import { rm } from 'node:fs/promises'
import { join } from 'node:path'
import { CONVERTING, conversion, withAttributes } from './attributes.ts'
import { smallBlobs } from './blobs.ts'
import { records } from './lines.ts'
import type { PathFilter } from './path-filter.ts'
import { POINTER_LIMIT } from './pointer.ts'
import { type Candidate, candidate, type PointerEntry, pointersAmong } from './pointer-entry.ts'
import { fetchPromised, promisorRemote } from './promised.ts'
import type { LocalRepository } from './repository.ts'
import { findRevisions, resolveRevisions } from './revision.ts'

export type { PointerEntry } from './pointer-entry.ts'

/** What {@link pointersBetween} looks at. */
export interface Range {
  /** Branches, tags, commits whose history is looked through. */
  readonly include: readonly string[]
  /** Whose history is left out; those that this repository does not know are no help and no error. */
  readonly exclude?: readonly string[]
  /** Leaves out what the remote-tracking branches of this remote reach, as git-lfs does on a push. */
  readonly notOnRemote?: string
}

const everything: PathFilter = () => true
const NUL = 0
const LINE_FEED = 0x0a
const TAB = 0x09
const SPACE = 0x20

/**
 * The pointers in the tree of `ref`, one entry a path, whatever attributes the paths have, as `git lfs fetch` takes them.
 * @throws {TimoneError} `config` when there is no such ref
 */
export async function* pointersOfTree(
  repository: LocalRepository,
  ref: string,
  filter: PathFilter = everything,
): AsyncGenerator<PointerEntry> {
  const [tree] = (await resolveRevisions(repository, [`${ref}^{tree}`])) as [string]
  const remote = await promisorRemote(repository)
  if (remote !== undefined) await fetchPromisedPointers(repository, remote, tree, filter)
  // In a partial clone git would fetch a blob to tell its size.
  const sized = remote === undefined
  const candidates = blobsOfTree(repository, tree, filter, sized)
  yield* pointersAmong(
    repository,
    sized ? candidates : smallBlobs(repository, withoutMissing(repository, tree, candidates), POINTER_LIMIT),
  )
}

/**
 * The pointers in the index whose paths have `filter=lfs`: what `pull` fills. Left out are entries outside the sparse
 * checkout and files that are being merged.
 */
export async function* pointersOfIndex(
  repository: LocalRepository,
  filter: PathFilter = everything,
): AsyncGenerator<PointerEntry> {
  const config = repository.config()
  // Waited for below, while git is at work.
  config.catch(() => {})
  const filtered = withFilterLfs(repository, blobsOfIndex(repository, filter))
  const pointers = slices(pointersAmong(repository, smallBlobs(repository, filtered, POINTER_LIMIT)))
  for await (const slice of withAttributes(repository, pointers, CONVERTING)) {
    const autocrlf = (await config).get('core.autocrlf')
    for (const { entry, attributes } of slice) {
      const converted = conversion(attributes, autocrlf)
      const unusual = converted === undefined ? entry.unusual : `git converts it besides (${converted})`
      yield { ...entry, unusual }
    }
  }
}

/**
 * The pointers that a push of `range` brings: those in its commits that are in none of the excluded ones.
 * @throws {TimoneError} `config` when an included name is unknown
 */
export async function* pointersBetween(
  repository: LocalRepository,
  range: Range,
  filter: PathFilter = everything,
): AsyncGenerator<PointerEntry> {
  const included = await resolveRevisions(repository, range.include)
  const excluded = await findRevisions(repository, range.exclude ?? [])
  const input = [...included, ...excluded.flatMap((id) => (id === undefined ? [] : [`^${id}`]))]
  // What is on the command line after --not does not concern stdin.
  const not = range.notOnRemote === undefined ? [] : ['--not', `--remotes=${range.notOnRemote}`]
  yield* pointersOfHistory(repository, [...not, '--stdin'], input, filter)
}

/**
 * The pointers in everything that `refs` reach; without `refs`: that any ref reaches.
 * @throws {TimoneError} `config` when a name is unknown
 */
export async function* pointersOfAll(
  repository: LocalRepository,
  refs: readonly string[] = [],
): AsyncGenerator<PointerEntry> {
  const args = refs.length === 0 ? ['--all', '--stdin'] : ['--stdin']
  yield* pointersOfHistory(repository, args, await resolveRevisions(repository, refs), everything)
}

async function* pointersOfHistory(
  repository: LocalRepository,
  args: readonly string[],
  input: readonly string[],
  filter: PathFilter,
): AsyncGenerator<PointerEntry> {
  const remote = await promisorRemote(repository)
  const missing: Candidate[] = []
  const git = repository.stream([
    'rev-list',
    '--objects',
    // Pointers are small blobs: git tells by their sizes, without reading them.
    `--filter=combine:object:type=blob+blob:limit=${POINTER_LIMIT}`,
    ...(remote === undefined ? [] : ['--missing=print']),
    ...args,
  ])
  git.stdin.end(input.map((line) => `${line}\n`).join(''))
  async function* candidates() {
    for await (const lines of records(git.stdout, LINE_FEED)) {
      const slice: Candidate[] = []
      for (const line of lines) {
        const space = line.indexOf(SPACE)
        const id = line.toString('latin1', 0, space === -1 ? line.length : space)
        if (id.startsWith('?')) missing.push(candidate(id.slice(1), '', 0))
        else if (space !== -1) {
          const path = line.toString('utf8', space + 1)
          if (filter(path)) slice.push(candidate(id, path, 0))
        }
      }
      yield slice
    }
    await git.done
  }
  try {
    yield* pointersAmong(repository, candidates())
  } finally {
    git.stop()
  }
  if (remote === undefined || missing.length === 0) return
  await fetchPromised(
    repository,
    remote,
    missing.map(({ blob }) => blob),
  )
  yield* pointersAmong(repository, smallBlobs(repository, [missing], POINTER_LIMIT))
}

async function* blobsOfTree(
  repository: LocalRepository,
  tree: string,
  filter: PathFilter,
  sized: boolean,
): AsyncGenerator<Candidate[]> {
  const git = repository.stream(['ls-tree', '-r', '-z', ...(sized ? ['-l'] : []), '--full-tree', tree])
  git.stdin.end()
  try {
    for await (const lines of records(git.stdout, NUL)) {
      const slice: Candidate[] = []
      for (const line of lines) {
        const tab = line.indexOf(TAB)
        const [mode = '', , blob = '', size] = line.toString('latin1', 0, tab).split(/ +/)
        // A symbolic link or a submodule is no pointer, however it reads.
        if (!mode.startsWith('100') || (sized && Number(size) >= POINTER_LIMIT)) continue
        const path = line.toString('utf8', tab + 1)
        if (filter(path)) slice.push(candidate(blob, path, Number.parseInt(mode, 8)))
      }
      yield slice
    }
    await git.done
  } finally {
    git.stop()
  }
}

async function* blobsOfIndex(repository: LocalRepository, filter: PathFilter): AsyncGenerator<Candidate[]> {
  const git = repository.stream(['ls-files', '-z', '-s', '-t', '--full-name', ':/'])
  git.stdin.end()
  try {
    for await (const lines of records(git.stdout, NUL)) {
      const slice: Candidate[] = []
      for (const line of lines) {
        const tab = line.indexOf(TAB)
        const [tag, mode = '', blob = '', stage] = line.toString('latin1', 0, tab).split(' ')
        // H: in the index and, as far as git was told, in the work tree; S: outside the sparse checkout.
        if (tag !== 'H' || stage !== '0' || !mode.startsWith('100')) continue
        const path = line.toString('utf8', tab + 1)
        if (filter(path)) slice.push(candidate(blob, path, Number.parseInt(mode, 8)))
      }
      yield slice
    }
    await git.done
  } finally {
    git.stop()
  }
}

/** Those whose `filter` attribute is `lfs`; with `index`, by the `.gitattributes` files in that index. */
async function* withFilterLfs(
  repository: LocalRepository,
  candidates: AsyncIterable<Candidate[]>,
  index?: string,
): AsyncGenerator<Candidate[]> {
  for await (const slice of withAttributes(repository, candidates, ['filter'], index)) {
    yield slice.filter(({ attributes }) => attributes.filter === 'lfs').map(({ entry }) => entry)
  }
}

/**
 * Brings the pointers of a tree that a partial clone left out. Which blobs are pointers only their content tells; so it is
 * the ones of paths with `filter=lfs`, by the tree's own attributes.
 */
async function fetchPromisedPointers(
  repository: LocalRepository,
  remote: string,
  tree: string,
  filter: PathFilter,
): Promise<void> {
  const missing = await missingOf(repository, tree)
  if (missing.size === 0) return
  const index = join(repository.gitDir, `timone-index.${randomUUID()}`)
  try {
    await repository.git(['read-tree', tree], { env: { GIT_INDEX_FILE: index } })
    const wanted = new Set<string>()
    for await (const slice of withFilterLfs(
      repository,
      blobsOfTree(repository, tree, filter, false),
      index,
    )) {
      for (const { blob } of slice) if (missing.has(blob)) wanted.add(blob)
    }
    await fetchPromised(repository, remote, [...wanted])
  } finally {
    await rm(index, { force: true })
  }
}

async function* withoutMissing(
  repository: LocalRepository,
  tree: string,
  candidates: AsyncIterable<Candidate[]>,
): AsyncGenerator<Candidate[]> {
  const missing = await missingOf(repository, tree)
  for await (const slice of candidates) yield slice.filter(({ blob }) => !missing.has(blob))
}

/** The blobs of a tree that a partial clone does not have, without fetching any. */
async function missingOf(repository: LocalRepository, tree: string): Promise<Set<string>> {
  const git = repository.stream(['rev-list', '--objects', '--missing=print', tree])
  git.stdin.end()
  const missing = new Set<string>()
  for await (const lines of records(git.stdout, LINE_FEED)) {
    for (const line of lines) if (line[0] === 0x3f) missing.add(line.toString('latin1', 1))
  }
  await git.done
  return missing
}

/** Several at a time, for those that work in slices. */
async function* slices<T>(items: AsyncIterable<T>, length = 512): AsyncGenerator<T[]> {
  let slice: T[] = []
  for await (const item of items) {
    if (slice.push(item) < length) continue
    yield slice
    slice = []
  }
  yield slice
}
