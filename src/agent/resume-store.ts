import { mkdir, open, readdir, readFile, rename, rm, stat, unlink } from 'node:fs/promises'
import { hostname } from 'node:os'
import { join } from 'node:path'
import { systemCode, TimoneError } from '../errors.ts'
import type { Oid } from '../oid.ts'

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
}

/** What is older, milliseconds, is rubbish: nobody comes back for it, and the bucket's lifecycle rule has run. */
const STALE = 14 * 24 * 3600 * 1000

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

  constructor(lfsStorage: string) {
    this.folder = join(lfsStorage, 'timone')
    this.#host = hostname().replace(/[^A-Za-z0-9-]/g, '_')
  }

  /** Makes the folder, and drops what was left behind long ago. */
  async prepare(): Promise<void> {
    this.#prepared ??= (async () => {
      await mkdir(this.folder, { recursive: true }).catch((error: unknown) => {
        throw folderError(error, this.folder)
      })
      await this.#sweep().catch(() => {
        // Another process may be sweeping too; what stays is found next time.
      })
    })()
    return this.#prepared
  }

  /** Path for this process's download of `oid`, continuing a file that a dead process left. */
  async claimPartial(oid: Oid): Promise<string> {
    await this.prepare()
    const mine = join(this.folder, `${oid}.${this.#host}.${process.pid}.part`)
    for (const name of await readdir(this.folder)) {
      const match = PARTIAL.exec(name)
      if (match === null || match[1] !== oid || match[2] !== this.#host) continue
      const pid = Number(match[3])
      if (pid === process.pid || isAlive(pid)) continue
      try {
        await rename(join(this.folder, name), mine)
        return mine
      } catch {
        // Somebody else was quicker: begin anew.
      }
    }
    return mine
  }

  /** The state of an earlier upload of `oid` to `target`; undefined when there is none or it cannot be used. */
  async readUpload(
    oid: Oid,
    { target, size, mtimeMs }: Pick<UploadState, 'target' | 'size' | 'mtimeMs'>,
  ): Promise<UploadState | undefined> {
    try {
      const state = JSON.parse(await readFile(this.#uploadPath(oid), 'utf8')) as UploadState
      const usable =
        state.version === 1 &&
        state.target === target &&
        state.size === size &&
        state.mtimeMs === mtimeMs &&
        Number.isSafeInteger(state.partSize) &&
        state.partSize > 0 &&
        typeof state.uploadId === 'string' &&
        state.uploadId !== ''
      return usable ? state : undefined
    } catch {
      // Absent or damaged: the upload begins anew.
      return undefined
    }
  }

  async writeUpload(oid: Oid, state: UploadState): Promise<void> {
    await this.prepare()
    const path = this.#uploadPath(oid)
    const temporary = `${path}.${process.pid}.tmp`
    try {
      const file = await open(temporary, 'w', 0o600)
      try {
        await file.writeFile(JSON.stringify(state))
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

  async dropUpload(oid: Oid): Promise<void> {
    await rm(this.#uploadPath(oid), { force: true }).catch(() => {})
  }

  #uploadPath(oid: Oid): string {
    return join(this.folder, `${oid}.upload.json`)
  }

  async #sweep(): Promise<void> {
    const limit = Date.now() - STALE
    for (const name of await readdir(this.folder)) {
      if (!/\.(part|json|tmp)$/.test(name)) continue
      const path = join(this.folder, name)
      if ((await stat(path)).mtimeMs < limit) await rm(path, { force: true })
    }
  }
}

const PARTIAL = /^([0-9a-f]{64})\.([A-Za-z0-9_-]+)\.(\d+)\.part$/

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0)
    return true
  } catch (error) {
    // EPERM: it lives, and belongs to somebody else.
    return systemCode(error) === 'EPERM'
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
