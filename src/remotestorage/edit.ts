import { TimoneError } from '../errors.ts'
import { FolderWriter, type State } from './change.ts'
import { type Entry, Folder, factsOf, isFolder, makeEntry, oidOf } from './folder.ts'
import type { NewObject } from './loose-objects.ts'
import { EMPTY_TREE } from './space.ts'

/** What shall be at a place of the tree from now on. */
export interface Placement {
  /** Names as Git has them, from the root down. */
  readonly names: readonly string[]
  /** Is it about a folder, or about a document? */
  readonly folder: boolean
  /** Undefined: nothing. */
  readonly entry: Entry | undefined
}

export interface Edited extends State {
  /** What has to be written before anything refers to {@link State.tree}. */
  readonly objects: readonly NewObject[]
  /** The new folders, by the ids of their trees. */
  readonly folders: ReadonlyMap<string, Folder>
}

type Load = (tree: string) => Promise<Folder>

/** What is to be done in one folder. */
class Node {
  readonly below = new Map<string, Node>()
  readonly places: Placement[] = []
}

/**
 * Puts many entries into a tree at once, and takes others out; folders that become empty go.
 * @throws {TimoneError} `conflict` when a document and a folder would have one name
 */
export async function editTree(state: State, placements: readonly Placement[], load: Load): Promise<Edited> {
  const root = new Node()
  for (const place of placements) {
    let node = root
    for (const name of place.names.slice(0, -1)) {
      const next = node.below.get(name) ?? new Node()
      node.below.set(name, next)
      node = next
    }
    node.places.push(place)
  }
  const writer = new FolderWriter()
  let { bytes } = state

  const editFolder = async (tree: string, node: Node): Promise<Folder> => {
    const folder = tree === EMPTY_TREE ? Folder.EMPTY : await load(tree)
    const changes = new Map<string, Entry | undefined>()
    for (const [name, below] of node.below) {
      const old = folder.folder(name)
      const edited = await editFolder(old === undefined ? EMPTY_TREE : oidOf(old), below)
      const { key } = makeEntry(name, EMPTY_TREE, undefined, true)
      changes.set(key, edited.isEmpty ? undefined : makeEntry(name, writer.write(edited), undefined, true))
    }
    for (const { names, folder: isOfFolder, entry } of node.places) {
      const name = names.at(-1) as string
      const { key } = makeEntry(name, EMPTY_TREE, undefined, isOfFolder)
      const there = isOfFolder ? folder.folder(name) : folder.document(name)
      const old = changes.has(key) ? changes.get(key) : there
      bytes += (await bytesOf(entry, load)) - (await bytesOf(old, load))
      changes.set(key, entry)
    }
    const edited = folder.withAll(changes)
    for (const [key, entry] of changes) {
      if (entry === undefined) continue
      const name = Buffer.from(key.replace(/\/$/, ''), 'latin1').toString('utf8')
      if (edited.document(name) !== undefined && edited.folder(name) !== undefined)
        throw new TimoneError('conflict', `a document and a folder would have the name ${name}`)
    }
    return edited
  }

  const tree = writer.write(await editFolder(state.tree, root))
  return { tree, bytes, objects: writer.objects, folders: writer.folders }
}

/** Bytes of the documents in an entry. */
export async function bytesOf(entry: Entry | undefined, load: Load): Promise<number> {
  if (entry === undefined) return 0
  if (!isFolder(entry)) return factsOf(entry).length
  let sum = 0
  for (const below of (await load(oidOf(entry))).entries) sum += await bytesOf(below, load)
  return sum
}
