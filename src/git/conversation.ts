import type { Writable } from 'node:stream'
import { TimoneError } from '../errors.ts'
import type { GitProcess } from './repository.ts'

/**
 * A git that answers each line or record of its input in turn. Questions are written no faster than it takes them, so
 * that only as many wait for their answer as fit into two pipes.
 */
export class Conversation<T> {
  readonly git: GitProcess
  readonly #asked: T[] = []
  #next = 0
  readonly #asking: Promise<void>
  #failure: unknown

  constructor(
    git: GitProcess,
    questions: AsyncIterable<readonly T[]> | Iterable<readonly T[]>,
    write: (question: T) => string,
  ) {
    this.git = git
    this.#asking = this.#ask(questions, write).catch((error: unknown) => {
      this.#failure = error
      git.stop()
    })
  }

  /** The question that the next answer is for. @throws {TimoneError} `internal` when there is none */
  answered(): T {
    const question = this.#asked[this.#next++]
    if (question === undefined) throw new TimoneError('internal', 'git answered more than it was asked')
    if (this.#next === 4096) {
      // In slices: taking the first one off each time would move all the others.
      this.#asked.splice(0, this.#next)
      this.#next = 0
    }
    return question
  }

  /** Waits for the end, after all output was read. @throws {TimoneError} `config`, or what the questions' source threw */
  async end(): Promise<void> {
    await this.#asking
    if (this.#failure !== undefined) throw this.#failure
    await this.git.done
    if (this.#next !== this.#asked.length) {
      throw new TimoneError('config', 'git ended before it had answered everything')
    }
  }

  async #ask(
    questions: AsyncIterable<readonly T[]> | Iterable<readonly T[]>,
    write: (question: T) => string,
  ): Promise<void> {
    const { stdin } = this.git
    for await (const slice of questions) {
      let text = ''
      for (const question of slice) {
        this.#asked.push(question)
        text += write(question)
      }
      if (stdin.destroyed) return
      if (text !== '' && !stdin.write(text)) await drained(stdin)
    }
    stdin.end()
  }
}

/** Until more may be written, or nobody reads any more. */
function drained(stream: Writable): Promise<void> {
  return new Promise((resolve) => {
    const done = () => {
      stream.off('drain', done)
      stream.off('close', done)
      resolve()
    }
    stream.on('drain', done)
    stream.on('close', done)
  })
}
