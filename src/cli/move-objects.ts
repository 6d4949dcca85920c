import type { Operation } from '../access/credentials.ts'
import type { BatchClient, BatchVerdict, WantedObject } from '../agent/batch-client.ts'
import { Progress } from '../agent/progress.ts'
import type { Action, TransferMessage } from '../agent/protocol.ts'
import type { Transfer } from '../agent/session.ts'
import { isTimoneError, TimoneError } from '../errors.ts'
import type { Tally } from './tally.ts'

/** An object, and one of the files that need it. */
export interface NamedObject extends WantedObject {
  path: string
}

export interface MoveOptions {
  operation: Operation
  /** Each oid once. Read only as fast as objects move. */
  objects: AsyncIterable<NamedObject>
  batch: Pick<BatchClient, 'ask'>
  transfer: Transfer
  /**
   * The file that holds an object to upload; undefined when there is no need of it.
   * @throws {TimoneError} when it is not there, or not whole
   */
  source: (object: NamedObject) => Promise<string | undefined>
  /** Asks the server to check an upload. */
  verify: (object: NamedObject, action: Action, signal: AbortSignal) => Promise<void>
  /**
   * Asks the server for many uploads at once whether it has them, by asking how to download them. For those of which the
   * store itself has said so: one request for each would take longer than the upload.
   */
  confirm?: ((objects: readonly NamedObject[], signal: AbortSignal) => Promise<BatchVerdict[]>) | undefined
  /** An object has arrived: for a download at `path`, out of a cache where `cached` is true. */
  arrived: (object: NamedObject, result: { path?: string; cached?: boolean }) => Promise<void>
  failed: (object: NamedObject, error: unknown) => void
  tally: Tally
  signal: AbortSignal
}

/** What {@link moveObjects} could not do itself. */
export interface MoveResult {
  /** Objects that the server moves by a transfer which is git-lfs's own. */
  foreign: NamedObject[]
}

/** Objects in the first request: a small one, so that bytes flow early. */
const FIRST_BATCH = 100
const BATCH = 1000
/** Uploads that are confirmed together, at least, before the next request. */
const CONFIRMED = 1000
/** Objects that transfers are under way for, or waiting for a slot of the engine. */
const OUTSTANDING = 128
/** With fewer answered objects in store than this the next request goes out. */
const LOW = 512

/** After these no other object can do better. */
const FATAL = ['disk_full', 'read_only'] as const

/**
 * Moves objects: asks for them batch by batch while those of the last batch move, and reports each one's fate. A
 * failed object does not keep the others from moving.
 * @throws {TimoneError} what stops everything: interruption, no password, a full disk, a server that is not there
 */
export async function moveObjects(options: MoveOptions): Promise<MoveResult> {
  const { operation, batch, tally, signal } = options
  const foreign: NamedObject[] = []
  const unconfirmed: NamedObject[] = []
  const ready: { object: NamedObject; action: Action | null; verify: Action | undefined }[] = []
  let at = 0
  let active = 0
  let fatal: unknown
  let wake: () => void = () => {}
  const change = (): Promise<void> =>
    new Promise((resolve) => {
      wake = resolve
    })

  /** What the other side has already. */
  const leaveOut = (object: NamedObject): void => {
    tally.skipped++
    tally.objects--
    tally.bytes -= object.size
  }
  const move = async ({ object, action, verify }: (typeof ready)[number]): Promise<void> => {
    const { oid, size } = object
    let counted = 0
    const progress = new Progress(size, ({ bytesSinceLast }) => {
      counted += bytesSinceLast
      tally.doneBytes += bytesSinceLast
      return true
    })
    try {
      const message: TransferMessage = { event: operation, oid, size, action }
      if (operation === 'upload') {
        const path = await options.source(object)
        if (path === undefined) return leaveOut(object)
        message.path = path
      }
      const result = await options.transfer(message, progress, signal)
      if (result.present === true) {
        tally.doneBytes -= counted
        return leaveOut(object)
      }
      tally.doneBytes += size - counted
      counted = size
      if (verify !== undefined && result.stored === true && options.confirm !== undefined) {
        unconfirmed.push(object)
        return
      }
      if (verify !== undefined) await options.verify(object, verify, signal)
      await options.arrived(object, result)
      tally.doneObjects++
      if (result.cached === true) {
        tally.cached++
        tally.cachedBytes += size
      }
    } catch (error) {
      tally.doneBytes -= counted
      if (signal.aborted) return
      if (isTimoneError(error, ...FATAL)) fatal ??= error
      options.failed(object, error)
    }
  }
  const confirm = async (): Promise<void> => {
    const objects = unconfirmed.splice(0)
    const verdicts = objects.length === 0 ? [] : ((await options.confirm?.(objects, signal)) ?? [])
    for (const [index, verdict] of verdicts.entries()) {
      const object = objects[index] as NamedObject
      if (verdict.kind === 'failed') {
        tally.doneBytes -= object.size
        options.failed(object, verdict.error)
      } else {
        tally.doneObjects++
        await options.arrived(object, {})
      }
    }
  }
  const pump = (): void => {
    while (active < OUTSTANDING && at < ready.length && fatal === undefined && !signal.aborted) {
      const job = ready[at++] as (typeof ready)[number]
      active++
      void move(job).finally(() => {
        active--
        pump()
      })
    }
    if (at > LOW) {
      ready.splice(0, at)
      at = 0
    }
    wake()
  }
  const decide = (object: NamedObject, verdict: BatchVerdict): void => {
    switch (verdict.kind) {
      case 'move':
        ready.push({ object, action: verdict.action, verify: verdict.verify })
        return
      case 'foreign':
        foreign.push(object)
        break
      case 'present':
        leaveOut(object)
        return
      case 'failed':
        options.failed(object, verdict.error)
    }
    tally.objects--
    tally.bytes -= object.size
  }

  signal.addEventListener('abort', () => wake(), { once: true })
  try {
    for await (const group of grouped(options.objects, tally)) {
      while (ready.length - at > LOW && fatal === undefined && !signal.aborted) await change()
      if (fatal !== undefined || signal.aborted) break
      if (foreign.length > 0) {
        // The server does not speak to us: no use in asking on.
        for (const object of group) decide(object, { kind: 'foreign', transfer: '' })
        continue
      }
      if (unconfirmed.length >= CONFIRMED) await confirm()
      const verdicts = await batch.ask(group, signal)
      group.forEach((object, index) => {
        decide(object, verdicts[index] as BatchVerdict)
      })
      pump()
    }
    tally.complete = true
  } catch (error) {
    fatal ??= error
  }
  while (active > 0 || (at < ready.length && fatal === undefined && !signal.aborted)) await change()
  if (!signal.aborted && fatal === undefined) {
    await confirm().catch((error: unknown) => {
      fatal = error
    })
  }
  if (signal.aborted) throw new TimoneError('cancelled', 'interrupted')
  if (fatal !== undefined) throw fatal
  return { foreign }
}

/** Groups of objects as large as a request is to be; each counts as soon as it is known. */
async function* grouped(objects: AsyncIterable<NamedObject>, tally: Tally): AsyncGenerator<NamedObject[]> {
  let group: NamedObject[] = []
  let limit = FIRST_BATCH
  for await (const object of objects) {
    group.push(object)
    tally.objects++
    tally.bytes += object.size
    if (group.length < limit) continue
    yield group
    group = []
    limit = BATCH
  }
  if (group.length > 0) yield group
}
