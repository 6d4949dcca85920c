import { TimoneError } from '../errors.ts'
import type { PointerEntry } from '../git/scan.ts'
import type { Oid } from '../oid.ts'
import { runGitLfs } from './git-lfs.ts'
import type { LfsClone } from './lfs-clone.ts'
import { connect, type LfsConnection } from './lfs-connection.ts'
import { printWay, wayTo } from './lfs-way.ts'
import { moveObjects, type NamedObject } from './move-objects.ts'
import type { TransferRun } from './transfer-run.ts'

/** Which paths are wanted, comma-separated patterns; undefined: what the configuration says. */
export interface PathOptions {
  readonly include?: string | undefined
  readonly exclude?: string | undefined
}

export interface FetchPlan {
  remote: string
  /** What is needed; what is here already is left out. */
  pointers: AsyncIterable<PointerEntry>
  /** What git-lfs is run with where the server does not know timone. */
  gitLfs: readonly string[]
  /** Told of every object that is needed and here, once it is: from the start, or fetched. */
  here?: (oid: Oid) => void
}

/** Gets into the clone's LFS storage what is not there yet. Nobody is asked when nothing is missing. */
export async function fetchObjects(run: TransferRun, clone: LfsClone, plan: FetchPlan): Promise<void> {
  const { io, display, tally, log, signal } = run
  const { objects } = clone
  const missing = missingObjects(run, clone, plan)
  const first = await missing.next()
  if (first.done === true) {
    tally.complete = true
    display.start(undefined)
    return
  }
  const way = wayTo(clone.config, io.env, 'download', plan.remote)
  display.start(printWay(way))
  if (way.kind === 'git-lfs') {
    display.note(`${printWay(way)} is left to git-lfs: git lfs ${plan.gitLfs.join(' ')}`)
    await fetchByGitLfs(run, clone, plan, [first.value, ...(await collect(missing))])
    return
  }
  let connection: LfsConnection | undefined
  try {
    connection = await connect(io, clone, {
      way,
      operation: 'download',
      remote: plan.remote,
      log,
      signal,
      asking: (now) => display.pause(now),
    })
    const { foreign } = await moveObjects({
      operation: 'download',
      objects: chain(first.value, missing),
      batch: connection.batch(upstreamRef(clone)),
      transfer: connection.transfer,
      source: () => Promise.reject(new Error('a download has no source')),
      verify: async () => {},
      arrived: async (object, { path, cached }) => {
        if (path !== undefined) await objects.adopt(path, object.oid)
        display.object({ ...object, result: cached === true ? 'cached' : 'moved' })
        plan.here?.(object.oid)
      },
      failed: run.fail,
      tally,
      signal,
    })
    if (foreign.length > 0) {
      display.note(`${printWay(way)} is no timone server: git lfs fetches ${foreign.length} objects`)
      await fetchByGitLfs(run, clone, plan, foreign)
    }
  } finally {
    await connection?.close()
  }
}

/** The ref that a server may judge a download by: the upstream of the branch, or the branch. */
function upstreamRef({ config, head }: LfsClone): string | undefined {
  if (head === undefined) return undefined
  return config.get(`branch.${head.replace(/^refs\/heads\//, '')}.merge`) ?? head
}

async function fetchByGitLfs(
  { io, display, tally, signal, fail }: TransferRun,
  { objects }: LfsClone,
  plan: FetchPlan,
  wanted: readonly NamedObject[],
): Promise<void> {
  await runGitLfs(plan.gitLfs, io, signal).catch((error: unknown) => {
    if (signal.aborted) throw error
    // It has said what failed; what arrived all the same counts.
  })
  for (const object of wanted) {
    if (objects.sizeOf(object.oid) !== object.size) {
      fail(object, new TimoneError('not_found', 'git lfs did not fetch the object: see what it said above'))
      continue
    }
    tally.objects++
    tally.bytes += object.size
    tally.doneObjects++
    tally.doneBytes += object.size
    display.object({ ...object, result: 'moved' })
    plan.here?.(object.oid)
  }
}

/** Objects looked for before others may have a turn. */
const SLICE = 500

async function* missingObjects(
  { tally, display, signal }: TransferRun,
  { objects }: LfsClone,
  plan: FetchPlan,
): AsyncGenerator<NamedObject, undefined> {
  const seen = new Set<Oid>()
  for await (const { oid, size, path } of plan.pointers) {
    if (seen.has(oid)) continue
    seen.add(oid)
    if (seen.size % SLICE === 0) {
      await new Promise((resolve) => setImmediate(resolve))
      if (signal.aborted) return
    }
    // Nobody stores the empty object: a file without bytes is no pointer.
    if (size === 0 || objects.sizeOf(oid) === size) {
      tally.skipped++
      plan.here?.(oid)
      continue
    }
    if (objects.borrows && (await objects.borrow(oid, size))) {
      tally.skipped++
      display.object({ oid, size, path, result: 'cached' })
      plan.here?.(oid)
      continue
    }
    yield { oid, size, path }
  }
}

async function* chain<T>(first: T, rest: AsyncIterable<T>): AsyncGenerator<T> {
  yield first
  yield* rest
}

async function collect<T>(items: AsyncIterable<T>): Promise<T[]> {
  const list: T[] = []
  for await (const item of items) list.push(item)
  return list
}
