import { randomBytes } from 'node:crypto'
import { type FileHandle, link, open, readdir, rename, rm, stat, unlink } from 'node:fs/promises'
import { dirname, join, resolve } from 'node:path'
import type { Readable } from 'node:stream'
import { isTimoneError, systemCode, TimoneError } from '../errors.ts'
import { syncFolder } from '../sync-folder.ts'
import { DurableFolders, writeBody } from './durable-file.ts'
import { FileBody } from './file-body.ts'
import { fileError, isAbsent } from './file-errors.ts'
import { FileUploads } from './file-upload.ts'
import type {
  GetOptions,
  ListedObject,
  ObjectBody,
  ObjectInfo,
  ObjectStore,
  PutOptions,
  PutResult,
} from './object-store.ts'
import { abortError } from './pour.ts'

/** After how many milliseconds {@link FileStore.sweep} takes leftovers for abandoned: 7 days. */
export const STALE_AFTER_MS: number = 7 * 24 * 60 * 60 * 1000

/** An {@link ObjectStore} in a folder. */
export interface FileStore extends ObjectStore {
  readonly driver: 'file'
  /**
   * Removes temporary files and uploads that nothing was written to for `olderThanMs` milliseconds (a killed server
   * and clients that never came back leave them); gives their number.
   */
  sweep(olderThanMs?: number): Promise<number>
}

export interface FileStoreOptions {
  /** Milliseconds since the epoch. */
  now?: () => number
  /** After how many silent milliseconds the writer of a part loses it to another one that waits. */
  partStallMs?: number
}

/**
 * Objects as files below `root`, under their key. Temporary files and uploads live in `root/.timone`, on the same file
 * system, where no key can lead: an organisation's name never starts with a dot. The file system must know hard links,
 * since only `link` makes a file appear unless it is there already, in one step.
 */
export function createFileStore(root: string, options: FileStoreOptions = {}): FileStore {
  return new FolderStore(resolve(root), options)
}

/** `key` as path segments. @throws {TypeError} for a key that `object-key.ts` cannot have made */
function segmentsOf(key: string): string[] {
  const segments = key.split('/')
  const odd = (segment: string): boolean => /^(\.\.?|)$/.test(segment) || /[\\\0]/.test(segment)
  if (segments.some(odd) || segments[0]?.startsWith('.')) throw new TypeError('not a key of the file store')
  return segments
}

async function infoOf(file: FileHandle | string): Promise<ObjectInfo | undefined> {
  const stats = await (typeof file === 'string' ? stat(file, { bigint: true }) : file.stat({ bigint: true }))
  if (!stats.isFile()) return undefined
  // A stored file is never written to again, so size, time and inode change whenever the bytes do.
  const tag = [stats.size, stats.mtimeNs, stats.ino].map((part) => part.toString(16)).join('-')
  return { size: Number(stats.size), etag: `"${tag}"` }
}

class FolderStore implements FileStore {
  readonly driver = 'file' as const
  readonly #root: string
  readonly #temporary: string
  readonly #folders: DurableFolders
  readonly #uploads: FileUploads
  readonly #completing = new Map<string, Promise<unknown>>()
  readonly #now: () => number

  constructor(root: string, options: FileStoreOptions) {
    this.#root = root
    this.#temporary = join(root, '.timone', 'tmp')
    this.#folders = new DurableFolders(root)
    this.#uploads = new FileUploads(join(root, '.timone', 'uploads'), this.#folders, options.partStallMs)
    this.#now = options.now ?? Date.now
  }

  async head(key: string, options: { signal?: AbortSignal } = {}): Promise<ObjectInfo | undefined> {
    const path = this.#pathOf(key)
    if (options.signal?.aborted) throw abortError(options.signal)
    try {
      return await infoOf(path)
    } catch (error) {
      if (isAbsent(error)) return undefined
      throw fileError(error, `look up ${key}`)
    }
  }

