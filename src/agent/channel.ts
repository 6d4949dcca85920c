import type { Readable, Writable } from 'node:stream'
import { StringDecoder } from 'node:string_decoder'
import type { OutgoingMessage } from './protocol.ts'

/** A line longer than this is dropped: 64 MiB, several times what git-lfs ever sent (part lists in `header`). */
const MAX_LINE = 64 * 2 ** 20

export interface LineHandler {
  /** One line without its line end. */
  line(text: string): void
  /** A line was longer than {@link MAX_LINE} and was dropped. */
  overlong(): void
  /** No more lines will come: end of file, or the pipe broke. */
  end(): void
}

/**
 * Splits a byte stream into lines at `\n` or `\r\n`, whatever the chunks; holds at most one line.
 * A last line without an end is still a line.
 */
export function readLines(input: Readable, handler: LineHandler): void {
  const decoder = new StringDecoder('utf8')
  let pieces: string[] = []
  let length = 0
  let dropping = false
  let ended = false

  const finishLine = (): void => {
    const text = pieces.length === 1 ? (pieces[0] as string) : pieces.join('')
    pieces = []
    length = 0
    if (dropping) {
      dropping = false
      handler.overlong()
      return
    }
    const line = text.endsWith('\r') ? text.slice(0, -1) : text
    if (line !== '') handler.line(line)
  }
  const add = (text: string): void => {
    if (dropping || text === '') return
    length += text.length
    if (length > MAX_LINE) {
      dropping = true
      pieces = []
    } else {
      pieces.push(text)
    }
  }
  const take = (text: string): void => {
    let from = 0
    for (let at = text.indexOf('\n'); at !== -1; at = text.indexOf('\n', from)) {
      add(text.slice(from, at))
      finishLine()
      from = at + 1
    }
    add(from === 0 ? text : text.slice(from))
  }
  const end = (): void => {
    if (ended) return
    ended = true
    take(decoder.end())
    if (pieces.length > 0 || dropping) finishLine()
    handler.end()
  }
  input.on('data', (chunk: Buffer) => take(decoder.write(chunk)))
  input.on('end', end)
  input.on('close', end)
  input.on('error', end)
}

/**
 * The only way to stdout: whole lines, in the order sent, waiting while the reader is slow.
 * When the reader is gone (git-lfs closes both pipes right after `terminate`) lines are dropped and `onGone` is told once.
 */
export class MessageWriter {
  readonly #output: Writable
  #drained: Promise<void> | undefined
  #gone = false

  constructor(output: Writable, onGone: () => void) {
    this.#output = output
    const gone = (): void => {
      if (this.#gone) return
      this.#gone = true
      onGone()
    }
    output.on('error', gone)
    output.on('close', gone)
  }

  /** True while the reader does not keep up: leave out what can be left out, such as progress. */
  get congested(): boolean {
    return this.#drained !== undefined
  }

  /** Writes one message; the promise settles when the next one may be written. Never rejects. */
  async send(message: OutgoingMessage): Promise<void> {
    // Written at once, so that the order on the wire is the order of the calls; only the sender waits.
    if (this.#gone) return
    if (!this.#output.write(`${JSON.stringify(message)}\n`) && this.#drained === undefined) {
      this.#drained = new Promise((resolve) => {
        const done = (): void => {
          this.#output.off('drain', done)
          this.#output.off('close', done)
          this.#output.off('error', done)
          this.#drained = undefined
          resolve()
        }
        this.#output.on('drain', done)
        this.#output.on('close', done)
        this.#output.on('error', done)
      })
    }
    await this.#drained
  }
}
