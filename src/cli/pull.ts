import { TimoneError } from '../errors.ts'
import { pathFilter } from '../git/path-filter.ts'
import { type PointerEntry, pointersOfIndex } from '../git/scan.ts'
import { fetchPatterns, patternArguments } from './fetch.ts'
import { fetchObjects, type PathOptions } from './fetch-objects.ts'
import { FileFilling } from './fill-files.ts'
import type { Io } from './io.ts'
import { openClone, remoteAndRefs } from './lfs-clone.ts'
import { runTransfer, type TransferOptions } from './transfer-run.ts'

export interface PullOptions extends TransferOptions, PathOptions {}

/** `timone pull`: the objects that the checkout needs, and the files made of them. Gives the exit code. */
export function pull(words: readonly string[], options: PullOptions, io: Io): Promise<number> {
  return runTransfer('pull', options, io, async (run) => {
    const clone = await openClone(io, run.signal)
    if (clone.repository.workTree === undefined) {
      throw new TimoneError('config', 'a bare repository has no files to fill: use timone fetch')
    }
    const { remote, refs } = remoteAndRefs(words, options.remote, clone, 'download')
    if (refs.length > 0) {
      throw new TimoneError(
        'config',
        `no remote is called ${refs[0]}: timone pull fills what is checked out; timone fetch takes refs`,
      )
    }
    const filter = pathFilter(fetchPatterns(clone, options))
    const files = new FileFilling(run, clone)
    async function* pointers(): AsyncGenerator<PointerEntry> {
      for await (const entry of pointersOfIndex(clone.repository, filter)) {
        files.add(entry)
        yield entry
      }
    }
    try {
      await fetchObjects(run, clone, {
        remote,
        pointers: pointers(),
        gitLfs: ['fetch', ...patternArguments(options), remote],
        here: (oid) => files.here(oid),
      })
    } finally {
      await files.finish()
    }
  })
}
