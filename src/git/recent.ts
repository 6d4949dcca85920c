import { smallBlobs } from './blobs.ts'
import { records } from './lines.ts'
import type { PathFilter } from './path-filter.ts'
import { POINTER_LIMIT } from './pointer.ts'
import { type Candidate, candidate, type PointerEntry, pointersAmong } from './pointer-entry.ts'
import { isTrue, type LocalRepository } from './repository.ts'
import { resolveRevisions } from './revision.ts'
import { pointersOfTree } from './scan.ts'

/** What `fetch --recent` takes besides the refs themselves (git-lfs-fetch(1), "Recent changes"). */
export interface RecentSettings {
  /** `lfs.fetchrecentrefsdays`: branches and tags whose last commit is at most so many days old; 0: none. */
  readonly refsDays: number
  /** `lfs.fetchrecentremoterefs`: remote-tracking branches of the remote count too. */
  readonly remoteRefs: boolean
  /** `lfs.fetchrecentcommitsdays`: also what files were in the days before each ref's last commit; 0: not. */
  readonly commitsDays: number
  /** `lfs.fetchrecentalways`: without being asked for. */
  readonly always: boolean
}

export interface RecentOptions {
  /** Names of what is fetched anyway: their trees are not given again, their recent history is. */
  readonly refs: readonly string[]
  /** Name of the remote whose branches count. */
  readonly remote: string
  readonly settings: RecentSettings
  readonly filter?: PathFilter
  /** Default: the clock. */
  readonly now?: Date
}

/** The settings in force, with git-lfs's defaults. */
export async function recentSettings(repository: LocalRepository): Promise<RecentSettings> {
  const config = await repository.config()
  const days = (key: string, fallback: number) => {
    const value = config.get(key) ?? ''
    return /^\d+$/.test(value) ? Number(value) : fallback
  }
  return {
    refsDays: days('lfs.fetchrecentrefsdays', 7),
    remoteRefs: isTrue(config.get('lfs.fetchrecentremoterefs'), true),
    commitsDays: days('lfs.fetchrecentcommitsdays', 0),
    always: isTrue(config.get('lfs.fetchrecentalways')),
  }
}

const DAY = 24 * 3600

/** The pointers of recent refs and of their recent commits, as `git lfs fetch --recent` finds them. */
export async function* recentPointers(
  repository: LocalRepository,
  { refs, remote, settings, filter, now = new Date() }: RecentOptions,
): AsyncGenerator<PointerEntry> {
  const commits = new Set(
    await resolveRevisions(
      repository,
      refs.map((ref) => `${ref}^{commit}`),
    ),
  )
  if (settings.refsDays > 0) {
    const since = Math.floor(now.getTime() / 1000) - settings.refsDays * DAY
    for (const commit of await recentRefs(repository, since, settings.remoteRefs ? remote : undefined)) {
      if (commits.has(commit)) continue
      commits.add(commit)
      yield* pointersOfTree(repository, commit, filter)
    }
  }
  if (settings.commitsDays === 0) return
  for (const commit of commits) {
    const date = await repository.git(['show', '-s', '--no-show-signature', '--format=%ct', commit])
    const since = Number(date.toString()) - settings.commitsDays * DAY
    yield* pointersAmong(
      repository,
      smallBlobs(repository, replacedBlobs(repository, commit, since, filter), POINTER_LIMIT),
    )
  }
}

/** Commits of branches and tags that are no older than `since`, seconds since 1970, newest first. */
async function recentRefs(
  repository: LocalRepository,
  since: number,
  remote: string | undefined,
): Promise<string[]> {
  // An annotated tag has no committer: git-lfs leaves it out, too.
  const format = '--format=%(objectname) %(objecttype) %(committerdate:unix) %(refname)'
  const output = await repository.git(['for-each-ref', '--sort=-committerdate', format, 'refs'])
  const found: string[] = []
  for (const line of output.toString().split('\n')) {
    const [commit = '', type, date, ref = ''] = line.split(' ')
    if (type !== 'commit' || Number(date) < since || !/^refs\/[^/]+\//.test(ref)) continue
    if (
      ref.startsWith('refs/remotes/') &&
      (remote === undefined || !ref.startsWith(`refs/remotes/${remote}/`))
    )
      continue
    found.push(commit)
  }
  return found
}

/** What the commits since then replaced or deleted: with it any state of those days can be checked out. */
async function* replacedBlobs(
  repository: LocalRepository,
  commit: string,
  since: number,
  filter: PathFilter = () => true,
): AsyncGenerator<Candidate[]> {
  const options = ['--format=', '--raw', '-z', '--no-abbrev', '--no-renames', '--no-show-signature']
  const git = repository.stream(['log', `--since=@${since}`, ...options, commit, '--'])
  git.stdin.end()
  let change: string | undefined
  try {
    for await (const slice of records(git.stdout, 0)) {
      const candidates: Candidate[] = []
      for (const record of slice) {
        if (change === undefined) {
          change = record.toString('latin1')
          continue
        }
        const [mode = '', , blob = ''] = change.split(' ')
        change = undefined
        if (!mode.startsWith(':100')) continue
        const path = record.toString()
        if (filter(path)) candidates.push(candidate(blob, path, Number.parseInt(mode.slice(1), 8)))
      }
      yield candidates
    }
    await git.done
  } finally {
    git.stop()
  }
}
