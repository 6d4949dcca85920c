/** One entry of an index file, and where it is. */
export interface IndexEntry {
  /** The path's bytes, one character each (Latin 1): names need not be UTF-8. */
  readonly path: string
  /** Offset of the entry's first byte: ten 32-bit numbers of stat data, the object id, flags. */
  readonly at: number
  /** 0, or 1 to 3 of a file that is being merged. */
  readonly stage: number
  /** `git add --intent-to-add`: there is no content yet. */
  readonly intent: boolean
  readonly skipWorktree: boolean
}

export interface IndexView {
  readonly version: 2 | 3 | 4
  entries(): Generator<IndexEntry>
}

/** Extensions that live well with changed stat data: trees, resolved conflicts, untracked files, offsets, fsmonitor's bits. */
const HARMLESS: ReadonlySet<string> = new Set(['TREE', 'REUC', 'UNTR', 'EOIE', 'IEOT', 'FSMN'])

/**
 * The parts of an index file (gitformat-index(5)); a string: why it is left to git. Nothing is changed or copied.
 * `hashSize` is 20 or 32, as the repository's object ids are.
 */
export function parseIndex(bytes: Buffer, hashSize: number): IndexView | string {
  if (bytes.length < 12 + hashSize || bytes.toString('latin1', 0, 4) !== 'DIRC') return 'the index is damaged'
  const version = bytes.readUInt32BE(4)
  if (version !== 2 && version !== 3 && version !== 4) return `the index has version ${version}, unknown here`
  const count = bytes.readUInt32BE(8)
  const end = bytes.length - hashSize
  let at = 12
  try {
    for (const entry of walk(bytes, version, count, hashSize, end)) at = entry.next
  } catch (error) {
    if (error instanceof RangeError) return 'the index is damaged'
    throw error
  }
  while (at < end) {
    if (at + 8 > end) return 'the index is damaged'
    const name = bytes.toString('latin1', at, at + 4)
    const size = bytes.readUInt32BE(at + 4)
    if (at + 8 + size > end) return 'the index is damaged'
    if (name === 'link') return 'the index is split (core.splitIndex)'
    if (name === 'sdir') return 'the index is sparse (index.sparse)'
    // Upper case: may be ignored by those who do not know it. But what it says about the entries is not known here.
    if (!HARMLESS.has(name)) return `the index has an extension that is unknown here (${printable(name)})`
    at += 8 + size
  }
  return { version, entries: () => walk(bytes, version, count, hashSize, end) }
}

function* walk(
  bytes: Buffer,
  version: number,
  count: number,
  hashSize: number,
  end: number,
): Generator<IndexEntry & { next: number }> {
  let at = 12
  let previous = ''
  for (let index = 0; index < count; index++) {
    let next = at + 40 + hashSize
    if (next + 2 > end) throw new RangeError('entry beyond the end')
    const flags = bytes.readUInt16BE(next)
    next += 2
    let more = 0
    if ((flags & EXTENDED) !== 0) {
      if (version === 2 || next + 2 > end) throw new RangeError('extended entry in version 2')
      more = bytes.readUInt16BE(next)
      next += 2
    }
    let strip = 0
    if (version === 4) {
      // The varint of git's varint.c: each further byte adds one before it shifts.
      let byte = bytes.readUInt8(next++)
      strip = byte & 0x7f
      while ((byte & 0x80) !== 0) {
        byte = bytes.readUInt8(next++)
        strip = (strip + 1) * 128 + (byte & 0x7f)
      }
      if (strip > previous.length) throw new RangeError('more taken away than there is')
    }
    const nul = bytes.indexOf(0, next)
    if (nul === -1 || nul >= end) throw new RangeError('path without an end')
    const suffix = bytes.toString('latin1', next, nul)
    const path = version === 4 ? previous.slice(0, previous.length - strip) + suffix : suffix
    // Before version 4 entries are padded with 1 to 8 NULs to a multiple of 8 bytes.
    next = version === 4 ? nul + 1 : at + (((nul - at) & ~7) + 8)
    if (next > end) throw new RangeError('entry beyond the end')
    yield {
      path,
      at,
      stage: (flags >> 12) & 3,
      intent: (more & INTENT) !== 0,
      skipWorktree: (more & SKIP_WORKTREE) !== 0,
      next,
    }
    previous = path
    at = next
  }
}

const EXTENDED = 0x4000
const SKIP_WORKTREE = 0x4000
const INTENT = 0x2000

const printable = (name: string): string => name.replace(/[^\x20-\x7e]/g, '?')
