import { access } from 'node:fs/promises'
import { setTimeout as sleep } from 'node:timers/promises'
import { isTimoneError } from '../errors.ts'
import { applyChange, type Change, type Changed, findEntry, type State } from './change.ts'
import { type Author, parseCommit, printCommit } from './commit.ts'
import { createRepository } from './create-repository.ts'
import type { DocumentFacts } from './document-line.ts'
import { type Entry, Folder, factsOf, oidOf } from './folder.ts'
import type { FolderCache } from './folder-cache.ts'
import { LooseObjects, makeObject, type NewObject } from './loose-objects.ts'
import { busy, MAIN, moveMain } from './main-lock.ts'
import { printStoragePath } from './names.ts'
import { ObjectReader } from './object-reader.ts'

/** The tree without entries. */
export const EMPTY_TREE: string = makeObject('tree', Buffer.alloc(0)).oid

/** Changes that become commits before `main` is moved once for all of them. */
const MAX_BATCH = 64
/** How often what takes long is done again because others were faster. */
const ATTEMPTS = 150

export interface Document {
  readonly entry: Entry
  readonly facts: DocumentFacts
}

export interface Snapshot extends State {
  /** Undefined: nothing was ever written. */
  readonly commit: string | undefined
}

/** What {@link Space.advance} gives to whoever makes a commit. */
export interface Tools {
  readonly head: Snapshot
  load(tree: string): Promise<Folder>
  /** Makes objects durable. */
  write(objects: readonly NewObject[]): Promise<void>
}

interface Pending {
  change: Change
  author: Author
  resolve: (changed: Changed) => void
  reject: (error: unknown) => void
}

export interface SpaceOptions {
  /** Absolute path of the bare repository, which is made at the first change. */
  gitDir: string
  cache: FolderCache
  /** Milliseconds since the epoch. */
  now: () => number
}

/**
 * The storage of one user: a bare Git repository of which every change is one commit on `main`. Any number of
 * processes may have it open: `main` is moved only from where a commit was made for, and whoever was slower makes it anew.
 */
export class Space {
  readonly gitDir: string
  readonly reader: ObjectReader
  /** Changes since it was opened. */
  changes = 0
  /** What is being done with it. */
  busy = 0
  readonly #cache: FolderCache
  readonly #objects: LooseObjects
  readonly #now: () => number
  #queue: Pending[] = []
  #writing = false
  #there = false
  #head: Snapshot | undefined

  constructor({ gitDir, cache, now }: SpaceOptions) {
    this.gitDir = gitDir
    this.#cache = cache
    this.#now = now
    this.reader = new ObjectReader(gitDir)
    this.#objects = new LooseObjects(gitDir)
  }

