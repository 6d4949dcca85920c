import { lstatSync } from 'node:fs'
import { join } from 'node:path'
import { TimoneError } from '../errors.ts'
import { POINTER_LIMIT } from '../git/pointer.ts'
import type { PointerEntry } from '../git/scan.ts'
import { type Fill, openFill, type Unfilled } from '../git/work-tree.ts'
import type { Oid } from '../oid.ts'
import { printCount } from './amounts.ts'
import { runGitLfs } from './git-lfs.ts'
import type { LfsClone } from './lfs-clone.ts'
import type { TransferRun } from './transfer-run.ts'

/** Files that are filled in one go: each go asks git for their attributes. */
const FILES = 256
/** Bytes that need not wait for more: large files are filled while others are still on the way. */
const BYTES = 16 * 2 ** 20

/** Fills files of the work tree as soon as their objects are there. */
export class FileFilling {
  readonly #run: TransferRun
  readonly #clone: LfsClone
  /** By object: files whose object is not here yet. */
  readonly #waiting = new Map<Oid, PointerEntry[]>()
  readonly #here = new Set<Oid>()
  #ready: PointerEntry[] = []
  #readyBytes = 0
  #fill: Promise<Fill> | undefined
  #filling: Promise<void> | undefined
  #failure: unknown

  constructor(run: TransferRun, clone: LfsClone) {
    this.#run = run
    this.#clone = clone
  }

  /** A file that is to hold its object. */
  add(entry: PointerEntry): void {
    if (this.#holdsObject(entry)) return
    if (this.#here.has(entry.oid)) {
      this.#take([entry])
      return
    }
    const waiting = this.#waiting.get(entry.oid)
    if (waiting === undefined) this.#waiting.set(entry.oid, [entry])
    else waiting.push(entry)
  }

  /** The object is in the store of this clone. */
  here(oid: Oid): void {
    this.#here.add(oid)
    const entries = this.#waiting.get(oid)
    if (entries === undefined) return
    this.#waiting.delete(oid)
    this.#take(entries)
  }

  /**
   * Fills what is left, records it all in the index, and leaves the rest to `git lfs checkout`. To be called whatever
   * happened before, also after a failure.
   */
  async finish(): Promise<void> {
    const { signal, display, tally } = this.#run
    // One go may begin the next.
    while (this.#filling !== undefined) await this.#filling
    try {
      if (this.#ready.length > 0 && this.#failure === undefined && !signal.aborted) {
        await (await this.#open()).add(this.#ready)
      }
    } catch (error) {
      this.#failure ??= error
    }
    // Recorded even after an interruption: what is filled is filled.
    const result = await (await this.#fill)?.finish()
    if (signal.aborted) return
    if (this.#failure !== undefined) throw this.#failure
    if (result === undefined) return
    if (result.index.refused !== undefined) {
      display.note(`the next git status reads the new files once: ${result.index.refused}`)
    }
    const by = (reason: Unfilled['reason']): Unfilled[] =>
      result.unfilled.filter((one) => one.reason === reason)
    for (const { entry, detail } of by('failed')) {
      this.#run.fail(entry, new TimoneError('read_only', `the file could not be written (${detail})`))
    }
    const changed = by('changed')
    if (changed.length > 0) {
      display.note(
        `left ${describe(changed)} as ${changed.length === 1 ? 'it is' : 'they are'}: ${changed[0]?.detail}`,
      )
    }
    const unusual = by('unusual')
    if (unusual.length === 0) return
    display.note(`left ${describe(unusual)} to git lfs checkout: ${unusual[0]?.detail}`)
    await this.#checkOut(unusual.map(({ entry }) => entry))
    tally.files += unusual.length
  }

  /** True for a file of the object's size: as for git, that is enough, and most files of a second pull are such. */
  #holdsObject({ path, size }: PointerEntry): boolean {
    // A smaller one may be the pointer itself.
    if (size < POINTER_LIMIT) return false
    const found = lstatSync(join(this.#clone.repository.workTree as string, path), { throwIfNoEntry: false })
    return found?.isFile() === true && found.size === size
  }

  #take(entries: readonly PointerEntry[]): void {
    for (const entry of entries) {
      this.#ready.push(entry)
      this.#readyBytes += entry.size
    }
    if (this.#filling !== undefined || this.#failure !== undefined || this.#run.signal.aborted) return
    if (this.#ready.length < FILES && this.#readyBytes < BYTES) return
    const go = this.#ready
    this.#ready = []
    this.#readyBytes = 0
    this.#filling = this.#open()
      .then((fill) => fill.add(go))
      .catch((error: unknown) => {
        this.#failure ??= error
      })
      .finally(() => {
        this.#filling = undefined
        this.#take([])
      })
  }

  #open(): Promise<Fill> {
    const { repository, objects } = this.#clone
    this.#fill ??= openFill(repository, {
      objectPath: (oid) => objects.pathOf(oid),
      onFile: () => {
        this.#run.tally.files++
      },
      signal: this.#run.signal,
    })
    return this.#fill
  }

  async #checkOut(entries: readonly PointerEntry[]): Promise<void> {
    const { io, signal } = this.#run
    const top = { ...io, cwd: this.#clone.repository.workTree as string }
    for (const paths of commandLines(entries.map(({ path }) => literal(path)))) {
      await runGitLfs(['checkout', '--', ...paths], top, signal)
    }
  }
}

/** The files by name where they are few, else their number. */
function describe(files: readonly Unfilled[]): string {
  return files.length <= 3
    ? files.map(({ entry }) => entry.path).join(', ')
    : printCount(files.length, 'file')
}

/** `path` as a pattern of git-lfs that fits nothing else. */
const literal = (path: string): string => path.replace(/[*?[\]\\]/g, '\\$&')

/** Lists of words that an operating system takes on one command line: Windows has 32 KiB for it. */
function* commandLines(words: readonly string[]): Generator<string[]> {
  let line: string[] = []
  let length = 0
  for (const word of words) {
    if (line.length > 0 && length + word.length > 16_000) {
      yield line
      line = []
      length = 0
    }
    line.push(word)
    length += word.length + 3
  }
  if (line.length > 0) yield line
}
