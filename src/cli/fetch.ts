import { type PathFilter, pathFilter } from '../git/path-filter.ts'
import { recentPointers, recentSettings } from '../git/recent.ts'
import { type PointerEntry, pointersOfAll, pointersOfTree } from '../git/scan.ts'
import type { Oid } from '../oid.ts'
import { fetchObjects, type PathOptions } from './fetch-objects.ts'
import type { Io } from './io.ts'
import { type LfsClone, openClone, remoteAndRefs } from './lfs-clone.ts'
import { runTransfer, type TransferOptions } from './transfer-run.ts'

export interface FetchOptions extends TransferOptions, PathOptions {
  readonly all?: boolean | undefined
  readonly recent?: boolean | undefined
}

/** `timone fetch`: the objects that refs need, into the clone's LFS storage. Gives the exit code. */
export function fetch(words: readonly string[], options: FetchOptions, io: Io): Promise<number> {
  return runTransfer('fetch', options, io, async (run) => {
    const clone = await openClone(io, run.signal)
    const { remote, refs } = remoteAndRefs(words, options.remote, clone, 'download')
    const filter = pathFilter(fetchPatterns(clone, options))
    const wanted = refs.length > 0 ? refs : ['HEAD']
    const pointers = options.all
      ? pointersOfAll(clone.repository, refs)
      : pointersOfRefs(clone, wanted, remote, options, filter)
    await fetchObjects(run, clone, {
      remote,
      pointers,
      gitLfs: [
        'fetch',
        ...(options.all ? ['--all'] : options.recent ? ['--recent'] : []),
        ...patternArguments(options),
        remote,
        ...refs,
      ],
    })
  })
}

/** `--include` and `--exclude`, or what the configuration has instead of each. */
export function fetchPatterns(
  { config }: Pick<LfsClone, 'config'>,
  options: PathOptions,
): { include?: string | undefined; exclude?: string | undefined } {
  return {
    include: options.include ?? config.get('lfs.fetchinclude'),
    exclude: options.exclude ?? config.get('lfs.fetchexclude'),
  }
}

/** The same options for git-lfs. */
export function patternArguments({ include, exclude }: PathOptions): string[] {
  return [
    ...(include === undefined ? [] : [`--include=${include}`]),
    ...(exclude === undefined ? [] : [`--exclude=${exclude}`]),
  ]
}

async function* pointersOfRefs(
  { repository }: LfsClone,
  refs: readonly string[],
  remote: string,
  options: FetchOptions,
  filter: PathFilter,
): AsyncGenerator<PointerEntry> {
  const seen = new Set<Oid>()
  for (const ref of refs) {
    for await (const pointer of pointersOfTree(repository, ref, filter)) {
      if (seen.has(pointer.oid)) continue
      seen.add(pointer.oid)
      yield pointer
    }
  }
  const settings = await recentSettings(repository)
  if (!settings.always && options.recent !== true) return
  yield* recentPointers(repository, { refs, remote, settings, filter })
}
