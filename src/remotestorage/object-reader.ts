import type { ChildProcessWithoutNullStreams } from 'node:child_process'
import { TimoneError } from '../errors.ts'
import { spawnGit } from './git-process.ts'

export interface ReadObject {
  readonly oid: string
  readonly type: string
  /** Bytes. */
  readonly size: number
  readonly content: Buffer
}

interface Question {
  text: string
  withContent: boolean
  resolve: (object: ReadObject | undefined) => void
  reject: (error: unknown) => void
}

/**
 * Reads objects through one `git cat-file --batch-command` that stays open (git-cat-file(1)); started when it is first
 * needed, and again when it has ended. It looks refs up anew each time, and finds packs that were made meanwhile.
 */
export class ObjectReader {
  readonly #gitDir: string
  #git: ChildProcessWithoutNullStreams | undefined
  #waiting: Question[] = []
  #chunks: Buffer[] = []
  #have = 0
  #need = 0

  constructor(gitDir: string) {
    this.#gitDir = gitDir
  }

  /** `name`: an object id or a ref. Undefined when there is no such object. */
  read(name: string): Promise<ReadObject | undefined> {
    return this.#ask(`contents ${name}\n`, true)
  }

  /**
   * An object that another one refers to.
   * @throws {TimoneError} `internal` when it is missing
   */
  async need(oid: string): Promise<ReadObject> {
    const object = await this.read(oid)
    if (object !== undefined) return object
    throw new TimoneError(
      'internal',
      `object ${oid} of a storage is missing: restore the folder from a backup`,
    )
  }

  /** The id of what a ref names; undefined when the ref does not exist. */
  async resolve(name: string): Promise<string | undefined> {
    return (await this.#ask(`info ${name}\n`, false))?.oid
  }

  /** Bytes of an object; undefined when there is none. */
  async size(oid: string): Promise<number | undefined> {
    return (await this.#ask(`info ${oid}\n`, false))?.size
  }

  /** Ends the process; the next question starts another. */
  close(): void {
    this.#git?.stdin.end()
    this.#git = undefined
  }

  #ask(text: string, withContent: boolean): Promise<ReadObject | undefined> {
    return new Promise((resolve, reject) => {
      this.#waiting.push({ text, withContent, resolve, reject })
      this.#start().stdin.write(text)
    })
  }

  #start(): ChildProcessWithoutNullStreams {
    if (this.#git !== undefined) return this.#git
    const git = spawnGit(this.#gitDir, ['cat-file', '--batch-command'])
    this.#git = git
    const ended = (cause?: unknown): void => {
      if (this.#git === git) this.#git = undefined
      const failed = this.#waiting
      this.#waiting = []
      this.#chunks = []
      this.#have = 0
      this.#need = 0
      const error = new TimoneError('unavailable', 'git ended while it read the storage', { cause })
      for (const { reject } of failed) reject(error)
    }
    git.stdin.on('error', () => {})
    git.stderr.resume()
    git.stdout.on('data', (chunk: Buffer) => {
      if (this.#git !== git) return
      this.#chunks.push(chunk)
      this.#have += chunk.length
      if (this.#have >= this.#need) this.#answer()
    })
    git.once('error', ended)
    git.once('close', () => {
      if (this.#git === git) ended()
    })
    return git
  }

  #answer(): void {
    let bytes = this.#chunks.length === 1 ? (this.#chunks[0] as Buffer) : Buffer.concat(this.#chunks)
    this.#need = 0
    for (;;) {
      const question = this.#waiting[0]
      const end = bytes.indexOf(10)
      if (question === undefined || end < 0) break
      // `<oid> <type> <size>`, or `<name> missing`
      const [oid = '', type = '', size = ''] = bytes.toString('latin1', 0, end).split(' ')
      const missing = size === ''
      const length = missing || !question.withContent ? 0 : Number(size)
      const whole = end + 1 + (missing || !question.withContent ? 0 : length + 1)
      if (bytes.length < whole) {
        this.#need = whole
        break
      }
      this.#waiting.shift()
      if (missing) question.resolve(undefined)
      else
        question.resolve({
          oid,
          type,
          size: Number(size),
          content: bytes.subarray(end + 1, end + 1 + length),
        })
      bytes = bytes.subarray(whole)
    }
    this.#chunks = bytes.length === 0 ? [] : [bytes]
    this.#have = bytes.length
  }
}
