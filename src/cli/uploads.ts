import { parseDuration } from '../config/duration.ts'
import { TimoneError } from '../errors.ts'
import { isOid, type Oid } from '../oid.ts'
import { printBytes, printCount } from './amounts.ts'
import { interruptible } from './interruption.ts'
import { type Io, print, printJson, say } from './io.ts'

/** Which uploads are meant. */
export interface UploadsOptions {
  /** These name a server, whose store is looked into; without them it is the clone around the working directory. */
  readonly config?: string | undefined
  readonly data?: string | undefined
  readonly olderThan?: string | undefined
  readonly remote?: string | undefined
  readonly json?: boolean | undefined
}

export interface ListOptions extends UploadsOptions {
  /** Ask the server how much of each upload the store has. */
  readonly check?: boolean | undefined
}

export interface AbortOptions extends UploadsOptions {
  readonly all?: boolean | undefined
}

/** An unfinished upload, wherever it was found. */
export interface UploadEntry {
  oid: Oid
  /** Bytes of the object; undefined where the store does not know. */
  size: number | undefined
  /** `org/repo`, with the host in front where it is another machine's. Holds no secret. */
  repository: string
  startedAt: Date
  /** Bytes that the store has; undefined where nobody asked. */
  stored: number | undefined
  /** More of it for `--json`. */
  details: Readonly<Record<string, unknown>>
  /** Why it must be left alone; undefined: it may be aborted. */
  busy: string | undefined
}

/** Where unfinished uploads are found. */
export interface UploadsSource {
  entries(options: { check: boolean }): AsyncIterable<UploadEntry>
  /** Drops one in the store and forgets it. @throws {TimoneError} when the store could not be told */
  abort(entry: UploadEntry): Promise<void>
  close(): Promise<void>
}

/** `timone uploads list`: the uploads that were begun and neither finished nor dropped. Gives the exit code. */
export function listUploads(options: ListOptions, io: Io): Promise<number> {
  const isMeant = selection([], options)
  return withSource(options, io, async (source, signal) => {
    const found: UploadEntry[] = []
    for await (const entry of source.entries({ check: options.check ?? false })) {
      if (signal.aborted) return 130
      if (isMeant(entry)) found.push(entry)
    }
    if (options.json === true) printJson(io, found.map(toJson))
    else if (found.length === 0) say(io, 'no unfinished uploads')
    else print(io, ...table(found))
    return 0
  })
}

/**
 * `timone uploads abort`: drops unfinished uploads in the store and forgets them. Gives 1 when one could not be dropped.
 * @throws {TimoneError} `config` when it was not said which
 */
export function abortUploads(words: readonly string[], options: AbortOptions, io: Io): Promise<number> {
  const oids = words.map((word) => {
    if (isOid(word)) return word
    throw new TimoneError('config', `'${word}' is no oid: timone uploads list prints them`)
  })
  if (oids.length === 0 && options.all !== true)
    throw new TimoneError('config', 'say which uploads to abort: by oid, or --all')
  if (oids.length > 0 && options.all === true)
    throw new TimoneError('config', 'either name oids, or say --all, not both')
  const isMeant = selection(oids, options)
  return withSource(options, io, async (source, signal) => {
    const aborted: UploadEntry[] = []
    const named = new Set<string>()
    let failed = 0
    for await (const entry of source.entries({ check: false })) {
      if (signal.aborted) return 130
      if (!isMeant(entry)) continue
      named.add(entry.oid)
      if (entry.busy !== undefined) {
        say(io, `${entry.oid} is left alone: ${entry.busy}`)
        if (oids.length > 0) failed++
        continue
      }
      try {
        await source.abort(entry)
        aborted.push(entry)
      } catch (error) {
        if (!(error instanceof TimoneError)) throw error
        failed++
        say(io, `${entry.oid} could not be aborted: ${error.message}`)
      }
    }
    for (const oid of oids) {
      if (named.has(oid)) continue
      failed++
      say(io, `${oid} has no unfinished upload here`)
    }
    if (options.json === true) printJson(io, aborted.map(toJson))
    else say(io, `aborted ${printCount(aborted.length, 'upload')}`)
    return signal.aborted ? 130 : failed > 0 ? 1 : 0
  })
}

function selection(oids: readonly Oid[], options: UploadsOptions): (entry: UploadEntry) => boolean {
  const limit =
    options.olderThan === undefined
      ? Number.POSITIVE_INFINITY
      : Date.now() - parseDuration(options.olderThan) * 1000
  return (entry) => (oids.length === 0 || oids.includes(entry.oid)) && entry.startedAt.getTime() <= limit
}

async function withSource(
  options: UploadsOptions,
  io: Io,
  work: (source: UploadsSource, signal: AbortSignal) => Promise<number>,
): Promise<number> {
  return interruptible(
    io,
    () => {},
    async (signal) => {
      const source = await openSource(options, io, signal)
      try {
        return await work(source, signal)
      } finally {
        await source.close()
      }
    },
  )
}

async function openSource(options: UploadsOptions, io: Io, signal: AbortSignal): Promise<UploadsSource> {
  if (options.config !== undefined || options.data !== undefined) {
    if (options.remote !== undefined)
      throw new TimoneError('config', '--remote is for a clone, --config and --data are for a server')
    const { storedUploads } = await import('./stored-uploads.ts')
    return storedUploads(options, io)
  }
  const { rememberedUploads } = await import('./remembered-uploads.ts')
  return rememberedUploads(options, io, signal)
}

function toJson(entry: UploadEntry): Record<string, unknown> {
  return {
    oid: entry.oid,
    size: entry.size ?? null,
    repository: entry.repository,
    started_at: entry.startedAt.toISOString(),
    stored: entry.stored ?? null,
    ...entry.details,
    busy: entry.busy ?? null,
  }
}

function table(entries: readonly UploadEntry[]): string[] {
  const rows = entries.map((entry) => [
    entry.oid,
    entry.stored === undefined
      ? printSize(entry.size)
      : `${printBytes(entry.stored)} of ${printSize(entry.size)}`,
    entry.startedAt.toISOString().replace(/\.\d+Z$/, 'Z'),
    entry.repository,
    entry.busy ?? '',
  ])
  const widths = [0, 1, 2, 3].map((column) => Math.max(...rows.map((row) => row[column]?.length ?? 0)))
  return rows.map((row) =>
    row
      .map((cell, column) => cell.padEnd(widths[column] ?? 0))
      .join('  ')
      .trimEnd(),
  )
}

const printSize = (size: number | undefined): string => (size === undefined ? '?' : printBytes(size))
