import { createHash } from 'node:crypto'
import { readSync, writeSync } from 'node:fs'
import { availableParallelism } from 'node:os'
import { Worker } from 'node:worker_threads'
import { throwIfAborted } from '../access/http-client.ts'

/** What {@link HashThreads.hash} reads, and where it writes what it has read. */
export interface HashJob {
  /** Descriptor of the file; the caller closes it. */
  from: number
  /** Bytes from its beginning. */
  size: number
  /** Descriptor that gets the very bytes that are hashed, from its beginning; the caller closes it. */
  to?: number | undefined
  signal?: AbortSignal | undefined
}

/** Up to here a file is hashed at once: handing it to a thread would cost more. Bytes. */
const INLINE = 2 ** 20
/** Bytes read at a time. */
const CHUNK = 2 ** 20
/** More gain nothing where two cores are shared with git-lfs. */
const MAX_THREADS = 2
/** Milliseconds without work after which a thread ends. */
const IDLE = 2000

/**
 * What a thread runs. A text and not a file, since the program is one file, and not a function's text, since a bundler
 * may rewrite functions. Descriptors belong to the process, so the thread opens nothing.
 */
const SCRIPT = `
const { parentPort } = require('node:worker_threads')
const { createHash } = require('node:crypto')
const { readSync, writeSync } = require('node:fs')
const buffer = Buffer.allocUnsafeSlow(${CHUNK})
parentPort.on('message', ({ from, to, size, stop }) => {
  try {
    const stopped = new Int32Array(stop)
    const hash = createHash('sha256')
    let length = 0
    while (length < size && Atomics.load(stopped, 0) === 0) {
      const count = readSync(from, buffer, 0, Math.min(buffer.length, size - length), length)
      if (count === 0) break
      hash.update(count === buffer.length ? buffer : buffer.subarray(0, count))
      if (to !== undefined) {
        for (let at = 0; at < count; ) at += writeSync(to, buffer, at, count - at, length + at)
      }
      length += count
    }
    parentPort.postMessage({ digest: hash.digest('hex') })
  } catch ({ code, message }) {
    parentPort.postMessage({ error: { code, message } })
  }
})
`

interface Queued extends HashJob {
  /** Set to 1 to make the thread stop. */
  stop: SharedArrayBuffer
  resolve: (digest: string) => void
  reject: (error: unknown) => void
}

interface Thread {
  worker: Worker
  job: Queued | undefined
  idle: NodeJS.Timeout | undefined
}

/**
 * SHA-256 of files, large ones off the main thread and two at a time. Threads start when they are needed, end when
 * there is nothing more to do, and never keep the process alive.
 */
export class HashThreads {
  readonly #threads = new Set<Thread>()
  readonly #queue: Queued[] = []
  readonly #most = Math.min(MAX_THREADS, availableParallelism())
  readonly #inlined: number
  #buffer: Buffer | undefined

  /** `inline`: small files are hashed at once; false on a drive whose reads nobody should have to wait for. */
  constructor({ inline }: { inline: boolean }) {
    this.#inlined = inline ? INLINE : 0
  }

  /**
   * SHA-256 of the first `size` bytes, or of all where the file is shorter; hexadecimal.
   * @throws `cancelled`, or the file system's own error, with its code
   */
  async hash(job: HashJob): Promise<string> {
    throwIfAborted(job.signal)
    if (job.size <= this.#inlined) return this.#inline(job)
    const stop = new SharedArrayBuffer(4)
    const abort = (): void => {
      Atomics.store(new Int32Array(stop), 0, 1)
    }
    job.signal?.addEventListener('abort', abort, { once: true })
    try {
      const digest = await new Promise<string>((resolve, reject) => {
        this.#queue.push({ ...job, stop, resolve, reject })
        this.#dispatch()
      })
      throwIfAborted(job.signal)
      return digest
    } finally {
      job.signal?.removeEventListener('abort', abort)
    }
  }

  /** Ends the threads; nobody may be waiting for a hash. */
  async close(): Promise<void> {
    await Promise.all([...this.#threads].map((thread) => this.#end(thread)))
  }

  #inline({ from, size, to }: HashJob): string {
    this.#buffer ??= Buffer.allocUnsafeSlow(INLINE)
    const buffer = this.#buffer
    let length = 0
    while (length < size) {
      const count = readSync(from, buffer, length, size - length, length)
      if (count === 0) break
      length += count
    }
    const bytes = buffer.subarray(0, length)
    for (let at = 0; to !== undefined && at < length; ) at += writeSync(to, bytes, at, length - at, at)
    return createHash('sha256').update(bytes).digest('hex')
  }

  #dispatch(): void {
    while (this.#queue.length > 0) {
      let thread = [...this.#threads].find(({ job }) => job === undefined)
      if (thread === undefined && this.#threads.size < this.#most) thread = this.#start()
      if (thread === undefined) return
      const job = this.#queue.shift() as Queued
      clearTimeout(thread.idle)
      thread.job = job
      thread.worker.ref()
      const { from, to, size, stop } = job
      thread.worker.postMessage({ from, to, size, stop })
    }
  }

  #start(): Thread {
    const worker = new Worker(SCRIPT, {
      eval: true,
      execArgv: [],
      // It makes next to no garbage: what it may keep counts into our memory.
      resourceLimits: { maxYoungGenerationSizeMb: 2, maxOldGenerationSizeMb: 16 },
    })
    const thread: Thread = { worker, job: undefined, idle: undefined }
    this.#threads.add(thread)
    worker.on('message', (answer: { digest: string } | { error: { code?: string; message: string } }) => {
      const { job } = thread
      this.#rest(thread)
      if ('digest' in answer) job?.resolve(answer.digest)
      else job?.reject(Object.assign(new Error(answer.error.message), { code: answer.error.code }))
    })
    const failed = (error: unknown): void => {
      this.#threads.delete(thread)
      clearTimeout(thread.idle)
      const { job } = thread
      thread.job = undefined
      job?.reject(error)
      this.#dispatch()
    }
    worker.on('error', failed)
    worker.on('exit', () => failed(new Error('a thread ended')))
    return thread
  }

  #rest(thread: Thread): void {
    thread.job = undefined
    this.#dispatch()
    if (thread.job !== undefined) return
    thread.worker.unref()
    thread.idle = setTimeout(() => void this.#end(thread), IDLE).unref()
  }

  async #end(thread: Thread): Promise<void> {
    this.#threads.delete(thread)
    clearTimeout(thread.idle)
    await thread.worker.terminate()
  }
}
