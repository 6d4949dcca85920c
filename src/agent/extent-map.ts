import { constants } from 'node:fs'
import { open, rename, rm } from 'node:fs/promises'
import type { Oid } from '../oid.ts'
import type { Extent } from './range-plan.ts'

/** What a later process needs to go on with a download: which bytes of which version are in the file beside it. */
export interface ExtentMap {
  oid: Oid
  size: number
  /** Where the object comes from: another server's version is of no use here. */
  source: string
  /** Entity tag of the version that the bytes are from. */
  etag: string | undefined
  /** Ascending, none touching another. */
  extents: Extent[]
}

/** No map of ours is longer, bytes. */
const MOST_BYTES = 64 * 1024
/** Each stream leaves one extent; what there are more of is fetched again. */
const MOST_EXTENTS = 1000
/** It is sent back in a header. */
const ETAG = /^[\x21-\x7e]{1,256}$/

/** The map of the partial download at `path`. */
export const mapPath = (path: string): string => `${path}.json`

/**
 * Reads the map of the partial download at `path`. Undefined when it is absent, damaged, of another download, or no plain
 * file of ours: whatever it says may come from somebody else, so nothing of it is believed in part.
 */
export async function readExtentMap(
  path: string,
  wanted: Pick<ExtentMap, 'oid' | 'size' | 'source'>,
): Promise<Pick<ExtentMap, 'etag' | 'extents'> | undefined> {
  const text = await readPlainFile(mapPath(path))
  return text === undefined ? undefined : parseExtentMap(text, wanted)
}

/** The bytes of a small plain file; never through a link, and without waiting for a pipe. */
async function readPlainFile(path: string): Promise<string | undefined> {
  const { O_RDONLY, O_NOFOLLOW = 0, O_NONBLOCK = 0 } = constants
  try {
    const file = await open(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK)
    try {
      const stats = await file.stat()
      if (!stats.isFile() || stats.size > MOST_BYTES) return undefined
      const { buffer, bytesRead } = await file.read(Buffer.alloc(MOST_BYTES), 0, MOST_BYTES, 0)
      return buffer.toString('utf8', 0, bytesRead)
    } finally {
      await file.close()
    }
  } catch {
    return undefined
  }
}

/** `text` as the map of the wanted download; undefined when it is anything else. */
export function parseExtentMap(
  text: string,
  wanted: Pick<ExtentMap, 'oid' | 'size' | 'source'>,
): Pick<ExtentMap, 'etag' | 'extents'> | undefined {
  let found: Record<string, unknown>
  try {
    found = Object(JSON.parse(text)) as Record<string, unknown>
  } catch {
    return undefined
  }
  const { version, oid, size, source, etag, extents: pairs } = found
  if (version !== 1 || oid !== wanted.oid || size !== wanted.size || source !== wanted.source)
    return undefined
  if (etag !== undefined && (typeof etag !== 'string' || !ETAG.test(etag))) return undefined
  if (!Array.isArray(pairs) || pairs.length > MOST_EXTENTS) return undefined
  const extents: Extent[] = []
  let least = 0
  for (const pair of pairs as unknown[]) {
    if (!Array.isArray(pair) || pair.length !== 2) return undefined
    const [start, end] = pair as [unknown, unknown]
    if (!Number.isSafeInteger(start) || !Number.isSafeInteger(end)) return undefined
    const extent = { start: start as number, end: end as number }
    if (extent.start < least || extent.end <= extent.start || extent.end > wanted.size) return undefined
    extents.push(extent)
    least = extent.end
  }
  return { etag, extents }
}

/**
 * Writes the map of the partial download at `path`, whole or not at all. The bytes that it names must be on disk by
 * then. @throws what the file system says
 */
export async function writeExtentMap(path: string, map: ExtentMap): Promise<void> {
  const temporary = `${mapPath(path)}.tmp`
  const { oid, size, source, etag } = map
  const extents = map.extents.slice(0, MOST_EXTENTS).map(({ start, end }) => [start, end])
  const usable = etag !== undefined && ETAG.test(etag) ? { etag } : {}
  try {
    await rm(temporary, { force: true })
    const file = await open(temporary, 'wx', 0o600)
    try {
      await file.writeFile(JSON.stringify({ version: 1, oid, size, source, ...usable, extents }))
      await file.datasync()
    } finally {
      await file.close()
    }
    await rename(temporary, mapPath(path))
  } catch (error) {
    await rm(temporary, { force: true }).catch(() => {})
    throw error
  }
}

/** Forgets the map of the partial download at `path`. */
export async function dropExtentMap(path: string): Promise<void> {
  await rm(mapPath(path), { force: true }).catch(() => {})
}
