import type { LfsApi } from '../agent/lfs-api.ts'
import { type Lock, type LockPolicy, lockPolicy, locksOfOthers } from '../agent/lock-check.ts'
import { isTimoneError, TimoneError } from '../errors.ts'
import { type PointerEntry, pointersBetween, pointersOfAll } from '../git/scan.ts'
import type { Oid } from '../oid.ts'
import { MOST_OIDS, runGitLfs } from './git-lfs.ts'
import type { Io } from './io.ts'
import { type LfsClone, openClone, remoteAndRefs } from './lfs-clone.ts'
import { connect, type LfsConnection } from './lfs-connection.ts'
import { type LfsWay, printWay, wayTo } from './lfs-way.ts'
import { moveObjects, type NamedObject } from './move-objects.ts'
import { runTransfer, type TransferOptions, type TransferRun } from './transfer-run.ts'

export interface PushOptions extends TransferOptions {
  readonly all?: boolean | undefined
  readonly dryRun?: boolean | undefined
}

/** `timone push`: the objects that refs need and the server lacks. Gives the exit code. */
export function push(words: readonly string[], options: PushOptions, io: Io): Promise<number> {
  return runTransfer('push', options, io, async (run) => {
    const { tally, display, signal, log } = run
    const clone = await openClone(io, signal)
    const { remote, refs } = remoteAndRefs(words, options.remote, clone, 'upload')
    const pointers = pointersToPush(clone, remote, refs, options)
    if (options.dryRun === true) {
      display.start(undefined)
      for await (const object of uniqueObjects(pointers)) display.object({ ...object, result: 'would-move' })
      return
    }
    const unique = uniqueObjects(pointers)
    const first = await unique.next()
    if (first.done === true) {
      tally.complete = true
      display.start(undefined)
      return
    }
    const objects = chain(first.value, unique)
    const way = wayTo(clone.config, io.env, 'upload', remote)
    display.start(printWay(way))
    if (way.kind === 'git-lfs') {
      display.note(`${printWay(way)} is left to git-lfs: git lfs push`)
      const all: NamedObject[] = []
      for await (const object of objects) all.push(object)
      await pushByGitLfs(run, remote, all)
      return
    }
    const connection = await connect(io, clone, {
      way,
      operation: 'upload',
      remote,
      log,
      signal,
      asking: (now) => display.pause(now),
    })
    try {
      const ref = await pushedRef(clone, refs)
      const absent = new Set<Oid>()
      const policy = policyFor(way, clone)
      const { foreign } = await moveObjects({
        operation: 'upload',
        objects: unlocked(run, objects, connection, policy, ref),
        batch: connection.batch(ref),
        transfer: connection.transfer,
        source: async (object) => {
          if (clone.objects.sizeOf(object.oid) === undefined) absent.add(object.oid)
          try {
            return await sourceOf(clone, object)
          } catch (error) {
            // Batch leaves out what is there; without it, what is not here may be.
            const { oid, size } = object
            if (
              way.kind === 'standalone' &&
              absent.has(oid) &&
              (await connection.isPresent(oid, size, signal))
            )
              return undefined
            throw error
          }
        },
        verify: connection.verify,
        confirm: connection.confirm(ref),
        arrived: async (object) => display.object({ ...object, result: 'moved' }),
        failed: (object, error) => {
          if (!absent.has(object.oid) || !clone.config.flag('lfs.allowincompletepush', false)) {
            run.fail(object, error)
            return
          }
          tally.objects--
          tally.bytes -= object.size
          display.note(`${object.path} (${object.oid.slice(0, 12)}) is left out: it is not here`)
        },
        tally,
        signal,
      })
      if (foreign.length > 0) {
        display.note(`${printWay(way)} is no timone server: git lfs sends ${foreign.length} objects`)
        await pushByGitLfs(run, remote, foreign)
      }
    } finally {
      await connection.close()
    }
  })
}

function pointersToPush(
  { repository }: LfsClone,
  remote: string,
  refs: readonly string[],
  { all }: PushOptions,
): AsyncIterable<PointerEntry> {
  if (all !== true) {
    return pointersBetween(repository, { include: refs.length > 0 ? refs : ['HEAD'], notOnRemote: remote })
  }
  return refs.length > 0 ? pointersOfAll(repository, refs) : pointersOfLocalRefs(repository)
}

/** As git-lfs has it, `--all` means branches and tags, not what the remote's own branches reach besides. */
async function* pointersOfLocalRefs(repository: LfsClone['repository']): AsyncGenerator<PointerEntry> {
  const text = await repository.git(['for-each-ref', '--format=%(refname)', 'refs/heads', 'refs/tags'])
  const refs = text.toString().split('\n').filter(Boolean)
  if (refs.length > 0) yield* pointersOfAll(repository, refs)
}

