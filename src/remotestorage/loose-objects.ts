import { createHash, randomBytes } from 'node:crypto'
import { closeSync, existsSync, fsync, open, write } from 'node:fs'
import { rename, rm, utimes } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { promisify } from 'node:util'
import { deflate, deflateSync } from 'node:zlib'
import { systemCode } from '../errors.ts'
import { DurableFolders } from '../storage/durable-file.ts'
import { fileError } from '../storage/file-errors.ts'
import { syncFolder } from '../sync-folder.ts'

const deflateElsewhere = promisify(deflate)
const openFile = promisify(open)
const writeFile = promisify(write)
const flushFile = promisify(fsync)

const FAST = { level: 1, chunkSize: 64 * 1024 }
/** Up to here compressing takes less than a millisecond: handing it to a thread would take longer. */
const SMALL = 128 * 1024
/** Bytes that take one block of the disk either way, and are not compressed: packing will do that. */
const TINY = 4000

export type ObjectType = 'blob' | 'tree' | 'commit'

/** An object that is not written yet. */
export interface NewObject {
  readonly oid: string
  readonly type: ObjectType
  readonly content: Buffer
}

/** A file that is flushed, and where it belongs. */
interface Staged {
  readonly temporary: string
  readonly path: string
}

/** Gives an object its name: SHA-1 of `<type> <length> NUL <content>` (gitformat-loose). */
export function makeObject(type: ObjectType, content: Buffer): NewObject {
  const oid = createHash('sha1').update(header(type, content)).update(content).digest('hex')
  return { oid, type, content }
}

/** Writes loose objects into a bare repository, so that they survive a power cut before anything refers to them. */
export class LooseObjects {
  readonly #objects: string
  readonly #folders: DurableFolders

  /** `gitDir`: absolute path of the repository. */
  constructor(gitDir: string) {
    this.#objects = join(gitDir, 'objects')
    this.#folders = new DurableFolders(this.#objects)
  }

  /**
   * Each object into a temporary file, flushed; then all are renamed, in their order; then each folder is flushed once.
   * `objects`: what others refer to comes before them.
   */
  async write(objects: readonly NewObject[]): Promise<void> {
    for (let tries = 1; ; tries++) {
      try {
        await this.#writeAll(objects)
        return
      } catch (error) {
        if (systemCode(error) !== 'ENOENT' || tries === TRIES) throw fileError(error, 'write to the storage')
        // Housekeeping has removed a folder that became empty. It goes through all 256 of them, and may meet us again.
        this.#folders.forget()
      }
    }
  }

  async #writeAll(objects: readonly NewObject[]): Promise<void> {
    const staged = await Promise.allSettled(objects.map((object) => this.#stage(object)))
    const waiting = staged.flatMap((one) => (one.status === 'fulfilled' ? one.value : []))
    try {
      const failed = staged.find(({ status }) => status === 'rejected')
      if (failed?.status === 'rejected') throw failed.reason
      // One after another: killed on the way, we leave nothing that refers to what is not there.
      for (const { temporary, path } of waiting) await rename(temporary, path)
    } catch (error) {
      await Promise.all(waiting.map(({ temporary }) => rm(temporary, { force: true })))
      throw error
    }
    const folders = new Set(objects.map(({ oid }) => dirname(this.#path(oid))))
    await Promise.all([...folders].map(syncFolder))
  }

  /** Writes an object under another name. Nothing is waiting when it is there already. */
  async #stage({ oid, type, content }: NewObject): Promise<Staged[]> {
    const path = this.#path(oid)
    if (await freshen(path)) return []
    const folder = dirname(path)
    await this.#folders.ensure(folder)
    const whole = Buffer.concat([header(type, content), content])
    const packed = whole.length <= TINY ? store(whole) : await pack(whole)
    // A name that git itself tidies up, should we be killed.
    const temporary = join(folder, `tmp_obj_${randomBytes(8).toString('hex')}`)
    try {
      await writeFlushed(temporary, packed)
      return [{ temporary, path }]
    } catch (error) {
      await rm(temporary, { force: true })
      throw error
    }
  }

  #path(oid: string): string {
    return join(this.#objects, oid.slice(0, 2), oid.slice(2))
  }
}

/** Tries while housekeeping removes folders under our hands. */
const TRIES = 50

/** True when the object is there; it then counts as new, so that no pruning takes what we are about to refer to. */
async function freshen(path: string): Promise<boolean> {
  // Hardly ever is, and a promise that fails costs more than this look.
  if (!existsSync(path)) return false
  try {
    const now = new Date()
    await utimes(path, now, now)
    return true
  } catch {
    return false
  }
}

/** A new read-only file, on the disk when this resolves. File handles (node:fs/promises) cost more. */
async function writeFlushed(path: string, bytes: Buffer): Promise<void> {
  const file = await openFile(path, 'wx', 0o444)
  try {
    for (let at = 0; at < bytes.length; ) at += (await writeFile(file, bytes, at)).bytesWritten
    await flushFile(file)
  } finally {
    closeSync(file)
  }
}

async function pack(bytes: Buffer): Promise<Buffer> {
  return bytes.length <= SMALL ? deflateSync(bytes, FAST) : deflateElsewhere(bytes, FAST)
}

/** The zlib format without compression (RFC 1950; RFC 1951, section 3.2.4), for up to 65 535 bytes. */
function store(bytes: Buffer): Buffer {
  const out = Buffer.allocUnsafe(bytes.length + 11)
  // Header, then one block that is the last and stored, with its length and the complement.
  out.writeUInt16BE(0x7801, 0)
  out[2] = 1
  out.writeUInt16LE(bytes.length, 3)
  out.writeUInt16LE(~bytes.length & 0xffff, 5)
  bytes.copy(out, 7)
  out.writeUInt32BE(adler32(bytes), bytes.length + 7)
  return out
}

/** RFC 1950, section 8.2; the sums stay far below 2^53 for what is stored. */
function adler32(bytes: Buffer): number {
  let a = 1
  let b = 0
  for (const byte of bytes) {
    a += byte
    b += a
  }
  return (((b % 65_521) << 16) | (a % 65_521)) >>> 0
}

function header(type: ObjectType, content: Buffer): Buffer {
  return Buffer.from(`${type} ${content.length}\0`)
}
