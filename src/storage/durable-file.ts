import { type FileHandle, mkdir, open } from 'node:fs/promises'
import { IncomingMessage } from 'node:http'
import { dirname } from 'node:path'
import { type Readable, Writable } from 'node:stream'
import { systemCode } from '../errors.ts'
import { syncFolder } from '../sync-folder.ts'
import { failureOf, HashCheck } from './hash-check.ts'
import { pour } from './pour.ts'

/**
 * Creates folders so that they survive a power cut, and remembers which are known to, so that each costs once.
 * It flushes the parent even when another caller made the folder: that caller may not have come so far yet.
 */
export class DurableFolders {
  readonly #durable = new Set<string>()
  readonly #root: string
  readonly #max: number

  /** `root`: absolute path; where it is there already, folders above it are none of our business. */
  constructor(root: string, max = 10_000) {
    this.#root = root
    this.#max = max
  }

  async ensure(folder: string): Promise<void> {
    if (this.#durable.has(folder)) return
    const parent = dirname(folder)
    if (await this.#make(folder, parent)) await syncFolder(parent)
    if (this.#durable.size >= this.#max) this.#durable.clear()
    this.#durable.add(folder)
  }

  /** True unless the parent need not be flushed. */
  async #make(folder: string, parent: string): Promise<boolean> {
    // Nobody else comes through the root, and what lies above it is there for it alone.
    const mode = this.#root.startsWith(folder) ? 0o700 : 0o777
    try {
      await mkdir(folder, { mode })
      return true
    } catch (error) {
      const code = systemCode(error)
      if (code === 'EEXIST') return folder !== this.#root
      if (code !== 'ENOENT' || parent === folder) throw error
    }
    this.#durable.delete(parent)
    await this.ensure(parent)
    // `recursive`: another caller may have made it meanwhile.
    await mkdir(folder, { recursive: true, mode })
    return true
  }

  /** To be called when a folder turns out to be gone: someone tidied up behind our back. */
  forget(): void {
    this.#durable.clear()
  }
}

/** Writes to an open file from `offset` on, several chunks in one system call where they have piled up. */
class FileSink extends Writable {
  readonly #handle: FileHandle
  readonly #check: HashCheck
  readonly #onProgress: (() => void) | undefined
  readonly #owned: boolean
  #offset: number

  constructor(handle: FileHandle, check: HashCheck, options: WriteBodyOptions, owned: boolean) {
    super({ highWaterMark: 256 * 1024 })
    this.#handle = handle
    this.#check = check
    this.#offset = options.offset ?? 0
    this.#onProgress = options.onProgress
    this.#owned = owned
  }

  override _write(chunk: Buffer, _encoding: BufferEncoding, done: (error?: Error | null) => void): void {
    this.#store([chunk]).then(() => done(), done)
  }

  override _writev(items: { chunk: Buffer }[], done: (error?: Error | null) => void): void {
    this.#store(items.map((item) => item.chunk)).then(() => done(), done)
  }

  override _final(done: (error?: Error | null) => void): void {
    done(failureOf(() => this.#check.finish()))
  }

  async #store(chunks: Buffer[]): Promise<void> {
    // Before anything is written: bytes behind the announced end belong to the next part.
    for (const chunk of chunks) this.#check.update(chunk)
    let left = chunks.filter((chunk) => chunk.byteLength > 0)
    while (left.length > 0) {
      const { bytesWritten } = await this.#handle.writev(left, this.#offset)
      this.#offset += bytesWritten
      left = behind(left, bytesWritten)
    }
    if (this.#owned) for (const chunk of chunks) free(chunk)
    this.#onProgress?.()
  }
}

/**
 * Gives the memory of a chunk back at once. The collector does not count such memory, and so lets a hundred MiB of it
 * pile up under 8 fast uploads before it looks.
 */
function free(chunk: Buffer): void {
  const { buffer, byteLength } = chunk
  // Not one that shares its memory with others (Buffer.poolSize).
  if (buffer instanceof ArrayBuffer && byteLength > 0 && buffer.byteLength === byteLength) buffer.transfer(0)
}

/** What is left of `chunks` without their first `count` bytes. */
function behind(chunks: Buffer[], count: number): Buffer[] {
  let skip = count
  const left: Buffer[] = []
  for (const chunk of chunks) {
    if (skip >= chunk.byteLength) skip -= chunk.byteLength
    else {
      left.push(skip === 0 ? chunk : chunk.subarray(skip))
      skip = 0
    }
  }
  return left
}

export interface WriteBodyOptions {
  size: number
  sha256?: string
  /** Where in the file the first byte goes. */
  offset?: number
  /** Called after each write to the file. */
  onProgress?: () => void
  signal?: AbortSignal
}

/**
 * Streams `body` into an open file, with back-pressure and constant memory, and flushes it to the disk. The chunks of a
 * request's body are of no use to anyone else afterwards.
 * The caller closes `handle`, which waits for a write still on its way.
 * @throws `size_mismatch`, `hash_mismatch`, `connection`, `cancelled`, or the file system's own error
 */
export async function writeBody(
  handle: FileHandle,
  body: Readable,
  options: WriteBodyOptions,
): Promise<void> {
  const check = new HashCheck({ size: options.size, sha256: options.sha256 })
  // node:http makes a copy of each chunk of a body, for whoever reads it.
  const sink = new FileSink(handle, check, options, body instanceof IncomingMessage)
  await pour(body, sink, options.signal)
  await handle.datasync()
}

/** Creates a small file and flushes it; the caller flushes the folder. Fails when the file is there already. */
export async function writeSmallFile(path: string, content: string): Promise<void> {
  const handle = await open(path, 'wx')
  try {
    await handle.writeFile(content)
    await handle.sync()
  } finally {
    await handle.close()
  }
}