  async get(key: string, options: GetOptions = {}): Promise<ObjectBody> {
    const { range, ifMatch, signal } = options
    const doing = `read ${key}`
    const path = this.#pathOf(key)
    if (signal?.aborted) throw abortError(signal)
    let handle: FileHandle
    try {
      handle = await open(path, 'r')
    } catch (error) {
      throw isAbsent(error) ? new TimoneError('not_found', `${key} is not there`) : fileError(error, doing)
    }
    try {
      const info = await infoOf(handle)
      if (info === undefined) throw new TimoneError('not_found', `${key} is not there`)
      if (ifMatch !== undefined && ifMatch !== info.etag) {
        throw new TimoneError('precondition_failed', `${key} is not the version that was asked for`)
      }
      if (range !== undefined && (range.start >= info.size || range.end < range.start)) {
        throw new TimoneError('invalid', `${key} has ${info.size} bytes, none of them in the range asked for`)
      }
      const end = range === undefined ? info.size : Math.min(range.end + 1, info.size)
      const body = new FileBody(handle, range?.start ?? 0, end, doing)
      if (signal !== undefined) {
        const onAbort = (): void => void body.destroy(abortError(signal))
        signal.addEventListener('abort', onAbort, { once: true })
        body.once('close', () => signal.removeEventListener('abort', onAbort))
      }
      return { ...info, body }
    } catch (error) {
      await handle.close()
      throw fileError(error, doing)
    }
  }

