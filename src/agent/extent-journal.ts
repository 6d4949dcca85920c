import type { Logger } from '../log.ts'
import { dropExtentMap, type ExtentMap, writeExtentMap } from './extent-map.ts'
import type { PartialFile } from './partial-file.ts'
import type { RangePlan } from './range-plan.ts'

/** Milliseconds after which new bytes are recorded. */
const INTERVAL = 1000
/**
 * New bytes that are recorded sooner, as a share of the object, but not less nor more than so many: a kill costs so
 * much, and what is on its way to the disk.
 */
const SHARE = 1 / 64
const [LEAST_UNRECORDED, MOST_UNRECORDED] = [8 * 2 ** 20, 64 * 2 ** 20]

/**
 * Keeps the map of a download beside its file, so that it survives a kill at any moment. The bytes are on disk before the
 * map that names them is written.
 */
export class ExtentJournal {
  readonly #file: PartialFile
  readonly #plan: RangePlan
  readonly #version: () => Omit<ExtentMap, 'extents'>
  readonly #log: Logger
  /** So many new bytes are recorded at once. */
  readonly #enough: number
  #unrecorded = 0
  #timer: NodeJS.Timeout | undefined
  #saving: Promise<void> | undefined
  #stopped = false
  #told = false

  /** @param version what the map says besides the extents */
  constructor(file: PartialFile, plan: RangePlan, version: () => Omit<ExtentMap, 'extents'>, log: Logger) {
    this.#file = file
    this.#plan = plan
    this.#version = version
    this.#log = log
    this.#enough = Math.min(MOST_UNRECORDED, Math.max(LEAST_UNRECORDED, plan.size * SHARE))
  }

  /** `bytes` more are in the file. */
  written(bytes: number): void {
    this.#unrecorded += bytes
    if (this.#stopped || this.#saving !== undefined) return
    if (this.#unrecorded >= this.#enough) this.#save()
    else this.#timer ??= setTimeout(() => this.#save(), INTERVAL)
  }

  /** Records what is there now, and nothing more from then on. */
  async stop(): Promise<void> {
    await this.end()
    if (this.#unrecorded > 0) await this.#record()
  }

  /** Records nothing more. */
  async end(): Promise<void> {
    this.#stopped = true
    clearTimeout(this.#timer)
    await this.#saving
  }

  /** What was recorded is no longer so. */
  async restart(): Promise<void> {
    await this.#saving
    this.#unrecorded = 0
    await dropExtentMap(this.#file.path)
  }

  #save(): void {
    clearTimeout(this.#timer)
    this.#timer = undefined
    this.#saving = this.#record().finally(() => {
      this.#saving = undefined
      // What came meanwhile.
      if (this.#unrecorded > 0) this.written(0)
    })
  }

  async #record(): Promise<void> {
    const extents = this.#plan.extents()
    this.#unrecorded = 0
    try {
      await this.#file.sync()
      await writeExtentMap(this.#file.path, { ...this.#version(), extents })
    } catch (error) {
      // Without the map the download works all the same, it only cannot be continued. New bytes are a new try.
      if (!this.#told) this.#log.warn({}, `cannot remember the download: ${(error as Error).message}`)
      this.#told = true
    }
  }
}
