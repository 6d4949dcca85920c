import { statSync } from 'node:fs'
import { chmod, copyFile, link, mkdir, readFile, rename, stat, unlink } from 'node:fs/promises'
import { dirname, isAbsolute, join, resolve } from 'node:path'
import { isTimoneError, systemCode } from '../errors.ts'
import type { Oid } from '../oid.ts'
import { folderError } from './resume-store.ts'

/** The objects of a clone: `<storage>/objects/aa/bb/<oid>`, laid out as git-lfs does. */
export class LfsObjects {
  readonly storage: string
  readonly #mode: number | undefined
  readonly #references: readonly string[]
  /** Folders that are known to be there. */
  readonly #folders = new Map<string, Promise<void>>()

  /**
   * `mode`: permission bits that `core.sharedRepository` asks for. `references`: folders like `<storage>/objects` of
   * repositories that this one borrows from.
   */
  constructor(storage: string, options: { mode: number | undefined; references: readonly string[] }) {
    this.storage = storage
    this.#mode = options.mode
    this.#references = options.references
  }

  pathOf(oid: Oid): string {
    return join(this.storage, 'objects', oid.slice(0, 2), oid.slice(2, 4), oid)
  }

  /** Size in bytes of the object here; undefined when it is not. Blocks: thousands are asked for at a time. */
  sizeOf(oid: Oid): number | undefined {
    const found = statSync(this.pathOf(oid), { throwIfNoEntry: false })
    return found?.isFile() === true ? found.size : undefined
  }

  /** True when the object is here whole, or could be linked or copied from where this repository borrows. */
  async borrow(oid: Oid, size: number): Promise<boolean> {
    for (const folder of this.#references) {
      const there = join(folder, oid.slice(0, 2), oid.slice(2, 4), oid)
      const found = await stat(there).catch(() => undefined)
      if (found?.isFile() !== true || found.size !== size) continue
      const path = this.pathOf(oid)
      await this.#makeFolder(dirname(path))
      try {
        await link(there, path)
      } catch (error) {
        if (systemCode(error) === 'EEXIST') return true
        // Another file system, or one without links: a copy, which appears only whole.
        const temporary = `${path}.${process.pid}.tmp`
        try {
          await copyFile(there, temporary)
          await rename(temporary, path)
        } catch {
          await unlink(temporary).catch(() => {})
          continue
        }
      }
      return true
    }
    return false
  }

  get borrows(): boolean {
    return this.#references.length > 0
  }

  /** Moves a finished, verified file in. Another process that was quicker is as good. */
  async adopt(path: string, oid: Oid): Promise<void> {
    const target = this.pathOf(oid)
    try {
      await this.#makeFolder(dirname(target))
      await rename(path, target)
    } catch (error) {
      // Windows does not rename onto a file that somebody reads: an object that is there is the same object.
      if (this.sizeOf(oid) !== undefined) {
        await unlink(path).catch(() => {})
        return
      }
      throw isTimoneError(error) ? error : folderError(error, dirname(target))
    }
  }

  #makeFolder(folder: string): Promise<void> {
    const known = this.#folders.get(folder)
    if (known !== undefined) return known
    const making = this.#make(folder)
    this.#folders.set(folder, making)
    making.catch(() => this.#folders.delete(folder))
    return making
  }

  async #make(folder: string): Promise<void> {
    const first = await mkdir(folder, { recursive: true })
    if (first === undefined || this.#mode === undefined) return
    // Who may read may enter; the group's folders keep its group.
    const mode = (this.#mode | ((this.#mode & 0o444) >> 2) | 0o2000) & 0o2777
    for (let at = folder; at.length >= first.length; at = dirname(at)) await chmod(at, mode).catch(() => {})
  }
}

/**
 * Folders like `<storage>/objects` of the repositories that git borrows objects from: `objects/info/alternates` and
 * GIT_ALTERNATE_OBJECT_DIRECTORIES, as git-lfs reads them (fs/fs.go).
 */
export async function referenceFolders(gitCommonDir: string, env: NodeJS.ProcessEnv): Promise<string[]> {
  const objects = join(gitCommonDir, 'objects')
  const text = await readFile(join(objects, 'info', 'alternates'), 'utf8').catch(() => '')
  const lines = text.split(/\r?\n/).filter((line) => line !== '' && !line.startsWith('#'))
  const variable = env.GIT_ALTERNATE_OBJECT_DIRECTORIES ?? ''
  const separator = process.platform === 'win32' ? ';' : ':'
  return [...lines, ...variable.split(separator)]
    .map((line) => (line.startsWith('"') ? unquote(line) : line))
    .filter((line) => line !== '')
    .map((line) => join(isAbsolute(line) ? line : resolve(objects, line), '..', 'lfs', 'objects'))
}

/** A path that git has put in quotes, in the manner of C. */
function unquote(line: string): string {
  try {
    return JSON.parse(
      line.replace(
        /\\([0-7]{3})/g,
        (_, octal: string) => `\\u00${Number.parseInt(octal, 8).toString(16).padStart(2, '0')}`,
      ),
    )
  } catch {
    return ''
  }
}
