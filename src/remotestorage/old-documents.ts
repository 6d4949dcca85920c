import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createRepository } from './create-repository.ts'
import { spawnGit } from './git-process.ts'
import type { Reception } from './incoming.ts'
import { type LargeDocuments, type LargeObject, printPointer } from './large-documents.ts'
import { makeObject, type NewObject } from './loose-objects.ts'
import { ObjectReader } from './object-reader.ts'
import type { OldModule } from './old-modules.ts'

/** The objects of all modules, and a git that reads them. */
export interface Source {
  gitDir: string
  reader: ObjectReader
  close(): Promise<void>
}

/** An empty repository that finds their objects: git reads those, and not their settings. */
export async function openSource(modules: readonly OldModule[]): Promise<Source> {
  const folder = await mkdtemp(join(tmpdir(), 'timone-import-'))
  const gitDir = join(folder, 'source.git')
  await createRepository(gitDir)
  const lines = modules.map(({ objects }) => JSON.stringify(objects))
  await writeFile(join(gitDir, 'objects', 'info', 'alternates'), `${lines.join('\n')}\n`)
  const reader = new ObjectReader(gitDir)
  const close = (): Promise<void> => {
    reader.close()
    return rm(folder, { recursive: true, force: true })
  }
  return { gitDir, reader, close }
}

/** Where contents go. */
export interface Destination {
  user: { id: number }
  reception: Reception
  large: LargeDocuments
  /** False: only find out what would be done. */
  write: boolean
}

interface Taken {
  readonly oid: string
  readonly length: number
  readonly large: boolean
  /** Undefined: it was written before. */
  readonly object: NewObject | undefined
}

/** Brings contents over, each once. */
export class Documents {
  readonly #source: Source
  readonly #options: Destination
  readonly #large = new Map<string, LargeObject & { pointer: string }>()
  readonly #counted = new Set<string>()

  constructor(source: Source, options: Destination) {
    this.#source = source
    this.#options = options
  }

  get large(): number {
    return this.#options.write ? this.#large.size : this.#counted.size
  }

  /** For a run that writes nothing. */
  async count(blob: string | undefined): Promise<void> {
    const size = blob === undefined ? 0 : await this.#source.reader.size(blob)
    if (blob !== undefined && (size ?? 0) >= this.#options.reception.large) this.#counted.add(blob)
  }

  async take(blob: string): Promise<Taken> {
    const known = this.#large.get(blob)
    if (known !== undefined) return { oid: known.pointer, length: known.size, large: true, object: undefined }
    const size = await this.#source.reader.size(blob)
    if (size !== undefined && size >= this.#options.reception.large) {
      const object = await this.#store(blob)
      const pointer = makeObject('blob', printPointer(object))
      this.#large.set(blob, { ...object, pointer: pointer.oid })
      return { oid: pointer.oid, length: object.size, large: true, object: pointer }
    }
    const { content } = await this.#source.reader.need(blob)
    const object = makeObject('blob', content)
    return { oid: object.oid, length: content.length, large: false, object }
  }

  /** Puts large ones into the store again that are there no longer. */
  async ensureLarge(): Promise<void> {
    const { large, user } = this.#options
    for (const [blob, object] of this.#large) if (!(await large.has(user.id, object))) await this.#store(blob)
  }

  /** Through a temporary file: memory stays what it is. */
  async #store(blob: string): Promise<LargeObject> {
    const { reception, large, user } = this.#options
    const git = spawnGit(this.#source.gitDir, ['cat-file', 'blob', blob])
    git.stdin.end()
    git.stderr.resume()
    const incoming = await reception.receive(git.stdout, Number.MAX_SAFE_INTEGER)
    if (incoming.kind !== 'large') throw new TypeError('it was said to be large')
    try {
      await large.store(user.id, incoming)
      return { oid: incoming.oid, size: incoming.size }
    } finally {
      await incoming.drop()
    }
  }
}
