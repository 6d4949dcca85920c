import { TimoneError } from '../errors.ts'
import { type DocumentFacts, lineFacts, lineName, printLine } from './document-line.ts'
import { ATTRIBUTES } from './names.ts'

/**
 * One entry of a tree. Texts that are only moved around are "binary": one UTF-16 unit for each byte, so that comparing
 * them compares bytes, and a tree is put together without decoding anything.
 */
export interface Entry {
  /** Binary: the name, with a slash behind it for a folder, as Git sorts (tree-walk.c, `base_name_compare`). */
  readonly key: string
  /** Binary: mode, name, NUL and 20 bytes of id, as they are in the tree. */
  readonly raw: string
  /** The line of a document in `.gitattributes`. */
  readonly line: string | undefined
}

const FILE = '100644'
const FOLDER = '40000'

export function makeEntry(gitName: string, oid: string, line: string | undefined, folder = false): Entry {
  const name = Buffer.from(gitName).toString('latin1')
  const id = Buffer.from(oid, 'hex').toString('latin1')
  return { key: folder ? `${name}/` : name, raw: `${folder ? FOLDER : FILE} ${name}\0${id}`, line }
}

export function isFolder(entry: Entry): boolean {
  return entry.key.endsWith('/')
}

/** The name as Git has it, decoded. */
export function nameOf(entry: Entry): string {
  const name = isFolder(entry) ? entry.key.slice(0, -1) : entry.key
  return NOT_ASCII.test(name) ? Buffer.from(name, 'latin1').toString('utf8') : name
}

const NOT_ASCII = /[\x80-\xff]/

/** The object id, 40 hex digits. */
export function oidOf(entry: Entry): string {
  oidBytes.write(entry.raw.slice(-20), 'latin1')
  return oidBytes.toString('hex')
}

const oidBytes = Buffer.alloc(20)

export function factsOf(entry: Entry): DocumentFacts {
  if (entry.line !== undefined) return lineFacts(entry.line)
  return { type: 'application/octet-stream', length: 0, modified: 0, large: false }
}

/**
 * A folder: its entries in Git's order, without `.gitattributes`, which is made from them. Never changed; `with` and
 * `without` give new ones.
 */
export class Folder {
  static readonly EMPTY: Folder = new Folder([])
  readonly entries: readonly Entry[]

  constructor(entries: readonly Entry[]) {
    this.entries = entries
  }

  /** Puts a tree and its `.gitattributes` together; both as Git has them. */
  static parse(tree: Buffer, attributes: Buffer | undefined): Folder {
    const lines = new Map<string, string>()
    for (const line of attributes?.toString('utf8').split('\n') ?? []) {
      const name = lineName(line)
      if (name !== undefined) lines.set(name, line)
    }
    const entries: Entry[] = []
    for (const { mode, name, raw } of treeEntries(tree)) {
      if (name === ATTRIBUTES) continue
      const folder = mode === FOLDER
      const line = folder ? undefined : lines.get(Buffer.from(name, 'latin1').toString('utf8'))
      entries.push({ key: folder ? `${name}/` : name, raw, line })
    }
    return new Folder(entries)
  }

  get isEmpty(): boolean {
    return this.entries.length === 0
  }

  document(gitName: string): Entry | undefined {
    return this.#find(Buffer.from(gitName).toString('latin1'))
  }

  folder(gitName: string): Entry | undefined {
    return this.#find(`${Buffer.from(gitName).toString('latin1')}/`)
  }

  with(entry: Entry): Folder {
    const at = this.#place(entry.key)
    const there = this.entries[at]?.key === entry.key
    return new Folder([...this.entries.slice(0, at), entry, ...this.entries.slice(there ? at + 1 : at)])
  }

  without(key: string): Folder {
    const at = this.#place(key)
    if (this.entries[at]?.key !== key) return this
    return new Folder([...this.entries.slice(0, at), ...this.entries.slice(at + 1)])
  }

  /** Bytes of the `.gitattributes` that belongs to these entries; undefined where none is needed. */
  attributes(): Buffer | undefined {
    const lines: string[] = []
    for (const { line } of this.entries) if (line !== undefined) lines.push(line)
    return lines.length === 0 ? undefined : Buffer.from(`${lines.join('\n')}\n`)
  }

  /** Bytes of the tree. `attributes`: id of the blob of {@link attributes}. */
  tree(attributes: string | undefined): Buffer {
    if (attributes !== undefined)
      return this.with(makeEntry(ATTRIBUTES, attributes, undefined)).tree(undefined)
    return Buffer.from(this.entries.map(({ raw }) => raw).join(''), 'latin1')
  }

  /** With other entries in the places of those keys; undefined: with none. */
  withAll(changes: ReadonlyMap<string, Entry | undefined>): Folder {
    const kept = this.entries.filter(({ key }) => !changes.has(key))
    const added = [...changes.values()].filter((entry) => entry !== undefined)
    const inOrder = (one: Entry, two: Entry): number => (one.key < two.key ? -1 : 1)
    return new Folder([...kept, ...added].sort(inOrder))
  }

  #find(key: string): Entry | undefined {
    const entry = this.entries[this.#place(key)]
    return entry?.key === key ? entry : undefined
  }

  /** Where `key` is, or would be put. */
  #place(key: string): number {
    let low = 0
    let high = this.entries.length
    while (low < high) {
      const middle = (low + high) >>> 1
      if ((this.entries[middle] as Entry).key < key) low = middle + 1
      else high = middle
    }
    return low
  }
}

/** The id of `.gitattributes` in a tree, without reading the rest of it. */
export function attributesOid(tree: Buffer): string | undefined {
  for (const { name, raw } of treeEntries(tree)) {
    if (name === ATTRIBUTES) return Buffer.from(raw.slice(-20), 'latin1').toString('hex')
    if (name > ATTRIBUTES) return undefined
  }
  return undefined
}

/** Entries of a tree object: `<mode> <name> NUL <20 bytes>` each (gitformat-pack, "tree"). */
export function* treeEntries(tree: Buffer): Generator<{ mode: string; name: string; raw: string }> {
  const text = tree.toString('latin1')
  for (let at = 0; at < text.length; ) {
    const space = text.indexOf(' ', at)
    const nul = text.indexOf('\0', space)
    const end = nul + 21
    if (space < 0 || nul < 0 || end > text.length)
      throw new TimoneError('internal', 'a folder of a storage is damaged: restore it from a backup')
    yield { mode: text.slice(at, space), name: text.slice(space + 1, nul), raw: text.slice(at, end) }
    at = end
  }
}

/** The entry of a document. */
export function documentEntry(gitName: string, oid: string, facts: DocumentFacts): Entry {
  return makeEntry(gitName, oid, printLine(gitName, facts))
}
