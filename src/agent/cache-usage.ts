import { constants } from 'node:fs'
import { open, rename, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { lstatPath, openFolder, READ_FLAGS } from './cache-folder.ts'
import { temporaryName } from './cache-temporary.ts'

const { O_RDWR, O_APPEND, O_CREAT, O_NOFOLLOW = 0, O_NONBLOCK = 0 } = constants

/** Name of the tally at the cache's top. */
const NAME = 'usage'
/** A tally that is longer is counted anew, bytes. */
const MAX_LENGTH = 64 * 1024
/** A tally is believed for a day, milliseconds: appends of two machines at once may lose one of them. */
const MAX_AGE = 24 * 3600 * 1000

/**
 * How many bytes lie in the cache, as far as is known without looking at each entry: a first line with what a walk has
 * counted and when, then one line for each lot that a process has added since. Only ever an estimate: it decides when
 * to look, never what to remove.
 */
export class CacheUsage {
  readonly #root: string

  constructor(root: string) {
    this.#root = root
  }

  /**
   * Adds to the tally.
   * @returns bytes in the cache; undefined where only a walk can tell
   * @throws the file system's own error
   */
  async add(bytes: number): Promise<number | undefined> {
    const flags = O_RDWR | O_APPEND | O_CREAT | O_NOFOLLOW | O_NONBLOCK
    const file = await open(join(this.#root, NAME), flags, 0o666)
    try {
      await file.write(`${bytes}\n`)
      const found = await file.stat()
      if (!found.isFile() || found.size > MAX_LENGTH) return undefined
    } finally {
      await file.close()
    }
    return sum(await this.#read())
  }

  async #read(): Promise<string> {
    const file = await open(join(this.#root, NAME), READ_FLAGS)
    try {
      const { buffer, bytesRead } = await file.read(Buffer.alloc(2 * MAX_LENGTH), 0, 2 * MAX_LENGTH, 0)
      return buffer.toString('latin1', 0, bytesRead)
    } finally {
      await file.close()
    }
  }

  /** How long the tally is now: what stands behind it later was added meanwhile. */
  async mark(): Promise<number> {
    return (await lstatPath(join(this.#root, NAME)).catch(() => undefined))?.size ?? 0
  }

  /**
   * Begins a new tally with what a walk has found. What others have added since `mark` is counted once more, in case the
   * walk has missed it.
   * @throws the file system's own error
   */
  async reset(bytes: number, mark: number): Promise<void> {
    const meanwhile = (await this.#read().catch(() => '')).slice(mark)
    const folder = await openFolder(this.#root, ['tmp'], true)
    try {
      const temporary = `${folder.path}/${temporaryName(NAME)}`
      const file = await open(temporary, 'wx', 0o666)
      try {
        await file.writeFile(`total ${bytes} ${Date.now()}\n${meanwhile}`)
      } finally {
        await file.close()
      }
      await rename(temporary, join(this.#root, NAME)).catch(async (error: unknown) => {
        await rm(temporary, { force: true })
        throw error
      })
    } finally {
      folder.close()
    }
  }
}

function sum(text: string): number | undefined {
  const [head = '', ...lots] = text.split('\n')
  const [, counted, time] = /^total (\d{1,15}) (\d{1,15})$/.exec(head) ?? []
  if (counted === undefined || Math.abs(Date.now() - Number(time)) > MAX_AGE) return undefined
  let total = Number(counted)
  for (const lot of lots) {
    if (lot === '') continue
    if (!/^\d{1,15}$/.test(lot)) return undefined
    total += Number(lot)
  }
  return total
}