async function* uniqueObjects(pointers: AsyncIterable<PointerEntry>): AsyncGenerator<NamedObject, undefined> {
  const seen = new Set<Oid>()
  for await (const { oid, size, path } of pointers) {
    // Nobody stores the empty object: a file without bytes is no pointer.
    if (size === 0 || seen.has(oid)) continue
    seen.add(oid)
    yield { oid, size, path }
  }
}

async function* chain<T>(first: T, rest: AsyncIterable<T>): AsyncGenerator<T> {
  yield first
  yield* rest
}

/**
 * What locks mean. In standalone mode only what is asked for in so many words: the server beside the remote is no party
 * to the transfer, and may know nothing of LFS.
 */
function policyFor(way: Exclude<LfsWay, { kind: 'git-lfs' }>, { config }: LfsClone): LockPolicy {
  if (way.endpoint === undefined) {
    if (config.flag('lfs.locksverify', false)) {
      throw new TimoneError(
        'config',
        'lfs.locksverify is set, and no server is known that holds locks: run git config lfs.locksverify false, or name one with lfs.url',
      )
    }
    return 'ignored'
  }
  const policy = lockPolicy(config, way.endpoint.url)
  return way.kind === 'standalone' && policy === 'warned' ? 'ignored' : policy
}

/** Full name of the one ref that is pushed, as the other side calls it; undefined for several. */
async function pushedRef(
  { repository, config, head }: LfsClone,
  refs: readonly string[],
): Promise<string | undefined> {
  if (refs.length > 1) return undefined
  const [ref] = refs
  const full =
    ref === undefined || ref === 'HEAD'
      ? head
      : (await repository.git(['rev-parse', '--symbolic-full-name', ref], { accepted: [0, 128] }))
          .toString()
          .trim()
  if (full === undefined || full === '') return undefined
  return config.get(`branch.${full.replace(/^refs\/heads\//, '')}.merge`) ?? full
}

/** The local file of an object, whole. */
async function sourceOf({ objects }: LfsClone, { oid, size }: NamedObject): Promise<string> {
  const found = objects.sizeOf(oid)
  if (found === size || (await objects.borrow(oid, size))) return objects.pathOf(oid)
  if (found === undefined) {
    throw new TimoneError(
      'not_found',
      'the object is neither here nor on the server: get it from a clone that has it (timone fetch --all there, or git add the file again), or leave it out with git config lfs.allowincompletepush true',
    )
  }
  throw new TimoneError(
    'size_mismatch',
    `the object here is damaged: it has ${found} bytes, not ${size}: remove ${objects.pathOf(oid)} and git add the file again`,
  )
}

/**
 * Leaves out what somebody else has locked, where locks count; the push then fails. Without a setting they are only
 * warned of, like git-lfs does. git-lfs's pre-push hook looks at files outside LFS as well, when git itself pushes.
 */
async function* unlocked(
  run: TransferRun,
  objects: AsyncIterable<NamedObject>,
  { api }: LfsConnection,
  policy: LockPolicy,
  ref: string | undefined,
): AsyncGenerator<NamedObject> {
  if (policy === 'ignored' || api === undefined) {
    yield* objects
    return
  }
  const locks = await locksFor(run, api, policy, ref)
  for await (const object of objects) {
    const lock = locks.get(object.path)
    if (lock === undefined) {
      yield object
      continue
    }
    const held = `${lock.owner} holds the lock of ${lock.path}`
    if (policy === 'enforced') {
      run.fail(object, new TimoneError('conflict', `${held}: ask for git lfs unlock, then push again`))
    } else {
      run.display.note(`${held}; it is pushed all the same, since lfs.locksverify is not set`)
      yield object
    }
  }
}

async function locksFor(
  { display, signal }: TransferRun,
  api: LfsApi,
  policy: LockPolicy,
  ref: string | undefined,
): Promise<ReadonlyMap<string, Lock>> {
  try {
    return (await locksOfOthers(api, ref, signal)) ?? new Map()
  } catch (error) {
    // Without a password nothing else will go either.
    if (policy === 'enforced' || !isTimoneError(error) || signal.aborted || error.code === 'unauthorized')
      throw error
    display.note(`locks could not be looked at: ${error.message}`)
    return new Map()
  }
}

async function pushByGitLfs(
  { io, display, tally, signal }: TransferRun,
  remote: string,
  objects: readonly NamedObject[],
): Promise<void> {
  for (let at = 0; at < objects.length; at += MOST_OIDS) {
    const slice = objects.slice(at, at + MOST_OIDS)
    await runGitLfs(['push', '--object-id', remote, ...slice.map(({ oid }) => oid)], io, signal)
    for (const object of slice) {
      tally.objects++
      tally.bytes += object.size
      tally.doneObjects++
      tally.doneBytes += object.size
      display.object({ ...object, result: 'moved' })
    }
  }
}
