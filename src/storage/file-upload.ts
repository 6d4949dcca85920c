import { createHash, randomBytes } from 'node:crypto'
import { open, readdir, readFile, rm, stat, unlink } from 'node:fs/promises'
import { join } from 'node:path'
import type { Readable } from 'node:stream'
import { TimoneError } from '../errors.ts'
import { syncFolder } from '../sync-folder.ts'
import { type DurableFolders, writeBody, writeSmallFile } from './durable-file.ts'
import { isAbsent } from './file-errors.ts'
import type { StoredPart, UnfinishedUpload } from './object-store.ts'
import { PartLocks } from './part-locks.ts'

/** What an upload was started for. */
export interface UploadPlan {
  key: string
  /** Bytes of the whole object. */
  size: number
  /** Bytes of every part but the last. */
  partSize: number
}

const ID = /^[0-9a-f]{32}$/
const MARKER = /^[1-9]\d{0,4}$/
/** As S3 has it, so that a client's plan fits both drivers. */
const MAX_PARTS = 10_000
const CHUNK = 2 ** 20

const gone = (): TimoneError =>
  new TimoneError('no_such_upload', 'no such upload: it was completed or dropped, or it is too old')

/** Number of parts; an empty object is one empty part. */
function partCount({ size, partSize }: UploadPlan): number {
  return Math.max(1, Math.ceil(size / partSize))
}

function partBytes(plan: UploadPlan, number: number): number {
  return Math.min(plan.partSize, plan.size - (number - 1) * plan.partSize)
}

/**
 * Multipart uploads on disk. `<folder>/<id>/` holds `meta.json` (the plan), `data` (the object, sparse until its parts
 * are there) and `parts/<number>`, an empty file that says that this part is on the disk: the bytes are flushed before
 * it appears, and it goes before they are written anew. One server process per storage folder.
 */
export class FileUploads {
  readonly #folder: string
  readonly #folders: DurableFolders
  readonly #locks: PartLocks

  constructor(folder: string, folders: DurableFolders, stallMs?: number) {
    this.#folder = folder
    this.#folders = folders
    this.#locks = new PartLocks(stallMs)
  }

