import { createHash } from 'node:crypto'
import { TimoneError } from '../errors.ts'
import type { DocumentFacts } from './document-line.ts'
import { documentEntry, type Entry, Folder, factsOf, isFolder, makeEntry, oidOf } from './folder.ts'
import { makeObject, type NewObject } from './loose-objects.ts'
import { toGitName } from './names.ts'

/** What must hold of the document before it is changed; entity tags with their quotes (RFC 9110, section 13.1). */
export interface Preconditions {
  /** `*`, or a list of tags of which one must be the document's. */
  readonly ifMatch?: string | undefined
  /** `*`, or a list of tags of which none may be the document's. */
  readonly ifNoneMatch?: string | undefined
}

/** One PUT (`content` set) or DELETE. */
export interface Change extends Preconditions {
  /** Names from the root to the document. */
  readonly segments: readonly string[]
  readonly content?: {
    readonly blob: NewObject
    readonly facts: DocumentFacts
  }
  /** Largest sum of bytes of all documents. */
  readonly quota: number
}

export interface Changed {
  /** Tag of the new document, or of the one that was deleted. */
  readonly etag: string
  /** There was none before. */
  readonly created: boolean
}

/** The storage between two changes. */
export interface State {
  readonly tree: string
  readonly bytes: number
}

export interface Outcome extends State {
  readonly changed: Changed
  /** What has to be written before anything refers to {@link tree}; what these refer to comes before them. */
  readonly objects: readonly NewObject[]
  /** The new folders, by the ids of their trees. */
  readonly folders: ReadonlyMap<string, Folder>
}

/** The strong tag of a document: it changes with the bytes and with the type. */
export function etagOf(entry: Entry, { type }: DocumentFacts): string {
  return `"${oidOf(entry)}.${typeTag(type)}"`
}

/** Part of the tag that stands for the type. Most documents share a few types. */
export function typeTag(type: string): string {
  let tag = typeTags.get(type)
  if (tag === undefined) {
    tag = createHash('sha256').update(type).digest('hex').slice(0, 8)
    if (typeTags.size >= MAX_TYPES) typeTags.clear()
    typeTags.set(type, tag)
  }
  return tag
}

const MAX_TYPES = 1000
const typeTags = new Map<string, string>()

/** The tag of a folder: the id of its tree, which every change below it changes. */
export function folderEtag(tree: string): string {
  return `"${tree}"`
}

/** @throws {TimoneError} `precondition_failed` */
export function checkPreconditions(etag: string | undefined, { ifMatch, ifNoneMatch }: Preconditions): void {
  if (ifMatch !== undefined && !(etag !== undefined && matches(ifMatch, etag))) {
    throw new TimoneError('precondition_failed', 'the document is not the version that was asked for')
  }
  if (ifNoneMatch !== undefined && etag !== undefined && matchesWeakly(ifNoneMatch, etag)) {
    throw new TimoneError('precondition_failed', 'the document is there already')
  }
}

/** The same by weak comparison, as `If-None-Match` asks for (RFC 9110, section 13.1.2). */
export function matchesWeakly(header: string, etag: string): boolean {
  return matches(header.replaceAll('W/"', '"'), etag)
}

/** Is `etag` in the list of a header? Weak tags never match. */
function matches(header: string, etag: string): boolean {
  return header.trim() === '*' || header.split(',').some((tag) => tag.trim() === etag)
}

/**
 * Applies a change to the state that `load` reads folders of.
 * @throws {TimoneError} `conflict` (a folder where the document would be, or the reverse), `not_found`,
 *   `precondition_failed`, `quota_exceeded`
 */
export async function applyChange(
  state: State,
  change: Change,
  load: (tree: string) => Promise<Folder>,
): Promise<Outcome> {
  const names = change.segments.map(toGitName)
  const name = names.at(-1) as string
  const parents = names.slice(0, -1)
  const chain = await openChain(state.tree, parents, load, change.content === undefined)
  const parent = chain.at(-1) as Folder
  const old = parent.document(name)
  const oldFacts = old === undefined ? undefined : factsOf(old)
  const oldEtag = old === undefined || oldFacts === undefined ? undefined : etagOf(old, oldFacts)
  if (parent.folder(name) !== undefined) throw conflict('a folder has this name')
  checkPreconditions(oldEtag, change)
  const { content } = change
  const bytes = state.bytes - (oldFacts?.length ?? 0) + (content?.facts.length ?? 0)
  if (bytes > change.quota && bytes > state.bytes) throw new TimoneError('quota_exceeded', FULL)

  const writer = new FolderWriter()
  let folder: Folder
  let etag: string
  if (content === undefined) {
    if (old === undefined || oldEtag === undefined) throw new TimoneError('not_found', 'no such document')
    folder = parent.without(old.key)
    etag = oldEtag
  } else {
    const entry = documentEntry(name, content.blob.oid, content.facts)
    folder = parent.with(entry)
    etag = etagOf(entry, content.facts)
    writer.add(content.blob)
  }
  for (let depth = parents.length; depth > 0; depth--) {
    const above = chain[depth - 1] as Folder
    const own = parents[depth - 1] as string
    const place = makeEntry(own, writer.write(folder), undefined, true)
    folder = folder.isEmpty ? above.without(place.key) : above.with(place)
  }
  const tree = writer.write(folder)
  const { objects, folders } = writer
  return { tree, bytes, changed: { etag, created: old === undefined }, objects, folders }
}

/** Said with 507. */
export const FULL = 'the storage is full: delete something, or ask for a larger quota'

/** Collects what has to be written for new folders. */
export class FolderWriter {
  readonly objects: NewObject[] = []
  readonly folders = new Map<string, Folder>()

  add(object: NewObject): void {
    this.objects.push(object)
  }

  /** Gives the id of the tree. One without entries is needed for the root alone, and harmless elsewhere. */
  write(folder: Folder): string {
    const attributes = folder.attributes()
    const blob = attributes === undefined ? undefined : makeObject('blob', attributes)
    if (blob !== undefined) this.objects.push(blob)
    const tree = makeObject('tree', folder.tree(blob?.oid))
    this.objects.push(tree)
    this.folders.set(tree.oid, folder)
    return tree.oid
  }
}

/** The folders from the root to the parent of a document; those that are not there yet are empty. */
async function openChain(
  root: string,
  names: readonly string[],
  load: (tree: string) => Promise<Folder>,
  deleting: boolean,
): Promise<Folder[]> {
  const chain = [await load(root)]
  for (const name of names) {
    const above = chain.at(-1) as Folder
    const entry = above.folder(name)
    if (entry === undefined && above.document(name) !== undefined) {
      if (deleting) throw new TimoneError('not_found', 'no such document')
      throw conflict('a document has the name of one of its folders')
    }
    chain.push(entry === undefined ? Folder.EMPTY : await load(oidOf(entry)))
  }
  return chain
}

/** The entry at a path; undefined when there is none. */
export async function findEntry(
  root: string,
  names: readonly string[],
  folder: boolean,
  load: (tree: string) => Promise<Folder>,
): Promise<Entry | undefined> {
  let tree = root
  for (const [index, name] of names.entries()) {
    const at = await load(tree)
    const last = index === names.length - 1
    const entry = last && !folder ? at.document(toGitName(name)) : at.folder(toGitName(name))
    if (entry === undefined || last) return entry
    if (!isFolder(entry)) return undefined
    tree = oidOf(entry)
  }
  return undefined
}

function conflict(why: string): TimoneError {
  return new TimoneError('conflict', `the document cannot be there: ${why}`)
}