  /** The storage as it is now, in whichever process it was changed. */
  async snapshot(): Promise<Snapshot> {
    if (!(await this.#exists())) return { commit: undefined, tree: EMPTY_TREE, bytes: 0 }
    const commit = await this.reader.resolve(MAIN)
    if (commit === undefined) return { commit, tree: EMPTY_TREE, bytes: 0 }
    if (this.#head?.commit === commit) return this.#head
    this.#head = { commit, ...parseCommit((await this.reader.need(commit)).content) }
    return this.#head
  }

  /** Undefined when there is no such document. */
  async document(state: State, segments: readonly string[]): Promise<Document | undefined> {
    const entry = await findEntry(state.tree, segments, false, (tree) => this.#load(tree))
    return entry === undefined ? undefined : { entry, facts: factsOf(entry) }
  }

  /** A folder and the id of its tree; one that is not there is empty. */
  async folder(state: State, segments: readonly string[]): Promise<{ tree: string; folder: Folder }> {
    const load = (tree: string): Promise<Folder> => this.#load(tree)
    if (segments.length === 0) return { tree: state.tree, folder: await load(state.tree) }
    const entry = await findEntry(state.tree, segments, true, load)
    if (entry === undefined) return { tree: EMPTY_TREE, folder: Folder.EMPTY }
    return { tree: oidOf(entry), folder: await load(oidOf(entry)) }
  }

  /**
   * Makes a change durable: when the promise resolves, it is committed and flushed.
   * @throws {TimoneError} as {@link applyChange}; `throttled` when others write without a pause
   */
  change(change: Change, author: Author): Promise<Changed> {
    return new Promise((resolve, reject) => {
      this.#queue.push({ change, author, resolve, reject })
      if (!this.#writing) void this.#drain()
    })
  }

  /**
   * Moves `main` to the commit that `build` makes on top of what is there, as often as others are faster. For commands
   * that have the space to themselves in their own process.
   * @param build undefined: there is nothing to do
   * @param quick when others were faster, `build` is run once more while they wait: it must take milliseconds then
   * @returns the commit; undefined when there was nothing to do
   * @throws {TimoneError} `throttled` when others write without a pause
   */
  async advance(
    build: (tools: Tools) => Promise<string | undefined>,
    { quick }: { quick: boolean },
  ): Promise<string | undefined> {
    await this.#make()
    const tools = {
      load: (tree: string) => this.#load(tree),
      write: (objects: readonly NewObject[]) => this.#objects.write(objects),
    }
    for (let attempt = 0; attempt < ATTEMPTS; attempt++) {
      // Not all at once, or the same ones lose again.
      if (attempt > 0) await sleep(Math.random() * 10 * Math.min(attempt, 10))
      // What takes long is done before others have to wait.
      const head = await this.snapshot()
      let commit = await build({ head, ...tools })
      if (commit === undefined) return undefined
      let lost = false
      await moveMain(this.gitDir, async () => {
        const now = await this.snapshot()
        if (now.commit === head.commit) return commit
        lost = !quick
        if (quick) commit = await build({ head: now, ...tools })
        return quick ? commit : undefined
      })
      if (!lost) return commit
    }
    throw busy()
  }

  /** Ends the processes; the next use starts them again. */
  close(): void {
    this.reader.close()
  }

  async #drain(): Promise<void> {
    this.#writing = true
    this.busy++
    try {
      while (this.#queue.length > 0) {
        const batch = this.#queue.splice(0, MAX_BATCH)
        try {
          await this.#writeBatch(batch)
        } catch (error) {
          for (const { reject } of batch) reject(error)
        }
      }
    } finally {
      this.#writing = false
      this.busy--
    }
  }

  async #writeBatch(batch: readonly Pending[]): Promise<void> {
    await this.#make()
    const build = async () => {
      const start = await this.snapshot()
      const prepared = await this.#prepare(start, batch)
      if (prepared.objects.length > 0) await this.#objects.write(prepared.objects)
      return { start, ...prepared }
    }
    // Before others have to wait, and once more while they do if they were faster.
    let built = await build()
    if (built.objects.length > 0)
      await moveMain(this.gitDir, async () => {
        if ((await this.reader.resolve(MAIN)) !== built.start.commit) built = await build()
        return built.objects.length > 0 ? built.head.commit : undefined
      })
    this.#head = built.head
    for (const [tree, folder] of built.folders) this.#cache.keep(tree, folder)
    for (const tell of built.settle) tell()
  }

  /** Turns a batch into commits, one after the other, none of which is written yet. */
  async #prepare(start: Snapshot, batch: readonly Pending[]) {
    const folders = new Map<string, Folder>()
    const objects = new Map<string, NewObject>()
    const settle: (() => void)[] = []
    const load = async (tree: string): Promise<Folder> => folders.get(tree) ?? (await this.#load(tree))
    let head = start
    for (const { change, author, resolve, reject } of batch) {
      try {
        const outcome = await applyChange(head, change, load)
        const verb = change.content === undefined ? 'DELETE' : 'PUT'
        const text = printCommit({
          ...outcome,
          parent: head.commit,
          subject: `${verb} ${printStoragePath({ segments: change.segments, folder: false })}`,
          author,
          at: this.#now(),
        })
        const commit = makeObject('commit', text)
        for (const object of [...outcome.objects, commit]) objects.set(object.oid, object)
        for (const [tree, folder] of outcome.folders) folders.set(tree, folder)
        head = { commit: commit.oid, tree: outcome.tree, bytes: outcome.bytes }
        settle.push(() => {
          this.changes++
          resolve(outcome.changed)
        })
      } catch (error) {
        if (!isTimoneError(error)) throw error
        settle.push(() => reject(error))
      }
    }
    return { head, objects: [...objects.values()], settle, folders }
  }

  async #load(tree: string): Promise<Folder> {
    return tree === EMPTY_TREE ? Folder.EMPTY : this.#cache.load(this.reader, tree)
  }

  async #make(): Promise<void> {
    if (await this.#exists()) return
    await createRepository(this.gitDir)
    this.#there = true
  }

  async #exists(): Promise<boolean> {
    if (this.#there) return true
    try {
      await access(this.gitDir)
      this.#there = true
    } catch {
      // Not yet.
    }
    return this.#there
  }
}
