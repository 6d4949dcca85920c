import { readFileSync } from 'node:fs'
import { lstat, mkdir, open, readdir, readFile, rename, rm, stat, unlink } from 'node:fs/promises'
import { hostname } from 'node:os'
import { join } from 'node:path'
import { performance } from 'node:perf_hooks'
import { systemCode, TimoneError } from '../errors.ts'
import { isObjectSize, isOid, type Oid } from '../oid.ts'
import { dropExtentMap, mapPath } from './extent-map.ts'

/** What a later process needs to go on with an upload. The store's own list of parts says how far it got. */
export interface UploadState {
  version: 1
  /** Where the upload was started: host and kind. Another server's state is of no use here. */
  target: string
  size: number
  /** Modification time of the file: parts of a file that was changed since are not this object's. */
  mtimeMs: number
  partSize: number
  uploadId: string
  /** When it was begun, milliseconds since the epoch. */
  startedAt?: number
  /** Whose upload it is. While that process lives nobody else may touch its parts. */
  owner: { host: string; pid: number }
}

/** An upload that some run began and did not end. Nothing in it but its form was checked. */
export interface RememberedUpload {
  oid: Oid
  state: UploadState
  /** `elsewhere`: on another machine, of which nothing can be told. */
  owner: 'alive' | 'gone' | 'elsewhere'
}

/** What is older, milliseconds, is rubbish: nobody comes back for it, and the bucket's lifecycle rule has run. */
const STALE = 14 * 24 * 3600 * 1000
/** Milliseconds for which a look at the folder is good: one look for each of 50 000 objects would be the main work. */
const LOOK_AGAIN = 1000

/**
 * Unfinished transfers under `<LFS storage>/timone`: on the file system of the LFS objects, so that git-lfs can rename
 * a finished download into place, and outside `<LFS storage>/tmp`, which git-lfs sweeps after an hour.
 *
 * A partial download is called `<oid>.<host>.<pid>.part`. Whoever wants to go on with one first renames it to its own
 * name, so no two processes ever write one file.
 */
export class ResumeStore {
  readonly folder: string
  readonly #host: string
  #prepared: Promise<void> | undefined
  #left: { at: number; names: Promise<Map<string, string[]>> } | undefined
  #count = 0

  constructor(lfsStorage: string) {
    this.folder = join(lfsStorage, 'timone')
    this.#host = hostName()
  }

