import type { ChildProcess } from 'node:child_process'
import type { Readable, Writable } from 'node:stream'
import { throwIfAborted } from '../access/http-client.ts'
import { TimoneError } from '../errors.ts'
import type { Logger } from '../log.ts'
import { readLines } from './channel.ts'
import type { EngineAnswer, EngineRequest } from './engine-wire.ts'
import type { Progress } from './progress.ts'
import type { TransferMessage } from './protocol.ts'
import type { SessionEnd, Transfer } from './session.ts'

/** A child process with pipes to its stdin and from its stdout. */
export type EngineProcess = ChildProcess & { stdin: Writable; stdout: Readable }

export interface EngineLinkOptions {
  /** Starts an engine. */
  spawn: () => EngineProcess
  log: Logger
}

/** How often an engine that ended with work in hand is replaced. What kills the next one too is not chance. */
const RESTARTS = 3

/** Milliseconds; an engine takes less to clean up, whatever the network does. */
const LAST_WAIT = 2000

interface Call {
  readonly message: TransferMessage
  readonly progress: Progress
  readonly signal: AbortSignal
  /** As the engine at hand counts. */
  bytes: number
  resolve: (result: { path?: string }) => void
  reject: (error: TimoneError) => void
}

/**
 * The front's end of the pipe to the transfer engine. An engine that ends with work in hand (killed for its memory,
 * perhaps) is replaced, and the next one goes on from what is on disk and in the store: git-lfs would give up all
 * objects of an agent that ends.
 */
export class EngineLink {
  readonly #options: EngineLinkOptions
  readonly #calls = new Map<number, Call>()
  #engine: EngineProcess | undefined
  #lastId = 0
  #restarts = 0
  #closed = false

  constructor(options: EngineLinkOptions) {
    this.#options = options
  }

  /** Starts the engine, so that it is ready when the first object comes. */
  start(): void {
    this.#engine ??= this.#spawn()
  }

  /** See {@link Transfer}. @throws what the engine says; `internal` when engines keep ending. */
  readonly transfer: Transfer = async (message, progress, signal) => {
    throwIfAborted(signal)
    this.start()
    const id = ++this.#lastId
    const cancel = (): void => {
      const why = signal.reason instanceof Error ? signal.reason.message : 'interrupted'
      this.#send({ id, cancel: why })
    }
    try {
      return await new Promise<{ path?: string }>((resolve, reject) => {
        this.#calls.set(id, { message, progress, signal, bytes: 0, resolve, reject })
        this.#send({ id, message })
        signal.addEventListener('abort', cancel, { once: true })
      })
    } finally {
      this.#calls.delete(id)
      signal.removeEventListener('abort', cancel)
    }
  }

  /** Lets the engine clean up and end, since git-lfs has finished or is cut off; gives up waiting for that after {@link LAST_WAIT}. */
  async close(how: SessionEnd): Promise<void> {
    this.#closed = true
    const engine = this.#engine
    if (engine === undefined) return
    const ended = new Promise<void>((resolve) => {
      engine.once('exit', () => resolve())
      engine.once('error', () => resolve())
      setTimeout(resolve, LAST_WAIT).unref()
    })
    this.#send({ close: how })
    engine.stdin.end()
    engine.stdout.destroy()
    // Waited for, or it would stay behind as a zombie in containers whose first process is no init.
    await ended
    engine.unref()
  }

  #spawn(): EngineProcess {
    const { log } = this.#options
    const engine = this.#options.spawn()
    engine.stdin.on('error', () => {})
    let gone = false
    const lost = (how: string): void => {
      if (gone) return
      gone = true
      if (this.#engine === engine) this.#engine = undefined
      if (!this.#closed) this.#replace(how)
    }
    engine.once('error', (error) => lost(`could not be started: ${error.message}`))
    // Behind its last answers, so that none of them is asked for again.
    engine.once('close', (code, name) => lost(`ended with ${name ?? `exit code ${code}`}`))
    readLines(engine.stdout, {
      line: (text) => this.#take(JSON.parse(text) as EngineAnswer),
      overlong: () => log.error({}, 'an answer of the engine is too long'),
      end: () => {},
    })
    return engine
  }

  #take(answer: EngineAnswer): void {
    const call = this.#calls.get(answer.id)
    if (call === undefined) return
    if ('bytes' in answer) {
      call.progress.add(answer.bytes - call.bytes)
      call.bytes = answer.bytes
    } else if ('done' in answer) {
      call.resolve(answer.done)
    } else {
      call.reject(new TimoneError(answer.error.code, answer.error.message))
    }
  }

  #replace(how: string): void {
    if (this.#calls.size === 0) return
    if (this.#restarts++ >= RESTARTS) {
      const error = new TimoneError(
        'internal',
        `the transfer engine ${how}, ${this.#restarts} times: repeat the command, it goes on where this one stopped`,
      )
      for (const { reject } of this.#calls.values()) reject(error)
      return
    }
    this.#options.log.warn({ objects: this.#calls.size }, `the transfer engine ${how}: starting another one`)
    this.#engine = this.#spawn()
    for (const [id, call] of this.#calls) {
      if (call.signal.aborted) {
        call.reject(new TimoneError('cancelled', 'interrupted'))
        continue
      }
      call.progress.add(-call.bytes)
      call.bytes = 0
      this.#send({ id, message: call.message })
    }
  }

  #send(request: EngineRequest): void {
    this.#engine?.stdin.write(`${JSON.stringify(request)}\n`)
  }
}