  /** Starts an upload and gives its id: 128 random bits. */
  async create(plan: UploadPlan): Promise<string> {
    if (!Number.isSafeInteger(plan.size) || plan.size < 0) throw new TypeError('size must be a whole number')
    if (!Number.isSafeInteger(plan.partSize) || plan.partSize < 1)
      throw new TypeError('partSize must be positive')
    if (partCount(plan) > MAX_PARTS) {
      throw new TimoneError('invalid', `an upload has at most ${MAX_PARTS} parts; choose larger ones`)
    }
    const id = randomBytes(16).toString('hex')
    const at = join(this.#folder, id)
    try {
      await this.#folders.ensure(join(at, 'parts'))
      const data = await open(join(at, 'data'), 'wx')
      try {
        await data.truncate(plan.size)
        await data.sync()
      } finally {
        await data.close()
      }
      await writeSmallFile(join(at, 'meta.json'), JSON.stringify(plan))
      await syncFolder(at)
    } catch (error) {
      await rm(at, { recursive: true, force: true })
      throw error
    }
    return id
  }

  /** The plan of an upload. @throws `no_such_upload`, also for an id of another key and for what cannot be an id */
  async plan(key: string, id: string): Promise<UploadPlan> {
    const text = await readFile(join(this.#at(id), 'meta.json'), 'utf8').catch((error: unknown) => {
      throw isAbsent(error) ? gone() : error
    })
    const plan = JSON.parse(text) as UploadPlan
    if (plan.key !== key) throw gone()
    return plan
  }

  /** Writes one part where it belongs; the part counts only when all its bytes are on the disk. */
  async put(
    key: string,
    id: string,
    number: number,
    body: Readable,
    options: { size: number; signal?: AbortSignal },
  ): Promise<StoredPart> {
    const plan = await this.plan(key, id)
    const count = partCount(plan)
    if (!Number.isSafeInteger(number) || number < 1 || number > count) {
      throw new TimoneError('invalid', `this upload has parts 1 to ${count}`)
    }
    const size = partBytes(plan, number)
    if (options.size !== size) {
      throw new TimoneError('size_mismatch', `part ${number} must have ${size} bytes, not ${options.size}`)
    }
    const lock = await this.#locks.take(id, number, options.signal)
    try {
      await this.#unmark(id, number)
      const offset = (number - 1) * plan.partSize
      await this.#write(id, body, { size, offset, onProgress: lock.progress, signal: lock.signal })
      await this.#mark(id, number)
    } catch (error) {
      throw isAbsent(error) ? gone() : error
    } finally {
      lock.release()
    }
    return this.#stored(plan, id, number)
  }

  /** The parts that are on the disk, ascending. */
  async list(key: string, id: string): Promise<StoredPart[]> {
    const plan = await this.plan(key, id)
    const names = await readdir(join(this.#at(id), 'parts')).catch((error: unknown) => {
      throw isAbsent(error) ? gone() : error
    })
    return names
      .filter((name) => MARKER.test(name))
      .map(Number)
      .filter((number) => number <= partCount(plan))
      .sort((a, b) => a - b)
      .map((number) => this.#stored(plan, id, number))
  }

  /**
   * Ends an upload: checks that every part is there, reads the data once to check its hash, hands its path to `place`
   * and drops the upload. While this goes on no part can be written. Bytes of another hash drop the upload too:
   * which of the parts is wrong cannot be told.
   */
  async complete<T>(
    key: string,
    id: string,
    sha256: string,
    place: (path: string) => Promise<T>,
  ): Promise<T> {
    await this.#demandAllParts(key, id)
    await this.#locks.shut(id)
    try {
      // Again: a writer that was stopped just now had taken its part's marker away.
      await this.#demandAllParts(key, id)
      const path = join(this.#at(id), 'data')
      const found = await hashOf(path)
      if (found !== sha256) {
        await this.#remove(id)
        throw new TimoneError(
          'hash_mismatch',
          `the parts together have SHA-256 ${found}, expected was ${sha256}`,
        )
      }
      const placed = await place(path)
      await this.#remove(id)
      return placed
    } finally {
      this.#locks.reopen(id)
    }
  }

  /** Removes an upload and its parts; an unknown id is no error. */
  async drop(key: string, id: string): Promise<void> {
    try {
      await this.plan(key, id)
    } catch (error) {
      if (error instanceof TimoneError && error.code === 'no_such_upload') return
      throw error
    }
    await this.#locks.shut(id)
    try {
      await this.#remove(id)
    } finally {
      this.#locks.reopen(id)
    }
  }

  /** All uploads whose key begins with `prefix`. */
  async *all(prefix: string): AsyncGenerator<UnfinishedUpload> {
    for (const id of await readdir(this.#folder).catch(() => [])) {
      if (!ID.test(id)) continue
      try {
        const meta = join(this.#at(id), 'meta.json')
        const { key } = JSON.parse(await readFile(meta, 'utf8')) as UploadPlan
        // Written once, when the upload began.
        if (key.startsWith(prefix)) yield { key, uploadId: id, startedAt: (await stat(meta)).mtime }
      } catch (error) {
        // Being begun or dropped just now.
        if (!isAbsent(error) && !(error instanceof SyntaxError)) throw error
      }
    }
  }

  /** Removes uploads that nothing was written to since `before` (milliseconds since the epoch); gives their number. */
  async sweep(before: number): Promise<number> {
    let swept = 0
    for (const id of await readdir(this.#folder).catch(() => [])) {
      const at = join(this.#folder, id)
      const times = await Promise.all(
        [at, join(at, 'data'), join(at, 'parts')].map((path) =>
          stat(path)
            .then((s) => s.mtimeMs)
            .catch(() => 0),
        ),
      )
      if (!ID.test(id) || Math.max(...times) >= before) continue
      await this.#locks.shut(id)
      try {
        await this.#remove(id)
      } finally {
        this.#locks.reopen(id)
      }
      swept++
    }
    return swept
  }

  #at(id: string): string {
    if (!ID.test(id)) throw gone()
    return join(this.#folder, id)
  }

  #stored(plan: UploadPlan, id: string, number: number): StoredPart {
    return { number, size: partBytes(plan, number), etag: `"${id.slice(0, 8)}-${number}"` }
  }

  async #write(
    id: string,
    body: Readable,
    options: { size: number; offset: number; onProgress: () => void; signal: AbortSignal },
  ): Promise<void> {
    const data = await open(join(this.#at(id), 'data'), 'r+')
    try {
      // A second name means that a crash came between placing the object and dropping the upload: writing here
      // would write into the finished object.
      if ((await data.stat()).nlink !== 1) throw gone()
      await writeBody(data, body, options)
    } finally {
      // Waits for a write still on its way, so that nothing is written after the lock is given back.
      await data.close()
    }
  }

  async #mark(id: string, number: number): Promise<void> {
    const parts = join(this.#at(id), 'parts')
    await (await open(join(parts, String(number)), 'w')).close()
    await syncFolder(parts)
  }

  async #unmark(id: string, number: number): Promise<void> {
    const parts = join(this.#at(id), 'parts')
    try {
      await unlink(join(parts, String(number)))
    } catch (error) {
      if (isAbsent(error)) return
      throw error
    }
    await syncFolder(parts)
  }

  async #demandAllParts(key: string, id: string): Promise<void> {
    const there = (await this.list(key, id)).length
    const count = partCount(await this.plan(key, id))
    if (there !== count) throw new TimoneError('size_mismatch', `${there} of ${count} parts are there`)
  }

  async #remove(id: string): Promise<void> {
    const at = this.#at(id)
    // First the plan: without it the upload is unknown, whatever else is still there.
    await rm(join(at, 'meta.json'), { force: true })
    await rm(at, { recursive: true, force: true })
  }
}

async function hashOf(path: string): Promise<string> {
  const hash = createHash('sha256')
  const handle = await open(path, 'r')
  try {
    const buffer = Buffer.allocUnsafe(CHUNK)
    for (;;) {
      const { bytesRead } = await handle.read(buffer, 0, CHUNK, null)
      if (bytesRead === 0) return hash.digest('hex')
      hash.update(buffer.subarray(0, bytesRead))
    }
  } finally {
    await handle.close()
  }
}