  async put(key: string, body: Readable, options: PutOptions): Promise<PutResult> {
    const { size, sha256, replace = false, signal } = options
    if (signal?.aborted) throw abortError(signal)
    if (!replace && (await this.#isThere(key, size))) return 'exists'
    const temporary = join(this.#temporary, randomBytes(16).toString('hex'))
    try {
      await this.#folders.ensure(this.#temporary)
      try {
        const handle = await open(temporary, 'wx')
        try {
          await writeBody(handle, body, { size, sha256, ...(signal === undefined ? {} : { signal }) })
        } finally {
          await handle.close()
        }
        return await this.#place(temporary, key, size, replace)
      } finally {
        await rm(temporary, { force: true })
      }
    } catch (error) {
      throw fileError(error, `store ${key}`)
    }
  }

  async createUpload(key: string, options: { size: number; partSize: number }): Promise<string> {
    segmentsOf(key)
    try {
      return await this.#uploads.create({ key, size: options.size, partSize: options.partSize })
    } catch (error) {
      if (error instanceof TypeError) throw error
      throw fileError(error, `start an upload of ${key}`)
    }
  }

  async putPart(
    ...[key, uploadId, number, body, options]: Parameters<ObjectStore['putPart']>
  ): ReturnType<ObjectStore['putPart']> {
    try {
      return await this.#uploads.put(key, uploadId, number, body, options)
    } catch (error) {
      throw fileError(error, `store part ${number} of ${key}`)
    }
  }

  async listParts(key: string, uploadId: string): ReturnType<ObjectStore['listParts']> {
    try {
      return await this.#uploads.list(key, uploadId)
    } catch (error) {
      throw fileError(error, `list the parts of ${key}`)
    }
  }

  async completeUpload(
    key: string,
    uploadId: string,
    options: { size: number; sha256: string; replace?: boolean },
  ): Promise<PutResult> {
    // One after the other: the second caller then finds the upload gone and the object there.
    const before = this.#completing.get(uploadId)
    const completing = (async () => {
      await before?.catch(() => {})
      return this.#complete(key, uploadId, options)
    })()
    this.#completing.set(uploadId, completing)
    try {
      return await completing
    } catch (error) {
      throw fileError(error, `complete the upload of ${key}`)
    } finally {
      if (this.#completing.get(uploadId) === completing) this.#completing.delete(uploadId)
    }
  }

  async abortUpload(key: string, uploadId: string): Promise<void> {
    try {
      await this.#completing.get(uploadId)?.catch(() => {})
      await this.#uploads.drop(key, uploadId)
    } catch (error) {
      throw fileError(error, `drop an upload of ${key}`)
    }
  }

  async remove(key: string): Promise<void> {
    const path = this.#pathOf(key)
    try {
      await unlink(path)
      await syncFolder(dirname(path))
    } catch (error) {
      if (!isAbsent(error)) throw fileError(error, `remove ${key}`)
    }
  }

  async *listObjects(prefix: string): AsyncGenerator<ListedObject> {
    const [...folders] = prefix.split('/').filter((name) => name !== '')
    try {
      yield* this.#walk(folders)
    } catch (error) {
      throw fileError(error, 'list the objects')
    }
  }

  async *#walk(folders: readonly string[]): AsyncGenerator<ListedObject> {
    const entries = await readdir(join(this.#root, ...folders), { withFileTypes: true }).catch(
      (error: unknown) => {
        // Removed meanwhile, or never made.
        if (isAbsent(error)) return []
        throw error
      },
    )
    for (const entry of entries.sort((a, b) => (a.name < b.name ? -1 : 1))) {
      // At the top: uploads and temporary files.
      if (entry.name.startsWith('.')) continue
      const names = [...folders, entry.name]
      if (entry.isDirectory()) yield* this.#walk(names)
      else {
        const info = await infoOf(join(this.#root, ...names)).catch(() => undefined)
        if (info !== undefined) yield { key: names.join('/'), size: info.size }
      }
    }
  }

  async *listUploads(prefix: string): ReturnType<ObjectStore['listUploads']> {
    try {
      yield* this.#uploads.all(prefix)
    } catch (error) {
      throw fileError(error, 'list the unfinished uploads')
    }
  }

  /** Does what storing an object takes: a new file, and a second name for it. */
  async check(options: { signal?: AbortSignal } = {}): Promise<void> {
    if (options.signal?.aborted) throw abortError(options.signal)
    const path = join(this.#temporary, `check-${randomBytes(16).toString('hex')}`)
    try {
      await this.#folders.ensure(this.#temporary)
      try {
        await (await open(path, 'wx')).close()
        await link(path, `${path}-link`)
      } finally {
        await rm(path, { force: true })
        await rm(`${path}-link`, { force: true })
      }
    } catch (error) {
      throw fileError(error, 'use the storage folder')
    }
  }

  async sweep(olderThanMs: number = STALE_AFTER_MS): Promise<number> {
    const before = this.#now() - olderThanMs
    let swept = 0
    try {
      for (const name of await readdir(this.#temporary).catch(() => [])) {
        const path = join(this.#temporary, name)
        const stats = await stat(path).catch(() => undefined)
        if (stats === undefined || stats.mtimeMs >= before) continue
        await rm(path, { force: true })
        swept++
      }
      return swept + (await this.#uploads.sweep(before))
    } catch (error) {
      throw fileError(error, 'tidy up the storage folder')
    }
  }

  async #complete(
    key: string,
    uploadId: string,
    { size, sha256, replace = false }: { size: number; sha256: string; replace?: boolean },
  ): Promise<PutResult> {
    try {
      const plan = await this.#uploads.plan(key, uploadId)
      if (plan.size !== size) {
        throw new TimoneError('size_mismatch', `the upload is of ${plan.size} bytes, not of ${size}`)
      }
      if (!replace && (await this.#isThere(key, size))) {
        await this.#uploads.drop(key, uploadId)
        return 'exists'
      }
      return await this.#uploads.complete(key, uploadId, sha256, (path) =>
        this.#place(path, key, size, replace),
      )
    } catch (error) {
      // The answer to the first call may have been lost on its way.
      if (isTimoneError(error, 'no_such_upload') && (await this.head(key))?.size === size) return 'exists'
      throw error
    }
  }

  /** True: an object of that size is there. @throws `conflict` when one of another size is */
  async #isThere(key: string, size: number): Promise<boolean> {
    const there = await this.head(key)
    if (there === undefined) return false
    if (there.size === size) return true
    throw new TimoneError(
      'conflict',
      `${key} is there with ${there.size} bytes instead of ${size}: it is damaged`,
    )
  }

  /** Gives the flushed file at `path` its key as a name, so that it survives a power cut. */
  async #place(path: string, key: string, size: number, replace: boolean): Promise<PutResult> {
    const target = this.#pathOf(key)
    const folder = dirname(target)
    for (let again = false; ; again = true) {
      await this.#folders.ensure(folder)
      try {
        if (replace) await rename(path, target)
        else {
          await link(path, target)
          await unlink(path)
        }
        await syncFolder(folder)
        return 'created'
      } catch (error) {
        const code = systemCode(error)
        if (code === 'EEXIST' && (await this.#isThere(key, size))) return 'exists'
        if (code !== 'ENOENT' || again) throw error
        // The folder was there a moment ago: someone removed it by hand.
        this.#folders.forget()
      }
    }
  }

  #pathOf(key: string): string {
    return join(this.#root, ...segmentsOf(key))
  }
}
