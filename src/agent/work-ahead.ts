import { rm } from 'node:fs/promises'
import { join } from 'node:path'
import { throwIfAborted } from '../access/http-client.ts'
import { hrefWithoutPlan, type PlannedObject, splitPlan } from '../access/plan.ts'
import { isTimoneError, TimoneError } from '../errors.ts'
import type { Logger } from '../log.ts'
import { storageOfObjectPath } from './git-environment.ts'
import { Progress } from './progress.ts'
import { REPLACE, type TransferMessage } from './protocol.ts'
import type { SessionEnd, Transfer, Transferred } from './session.ts'

export interface WorkAheadOptions {
  /** Does the moving; its own bounds decide how much of what is begun here is really under way. */
  move: Transfer
  /** Whether an object of so many bytes counts as large. */
  isLarge: (size: number) => boolean
  log: Logger
}

/** Objects that are begun or finished without having been asked for, at the most. */
const AHEAD = { small: 64, large: 8 } as const

/** An object that was begun before git-lfs asked for it. */
interface Job {
  readonly message: TransferMessage
  readonly stop: AbortController
  readonly progress: HeldProgress
  readonly kind: keyof typeof AHEAD
  moved: Promise<Transferred>
  asked: boolean
  failed: boolean
}

/**
 * Moves the objects of a batch before git-lfs asks for them, one by one in each of its sessions: only what the server
 * listed in the batch's plan, in its order, at most {@link AHEAD} beyond what was asked for.
 *
 * What git-lfs does not ask for in the end leaves nothing on this machine and no unfinished upload in the store.
 */
export class WorkAhead {
  readonly #options: WorkAheadOptions
  readonly #planned = new Map<string, TransferMessage>()
  readonly #jobs = new Map<string, Job>()
  /** Asked for, planned or begun, ever: a batch's plan comes twice. */
  readonly #known = new Set<string>()
  readonly #ahead = { small: 0, large: 0 }

  constructor(options: WorkAheadOptions) {
    this.#options = options
  }

  /** Moves the object that git-lfs asks for now, or hands over what was begun already. */
  readonly transfer: Transfer = async (asked, progress, signal) => {
    throwIfAborted(signal)
    const { message, plan } = this.#withoutPlan(asked)
    const key = keyOf(message)
    this.#known.add(key)
    this.#planned.delete(key)
    const job = this.#take(key)
    // Begun first, so that it is served before what is only planned.
    const moving =
      job === undefined ? this.#options.move(message, progress, signal) : joined(job, progress, signal)
    // A rejection is seen by whoever awaits below; until then it must not count as unhandled.
    moving.catch(() => {})
    this.#plan(message, plan)
    this.#beginNext()
    return moving
  }

  /**
   * Stops what was never asked for, when nobody can ask any more. Where git-lfs has finished, all of it is removed; where
   * it was cut off, the next run goes on with it.
   */
  async close(how: SessionEnd): Promise<void> {
    this.#planned.clear()
    const jobs = [...this.#jobs.values()]
    this.#jobs.clear()
    await Promise.all(
      jobs.map(async (job) => {
        if (how === 'cut') job.asked = true
        job.stop.abort(new TimoneError('cancelled', 'git-lfs did not ask for it'))
        const { path } = await job.moved.catch((): Transferred => ({}))
        if (path !== undefined && how === 'finished') await rm(path, { force: true })
      }),
    )
  }

  /** The job of an object that is asked for now; undefined where there is none of use. */
  #take(key: string): Job | undefined {
    const job = this.#jobs.get(key)
    if (job === undefined) return undefined
    this.#jobs.delete(key)
    this.#ahead[job.kind]--
    job.asked = true
    // It failed while nobody waited for it: whoever asks has a try of its own.
    return job.failed ? undefined : job
  }

  #withoutPlan(message: TransferMessage): { message: TransferMessage; plan: readonly PlannedObject[] } {
    const { action } = message
    if (action === null || !action.href.includes('#')) return { message, plan: [] }
    try {
      const { href, plan } = splitPlan(action.href)
      return { message: { ...message, action: { ...action, href } }, plan }
    } catch (error) {
      // Without a plan all works, one object at a time in each session.
      this.#options.log.warn({}, (error as Error).message)
      return {
        message: { ...message, action: { ...action, href: hrefWithoutPlan(action.href) } },
        plan: [],
      }
    }
  }

  #plan(asked: TransferMessage, plan: readonly PlannedObject[]): void {
    const { event, action, path } = asked
    if (action === null || plan.length === 0) return
    const storage = path === undefined ? undefined : storageOfObjectPath(path, asked.oid)
    // The files of the others are where git-lfs keeps its objects; from anywhere else they cannot be told.
    if (event === 'upload' && storage === undefined) return
    const { [REPLACE]: _, ...header } = action.header
    for (const { oid, size, replace } of plan) {
      const message: TransferMessage = {
        event,
        oid,
        size,
        action: { ...action, header: replace ? { ...header, [REPLACE]: '1' } : header },
        ...(storage === undefined
          ? {}
          : { path: join(storage, 'objects', oid.slice(0, 2), oid.slice(2, 4), oid) }),
      }
      const key = keyOf(message)
      if (this.#known.has(key)) continue
      this.#known.add(key)
      this.#planned.set(key, message)
    }
  }

  #beginNext(): void {
    for (const [key, message] of this.#planned) {
      const kind = this.#options.isLarge(message.size) ? 'large' : 'small'
      if (this.#ahead[kind] >= AHEAD[kind]) return
      this.#planned.delete(key)
      this.#ahead[kind]++
      this.#jobs.set(key, this.#begin(message, kind))
    }
  }

  #begin(message: TransferMessage, kind: Job['kind']): Job {
    const job: Job = {
      message,
      kind,
      stop: new AbortController(),
      progress: new HeldProgress(),
      moved: Promise.resolve({}),
      asked: false,
      failed: false,
    }
    job.moved = this.#options.move(message, job.progress, job.stop.signal, { leaveNothing: () => !job.asked })
    job.moved.catch((error: unknown) => {
      job.failed = true
      const code = isTimoneError(error) ? error.code : 'internal'
      this.#options.log.debug({ oid: message.oid, code, asked: job.asked }, 'begun ahead, and failed')
    })
    return job
  }
}

/** Waits for a job in place of whoever asks for its object. */
async function joined(job: Job, progress: Progress, signal: AbortSignal): Promise<Transferred> {
  const stop = (): void => job.stop.abort(signal.reason)
  signal.addEventListener('abort', stop, { once: true })
  job.progress.passTo(progress)
  try {
    return await job.moved
  } finally {
    signal.removeEventListener('abort', stop)
  }
}

const keyOf = ({ event, oid, action }: TransferMessage): string => `${event} ${oid} ${action?.href ?? ''}`

/** Counts bytes for an object that nobody has asked for yet, and passes them on from the moment when somebody does. */
class HeldProgress extends Progress {
  #total = 0
  #receiver: Progress | undefined

  constructor() {
    super(0, () => false)
  }

  override add(bytes: number): void {
    this.#total += bytes
    this.#receiver?.add(bytes)
  }

  passTo(receiver: Progress): void {
    this.#receiver = receiver
    receiver.add(this.#total)
  }
}
