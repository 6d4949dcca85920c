import { statSync } from 'node:fs'
import path from 'node:path'
import { walkEntries } from '../agent/cache-folder.ts'
import { type PruneOptions, pruneCache } from '../agent/cache-prune.ts'
import { sweepTemporaries } from '../agent/cache-temporary.ts'
import { verifyCache } from '../agent/cache-verify.ts'
import { parseConfig } from '../agent/git-environment.ts'
import { type AgentSettings, parseAgentSettings, parseGitInteger } from '../config/agent-settings.ts'
import { describeDuration, parseDuration } from '../config/duration.ts'
import { systemCode, TimoneError } from '../errors.ts'
import { runGit } from './git.ts'
import { type Io, print, printJson, say } from './io.ts'

export interface CacheOptions {
  /** Instead of what git's configuration names; relative to the working folder. */
  readonly dir?: string | undefined
  readonly json?: boolean | undefined
}

/**
 * `timone cache stat`: prints what is in the cache. Gives 0.
 * @throws {TimoneError} `config` when no cache is configured
 */
export async function cacheStat(options: CacheOptions, io: Io): Promise<number> {
  const { folder, bound } = await findCache(options, io)
  let objects = 0
  let bytes = 0
  let oldest = Number.POSITIVE_INFINITY
  let newest = 0
  for await (const entries of walk(folder, io)) {
    for (const { size, used } of entries) {
      objects++
      bytes += size
      oldest = Math.min(oldest, used)
      newest = Math.max(newest, used)
    }
  }
  if (options.json) {
    const time = (at: number): string | null => (objects === 0 ? null : new Date(at).toISOString())
    printJson(io, { folder, objects, bytes, bound, oldest_use: time(oldest), newest_use: time(newest) })
  } else {
    print(
      io,
      `folder      ${folder}`,
      `objects     ${objects}`,
      `bytes       ${describeBytes(bytes)}`,
      `bound       ${bound === 0 ? 'none' : describeBytes(bound)}`,
      `oldest use  ${objects === 0 ? 'never' : describeTime(oldest)}`,
      `newest use  ${objects === 0 ? 'never' : describeTime(newest)}`,
    )
  }
  return 0
}

/**
 * `timone cache prune`: removes what was used least recently. Gives 1 when something could not be removed.
 * @throws {TimoneError} `config` for a malformed option, when no cache is configured, or when there is no bound
 */
export async function cachePrune(
  options: CacheOptions & {
    readonly size?: string | undefined
    readonly olderThan?: string | undefined
    readonly all?: boolean | undefined
  },
  io: Io,
): Promise<number> {
  const wanted: PruneOptions = { signal: io.signal }
  if (options.size !== undefined) {
    wanted.size = parseGitInteger(options.size)
    if (wanted.size === undefined)
      throw new TimoneError('config', `'${options.size}' is no number of bytes, such as 500m, 10g or 2t`)
  }
  if (options.all) wanted.size = -1
  if (options.olderThan !== undefined) wanted.before = Date.now() - parseDuration(options.olderThan) * 1000
  const { folder, bound } = await findCache(options, io)
  if (wanted.size === undefined && wanted.before === undefined) {
    if (bound === 0)
      throw new TimoneError('config', 'this cache has no bound: say --size, --older-than or --all')
    wanted.size = bound
  }
  await sweepTemporaries(folder)
  const { removed, freed, objects, bytes, failed } = await pruneCache(folder, wanted).catch(
    unreadable(folder),
  )
  throwIfInterrupted(io)
  if (options.json) {
    printJson(io, { folder, removed, freed, objects, bytes })
  } else {
    print(
      io,
      `removed  ${count(removed)}, ${describeBytes(freed)}`,
      `left     ${count(objects)}, ${describeBytes(bytes)}`,
    )
  }
  if (failed === undefined) return 0
  say(io, `not everything could be removed in ${folder} (${systemCode(failed) ?? 'unknown error'})`)
  return 1
}

/**
 * `timone cache verify`: hashes everything and drops what is damaged. Gives 1 when something was, or could not be read.
 * @throws {TimoneError} `config` when no cache is configured
 */
export async function cacheVerify(options: CacheOptions, io: Io): Promise<number> {
  const { folder } = await findCache(options, io)
  const found = await verifyCache(folder, io.signal).catch(unreadable(folder))
  throwIfInterrupted(io)
  if (options.json) {
    printJson(io, { folder, ...found })
  } else {
    for (const oid of found.damaged) print(io, `damaged, removed  ${oid}`)
    for (const oid of found.unreadable) print(io, `cannot be read    ${oid}`)
    print(io, `good              ${count(found.objects)}, ${describeBytes(found.bytes)}`)
  }
  return found.damaged.length + found.unreadable.length === 0 ? 0 : 1
}

/** The cache that is meant. A folder that is not there yet is an empty cache, unless it was named by hand. */
async function findCache(
  { dir }: CacheOptions,
  io: Io,
): Promise<{ folder: string; bound: AgentSettings['cacheSize'] }> {
  const { code, stdout, complaint } = await runGit(['config', '--list', '-z', '--includes'], io)
  if (code !== 0) throw new TimoneError('config', `git config failed: ${complaint}`)
  const settings = parseAgentSettings(parseConfig(stdout))
  const folder = dir === undefined ? settings.cacheDir : path.resolve(io.cwd, dir)
  if (folder === undefined) {
    throw new TimoneError(
      'config',
      'no cache is configured: git config --global timone.cacheDir ~/.cache/timone, or name one with --dir',
    )
  }
  if (dir !== undefined && statSync(folder, { throwIfNoEntry: false })?.isDirectory() !== true)
    throw new TimoneError('config', `${folder} is no folder`)
  return { folder, bound: settings.cacheSize }
}

async function* walk(folder: string, io: Io): ReturnType<typeof walkEntries> {
  try {
    yield* walkEntries(folder, io.signal)
  } catch (error) {
    unreadable(folder)(error)
  }
  throwIfInterrupted(io)
}

function throwIfInterrupted(io: Io): void {
  if (io.signal?.aborted === true) throw new TimoneError('cancelled', 'interrupted')
}

/** For `catch`: a failure to read or change the cache, in words. */
function unreadable(folder: string): (error: unknown) => never {
  return (error) => {
    const code = systemCode(error)
    if (code === undefined) throw error
    throw new TimoneError('denied', `cannot work in ${folder} (${code}): whose folder is it?`, {
      cause: error,
    })
  }
}

const count = (objects: number): string => `${objects} ${objects === 1 ? 'object' : 'objects'}`

/** Bytes for people, to a tenth of the largest unit: `1.5 GiB`. */
function describeBytes(bytes: number): string {
  let value = bytes
  let unit = 'bytes'
  for (const next of ['KiB', 'MiB', 'GiB', 'TiB']) {
    if (value < 1024) break
    value /= 1024
    unit = next
  }
  return `${Math.round(value * 10) / 10} ${unit}`
}

function describeTime(at: number): string {
  return `${new Date(at).toISOString()}, ${describeDuration(Math.max(0, Date.now() - at) / 1000)} ago`
}
