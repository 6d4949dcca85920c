import { createHash, randomBytes } from 'node:crypto'
import { access, open, rename, rm, utimes } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { promisify } from 'node:util'
import { deflate, deflateSync } from 'node:zlib'
import { systemCode } from '../errors.ts'
import { DurableFolders } from '../storage/durable-file.ts'
import { fileError } from '../storage/file-errors.ts'
import { syncFolder } from '../sync-folder.ts'

const deflateElsewhere = promisify(deflate)
/** Smaller ones are compressed at once: handing them to a thread takes longer. */
const SMALL = 32 * 1024

export type ObjectType = 'blob' | 'tree' | 'commit'

/** An object that is not written yet. */
export interface NewObject {
  readonly oid: string
  readonly type: ObjectType
  readonly content: Buffer
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

  /** Each object into a temporary file, flushed, then renamed; then each folder is flushed once. */
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
    const folders = new Set<string>()
    await Promise.all(
      objects.map(async (object) => {
        const path = join(this.#objects, object.oid.slice(0, 2), object.oid.slice(2))
        await this.#writeOne(path, object)
        folders.add(dirname(path))
      }),
    )
    await Promise.all([...folders].map(syncFolder))
  }

  async #writeOne(path: string, { type, content }: NewObject): Promise<void> {
    if (await freshen(path)) return
    const folder = dirname(path)
    await this.#folders.ensure(folder)
    const whole = Buffer.concat([header(type, content), content])
    const packed =
      whole.length < SMALL ? deflateSync(whole, { level: 1 }) : await deflateElsewhere(whole, { level: 1 })
    // A name that git itself tidies up, should we be killed.
    const temporary = join(folder, `tmp_obj_${randomBytes(8).toString('hex')}`)
    try {
      const handle = await open(temporary, 'wx', 0o444)
      try {
        await handle.writeFile(packed)
        await handle.sync()
      } finally {
        await handle.close()
      }
      await rename(temporary, path)
    } catch (error) {
      await rm(temporary, { force: true })
      throw error
    }
  }
}

/** Tries while housekeeping removes folders under our hands. */
const TRIES = 50

/** True when the object is there; it then counts as new, so that no pruning takes what we are about to refer to. */
async function freshen(path: string): Promise<boolean> {
  try {
    await access(path)
    const now = new Date()
    await utimes(path, now, now)
    return true
  } catch {
    return false
  }
}

function header(type: ObjectType, content: Buffer): Buffer {
  return Buffer.from(`${type} ${content.length}\0`)
}
