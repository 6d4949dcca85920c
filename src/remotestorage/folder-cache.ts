import { attributesOid, Folder } from './folder.ts'
import type { ObjectReader } from './object-reader.ts'

/** Entries of all folders kept; one takes about 200 bytes. */
const MAX_ENTRIES = 60_000

/** Folders by the id of their tree: they cannot change, so one cache serves the spaces of all users. */
export class FolderCache {
  readonly #folders = new Map<string, Folder>()
  readonly #max: number
  #entries = 0

  constructor(max = MAX_ENTRIES) {
    this.#max = max
  }

  /** @throws {TimoneError} `internal` when the tree is missing */
  async load(reader: ObjectReader, tree: string): Promise<Folder> {
    const known = this.#folders.get(tree)
    if (known !== undefined) {
      this.#folders.delete(tree)
      this.#folders.set(tree, known)
      return known
    }
    const { content } = await reader.need(tree)
    const oid = attributesOid(content)
    const attributes = oid === undefined ? undefined : (await reader.need(oid)).content
    const folder = Folder.parse(content, attributes)
    this.keep(tree, folder)
    return folder
  }

  keep(tree: string, folder: Folder): void {
    if (folder.entries.length > this.#max / 2 || this.#folders.has(tree)) return
    this.#folders.set(tree, folder)
    this.#entries += folder.entries.length + 1
    for (const [oldest, { entries }] of this.#folders) {
      if (this.#entries <= this.#max) break
      this.#folders.delete(oldest)
      this.#entries -= entries.length + 1
    }
  }
}