  /** Makes the folder, and drops what was left behind long ago. */
  async prepare(): Promise<void> {
    this.#prepared ??= (async () => {
      await mkdir(this.folder, { recursive: true }).catch(async (error: unknown) => {
        // With `recursive` Node says ENOENT where the disk is read-only: asked for the one folder it says why.
        const reason = await mkdir(this.folder).then(
          () => undefined,
          (second: unknown) => second ?? error,
        )
        if (reason !== undefined) throw folderError(reason, this.folder)
      })
      await this.#sweep().catch(() => {
        // What stays is found next time.
      })
    })()
    return this.#prepared
  }

  /** Path of this process's download of `oid`. */
  partialPath(oid: Oid): string {
    return join(this.folder, `${oid}.${this.#host}.${process.pid}.part`)
  }

  /**
   * Path for this process's download of `oid`; with `found` it continues a file that a dead process left, and its map
   * (see extent-map.ts) where there is one.
   */
  async claimPartial(oid: Oid): Promise<{ path: string; found: boolean }> {
    await this.prepare()
    const path = this.partialPath(oid)
    for (const name of (await this.#leftPartials()).get(oid) ?? []) {
      const left = join(this.folder, name)
      try {
        // A link or a pipe was put there by somebody else, to have us write through it.
        if (!(await lstat(left)).isFile()) {
          await rm(left, { force: true })
          continue
        }
        await rename(left, path)
      } catch {
        // Somebody else was quicker: begin anew.
        continue
      }
      await rename(mapPath(left), mapPath(path)).catch(() => dropExtentMap(path))
      return { path, found: true }
    }
    return { path, found: false }
  }

  /** Names of the partial downloads of this machine's dead processes; the folder is read once a second at most. */
  async #leftPartials(): Promise<ReadonlyMap<string, string[]>> {
    const now = performance.now()
    if (this.#left === undefined || now - this.#left.at > LOOK_AGAIN) {
      this.#left = { at: now, names: this.#findPartials() }
    }
    return this.#left.names
  }

  async #findPartials(): Promise<Map<string, string[]>> {
    const found = new Map<string, string[]>()
    const alive = new Map<number, boolean>([[process.pid, true]])
    for (const name of await readdir(this.folder)) {
      const [, oid, host, digits] = PARTIAL.exec(name) ?? []
      if (oid === undefined || host !== this.#host) continue
      const pid = Number(digits)
      const lives = alive.get(pid) ?? isAlive(pid)
      alive.set(pid, lives)
      if (!lives) found.set(oid, [...(found.get(oid) ?? []), name])
    }
    return found
  }

  /**
   * Path for an object out of the cache, of this call alone. It may be a link to the cache's own file, so nobody ever
   * goes on with it.
   */
  async cachedPath(oid: Oid): Promise<string> {
    await this.prepare()
    return join(this.folder, `${oid}.${this.#host}.${process.pid}.${this.#count++}.cached`)
  }

  /**
   * Takes over what a dead process left of an upload of `oid` to `target`: of all who try at the same moment, one.
   * Undefined when there is nothing, it cannot be used, or its owner lives.
   */
  async claimUpload(
    oid: Oid,
    { target, size, mtimeMs }: Pick<UploadState, 'target' | 'size' | 'mtimeMs'>,
  ): Promise<UploadState | undefined> {
    const path = this.#uploadPath(oid)
    if (this.#isForeign(await readState(path))) return undefined
    const mine = `${path}.${this.#host}.${process.pid}.tmp`
    try {
      await rename(path, mine)
    } catch {
      // There is none, or somebody else was quicker.
      return undefined
    }
    const state = await readState(mine)
    if (this.#isForeign(state)) {
      // Written between the look and the rename.
      await rename(mine, path).catch(() => {})
      return undefined
    }
    await rm(mine, { force: true }).catch(() => {})
    if (!isState(state) || state.target !== target || state.size !== size || state.mtimeMs !== mtimeMs)
      return undefined
    const claimed = state
    // Without it on the disk this run can go on all the same; only the next one could not.
    await this.writeUpload(oid, claimed).catch(() => {})
    return claimed
  }

  /** All uploads that are remembered here, the oldest first. What cannot be read is none. */
  async listUploads(): Promise<RememberedUpload[]> {
    const found: RememberedUpload[] = []
    for (const name of await readdir(this.folder).catch(() => [])) {
      const oid = /^(.{64})\.upload\.json$/.exec(name)?.[1]
      if (!isOid(oid)) continue
      const path = this.#uploadPath(oid)
      const state = await readState(path)
      if (!isState(state)) continue
      const { mtimeMs } = await stat(path).catch(() => ({ mtimeMs: Date.now() }))
      // Written by an earlier release.
      state.startedAt ??= mtimeMs
      found.push({ oid, state, owner: this.#ownerOf(state) })
    }
    return found.sort((a, b) => (a.state.startedAt ?? 0) - (b.state.startedAt ?? 0))
  }

  #ownerOf(state: UploadState): RememberedUpload['owner'] {
    if (!this.#isForeign(state)) return 'gone'
    return state.owner.host === this.#host ? 'alive' : 'elsewhere'
  }

  /** Remembers an upload of this process, unless another live process has one of the same object there. */
  async writeUpload(oid: Oid, state: Omit<UploadState, 'owner'>): Promise<void> {
    await this.prepare()
    const path = this.#uploadPath(oid)
    if (this.#isForeign(await readState(path))) return
    const temporary = `${path}.${this.#host}.${process.pid}.tmp`
    const owned: UploadState = { ...state, owner: { host: this.#host, pid: process.pid } }
    try {
      await rm(temporary, { force: true })
      const file = await open(temporary, 'wx', 0o600)
      try {
        await file.writeFile(JSON.stringify(owned))
        await file.sync()
      } finally {
        await file.close()
      }
      await rename(temporary, path)
    } catch (error) {
      await unlink(temporary).catch(() => {})
      throw folderError(error, this.folder)
    }
  }

  /** Forgets this process's upload of `oid`. */
  async dropUpload(oid: Oid): Promise<void> {
    const path = this.#uploadPath(oid)
    if (this.#isForeign(await readState(path))) return
    await rm(path, { force: true }).catch(() => {})
  }

  /** True when the state belongs to another process that may still be at work. */
  #isForeign(state: Partial<UploadState> | undefined): boolean {
    const { owner } = state ?? {}
    if (typeof owner?.pid !== 'number' || typeof owner.host !== 'string') return false
    // Whether a process on another machine lives cannot be told from here.
    return owner.host !== this.#host || (owner.pid !== process.pid && isAlive(owner.pid))
  }

  #uploadPath(oid: Oid): string {
    return join(this.folder, `${oid}.upload.json`)
  }

  async #sweep(): Promise<void> {
    const limit = Date.now() - STALE
    const names = new Set(await readdir(this.folder))
    for (const name of names) {
      const path = join(this.folder, name)
      // Of no use to anybody once its process is dead; a map only without the file that it is of.
      const [, host, pid] =
        CACHED.exec(name) ??
        TEMPORARY.exec(name) ??
        (names.has(name.replace(/\.json$/, '')) ? [] : (MAP.exec(name) ?? []))
      if (host === this.#host && !isAlive(Number(pid))) await rm(path, { force: true })
      if (!/\.(part|json|tmp|cached)$/.test(name)) continue
      // Gone meanwhile: another process is sweeping too.
      const { mtimeMs } = await stat(path).catch(() => ({ mtimeMs: limit }))
      if (mtimeMs < limit) await rm(path, { force: true })
    }
  }
}

/** Whether `state` has the form that an upload can go on with; an owner that makes no sense is nobody. */
function isState(state: Partial<UploadState> | undefined): state is UploadState {
  return (
    state !== undefined &&
    state.version === 1 &&
    typeof state.target === 'string' &&
    isObjectSize(state.size) &&
    typeof state.mtimeMs === 'number' &&
    typeof state.partSize === 'number' &&
    Number.isSafeInteger(state.partSize) &&
    state.partSize > 0 &&
    typeof state.uploadId === 'string' &&
    state.uploadId !== '' &&
    (state.startedAt === undefined || isTime(state.startedAt))
  )
}

/** What `Date` can print. */
const isTime = (value: unknown): boolean =>
  typeof value === 'number' && value >= 0 && value <= 8_640_000_000_000_000

/** Undefined when the file is absent or damaged: the upload then begins anew. Nothing in it is checked yet. */
async function readState(path: string): Promise<Partial<UploadState> | undefined> {
  try {
    const { isFile, size } = await lstat(path).then((found) => ({ isFile: found.isFile(), size: found.size }))
    // A pipe would be waited for without end.
    if (!isFile || size > MAX_STATE) return undefined
    const state: unknown = JSON.parse(await readFile(path, 'utf8'))
    return typeof state === 'object' && state !== null ? state : undefined
  } catch {
    return undefined
  }
}

/** No state of ours is longer, bytes. */
const MAX_STATE = 64 * 1024

/** This machine's name as it goes into names of files. */
export function hostName(): string {
  return hostname().replace(/[^A-Za-z0-9-]/g, '_')
}

const CACHED = /^[0-9a-f]{64}\.([A-Za-z0-9_-]+)\.(\d+)\.\d+\.cached$/
/** What a file is written as before it is renamed: a map, and the state of an upload. */
const TEMPORARY = /^[0-9a-f]{64}\.(?:upload\.json\.)?([A-Za-z0-9_-]+)\.(\d+)(?:\.part\.json)?\.tmp$/
const MAP = /^[0-9a-f]{64}\.([A-Za-z0-9_-]+)\.(\d+)\.part\.json$/
const PARTIAL = /^([0-9a-f]{64})\.([A-Za-z0-9_-]+)\.(\d+)\.part$/

/** True when a process of this machine has the id. */
export function isAlive(pid: number): boolean {
  // Zero and below mean whole groups of processes to kill(2).
  if (!Number.isSafeInteger(pid) || pid <= 0) return false
  try {
    process.kill(pid, 0)
    return !isZombie(pid)
  } catch (error) {
    // EPERM: it lives, and belongs to somebody else.
    return systemCode(error) === 'EPERM'
  }
}

/** A dead process that nobody has waited for, as there are in containers whose first process is no init. Linux only. */
function isZombie(pid: number): boolean {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'latin1')
    return stat.charAt(stat.lastIndexOf(')') + 2) === 'Z'
  } catch {
    return false
  }
}

/** A failure to write under the LFS storage, in words. */
export function folderError(error: unknown, path: string): TimoneError {
  const code = systemCode(error) ?? 'unknown error'
  if (code === 'ENOSPC' || code === 'EDQUOT') {
    return new TimoneError(
      'disk_full',
      `no room left in ${path} (${code}): free some space and repeat the command`,
      { cause: error },
    )
  }
  return new TimoneError(
    'read_only',
    `cannot write in ${path} (${code}): make the folder writable for this user`,
    { cause: error },
  )
}
