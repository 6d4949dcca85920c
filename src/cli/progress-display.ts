import type { Writable } from 'node:stream'
import { printBytes, printClock, printCount } from './amounts.ts'
import { type Io, print, say } from './io.ts'
import { RecentRate, type Tally } from './tally.ts'

/** The commands that move objects. */
export type TransferCommand = 'push' | 'pull' | 'fetch'

/** What became of one object. */
export interface ObjectOutcome {
  oid: string
  /** Bytes. */
  size: number
  path: string
  result: 'moved' | 'cached' | 'would-move'
}

/** What went wrong, for one object or, without one, for all. */
export interface Failure {
  oid?: string
  path?: string
  /** An {@link ErrorCode}, `internal` for what was not expected. */
  code: string
  message: string
}

/** Shows how a push, pull or fetch goes. */
export interface Display {
  /** `endpoint` without user and password; undefined when nobody needs to be asked. */
  start(endpoint: string | undefined): void
  object(outcome: ObjectOutcome): void
  /** Something that the user should know, which is no failure. */
  note(text: string): void
  failure(failure: Failure): void
  /** The end, after everything. */
  finish(code: number): void
  /** The terminal is somebody else's for a while: a password is being asked for. */
  pause(now: boolean): void
  /** Leaves the terminal as it was; may be called at any time, also twice. */
  stop(): void
}

export interface DisplayOptions {
  command: TransferCommand
  tally: Tally
  json: boolean
  quiet: boolean
}

/** The kind of display that `io` and the options call for. */
export function openDisplay(io: Io, options: DisplayOptions): Display {
  if (options.json) return new JsonDisplay(io, options)
  if (options.quiet) return new TextDisplay(io, options, undefined)
  const { env, stderr } = io
  const isTerminal = (stderr as { isTTY?: boolean }).isTTY === true
  const inCi = env.CI !== undefined && !/^(|0|false)$/i.test(env.CI)
  const bar = isTerminal && env.TERM !== 'dumb' && !inCi
  return new TextDisplay(io, options, bar ? 'bar' : 'lines')
}

/** Milliseconds between two looks at the tally. */
const BAR_INTERVAL = 100
const LINE_INTERVAL = 5000
const JSON_INTERVAL = 1000
/** Failures that are printed one by one: a server that has nothing would fill the terminal. */
const MOST_FAILURES = 20

/** One line for people, in words or redrawn as a bar. */
class TextDisplay implements Display {
  readonly #io: Io
  readonly #options: DisplayOptions
  readonly #kind: 'bar' | 'lines' | undefined
  readonly #rate = new RecentRate()
  #timer: NodeJS.Timeout | undefined
  #drawn = false
  #paused = false
  #last = ''
  #failures = 0

  constructor(io: Io, options: DisplayOptions, kind: 'bar' | 'lines' | undefined) {
    this.#io = io
    this.#options = options
    this.#kind = kind
  }

  start(): void {
    if (this.#kind === undefined) return
    this.#rate.add(performance.now(), this.#options.tally.doneBytes)
    const look = this.#kind === 'bar' ? () => this.#draw() : () => this.#line()
    this.#timer = setInterval(look, this.#kind === 'bar' ? BAR_INTERVAL : LINE_INTERVAL)
    this.#timer.unref()
  }

  object({ oid, path, result }: ObjectOutcome): void {
    if (result === 'would-move') print(this.#io, `push ${oid} => ${path}`)
  }

  note(text: string): void {
    if (this.#kind === undefined) return
    this.#erase()
    say(this.#io, text)
  }

  failure({ oid, path, message }: Failure): void {
    if (++this.#failures > MOST_FAILURES) return
    this.#erase()
    const what = [path, oid === undefined ? undefined : `(${oid.slice(0, 12)})`].filter(
      (word) => word !== undefined,
    )
    say(this.#io, oneLine(what.length === 0 ? message : `${what.join(' ')}: ${message}`))
  }

  finish(code: number): void {
    this.stop()
    const more = this.#failures - MOST_FAILURES
    if (more > 0) say(this.#io, `and ${printCount(more, 'object')} more; --json lists them all`)
    if (this.#kind !== undefined) print(this.#io, summary(this.#options, code))
  }

  pause(now: boolean): void {
    this.#paused = now
    if (now) this.#erase()
  }

  stop(): void {
    clearInterval(this.#timer)
    this.#timer = undefined
    this.#erase()
  }

  #draw(): void {
    if (this.#paused) return
    const { tally, command } = this.#options
    const rate = this.#rate.add(performance.now(), tally.doneBytes)
    const stream = this.#io.stderr as Writable & { columns?: number }
    const text = bar(command, tally, rate, stream.columns ?? 80)
    if (text === this.#last && this.#drawn) return
    // The cursor is hidden while the line is ours: it would jump about.
    stream.write(`${this.#drawn ? '' : '\u001b[?25l'}\r${text}\u001b[K`)
    this.#drawn = true
    this.#last = text
  }

  #erase(): void {
    if (!this.#drawn) return
    this.#drawn = false
    this.#io.stderr.write('\r\u001b[K\u001b[?25h')
  }

  #line(): void {
    const { tally, command } = this.#options
    const rate = this.#rate.add(performance.now(), tally.doneBytes)
    say(this.#io, `${command}: ${facts(tally, rate).join(', ')}`)
  }
}

/** One JSON object a line, for programs. */
class JsonDisplay implements Display {
  readonly #io: Io
  readonly #options: DisplayOptions
  readonly #rate = new RecentRate()
  #timer: NodeJS.Timeout | undefined

  constructor(io: Io, options: DisplayOptions) {
    this.#io = io
    this.#options = options
  }

  #event(event: string, fields: object): void {
    print(this.#io, JSON.stringify({ event, ...fields }))
  }

  start(endpoint: string | undefined): void {
    const { command, tally } = this.#options
    this.#event('start', { command, endpoint: endpoint ?? null })
    this.#rate.add(performance.now(), tally.doneBytes)
    this.#timer = setInterval(() => {
      const rate = Math.round(this.#rate.add(performance.now(), tally.doneBytes))
      this.#event('progress', {
        objects: { done: tally.doneObjects, total: tally.objects },
        bytes: { done: tally.doneBytes, total: tally.bytes },
        complete: tally.complete,
        rate,
        seconds_left: secondsLeft(tally, rate) ?? null,
        retries: tally.retries,
      })
    }, JSON_INTERVAL)
    this.#timer.unref()
  }

  object(outcome: ObjectOutcome): void {
    this.#event('object', outcome)
  }

  note(text: string): void {
    this.#event('note', { message: text })
  }

  failure({ oid, path, code, message }: Failure): void {
    this.#event('error', { oid: oid ?? null, path: path ?? null, code, message })
  }

  finish(code: number): void {
    this.stop()
    const { command, tally } = this.#options
    this.#event('summary', {
      command,
      exit_code: code,
      moved: tally.doneObjects - tally.cached,
      cached: tally.cached,
      skipped: tally.skipped,
      failed: tally.failed,
      bytes: tally.doneBytes,
      files: tally.files,
      seconds: Math.round(tally.seconds * 1000) / 1000,
      rate: Math.round(tally.rate),
      retries: tally.retries,
    })
  }

  pause(): void {}

  stop(): void {
    clearInterval(this.#timer)
    this.#timer = undefined
  }
}

function facts(tally: Tally, rate: number): string[] {
  const more = tally.complete ? '' : '+'
  const left = secondsLeft(tally, rate)
  return [
    `${tally.doneObjects}/${tally.objects}${more} objects`,
    `${printBytes(tally.doneBytes)} of ${printBytes(tally.bytes)}`,
    `${printBytes(rate)}/s`,
    ...(left === undefined ? [] : [`${printClock(left)} left`]),
    ...(tally.retries === 0 ? [] : [tally.retries === 1 ? '1 retry' : `${tally.retries} retries`]),
    ...(tally.failed === 0 ? [] : [`${tally.failed} failed`]),
  ]
}

/** Undefined where nobody can tell. */
function secondsLeft(tally: Tally, rate: number): number | undefined {
  const left = tally.bytes - tally.doneBytes
  if (!tally.complete || rate < 1 || left < 0) return undefined
  return Math.ceil(left / rate)
}

/** The line of a terminal that is `columns` wide: what does not fit is left out, the least important first. */
export function bar(command: TransferCommand, tally: Tally, rate: number, columns: number): string {
  const share = tally.bytes === 0 ? 0 : Math.min(1, tally.doneBytes / tally.bytes)
  const [objects = '', ...rest] = facts(tally, rate)
  // The last column stays empty, or some terminals go to the next line.
  const room = Math.max(0, columns - 1)
  const head = `${command} ${String(Math.floor(share * 100)).padStart(3)}%`
  const pieces = [objects, ...rest]
  while (pieces.length > 0 && [head, ...pieces].join('  ').length > room) pieces.pop()
  const text = [head, ...pieces].join('  ')
  const width = Math.min(30, room - text.length - 4)
  if (width < 8) return text.slice(0, room)
  const full = Math.floor(share * width)
  const drawn = `[${'='.repeat(full)}${full < width ? '>' : ''}${' '.repeat(Math.max(0, width - full - 1))}]`
  return [head, drawn, ...pieces].join('  ')
}

function summary({ command, tally }: DisplayOptions, code: number): string {
  const { doneObjects, doneBytes, skipped, cached, failed, files, retries } = tally
  const seconds = tally.seconds
  const verb = command === 'push' ? 'sent' : 'fetched'
  const parts = [
    doneObjects === 0
      ? `nothing to ${command === 'push' ? 'send' : 'fetch'}`
      : `${verb} ${printCount(doneObjects, 'object')}, ${printBytes(doneBytes)} in ${seconds.toFixed(1)} s (${printBytes(tally.rate)}/s)`,
    ...(cached === 0 ? [] : [`${cached} of them from the cache`]),
    ...(skipped === 0 ? [] : [`${skipped} already ${command === 'push' ? 'there' : 'here'}`]),
    ...(command !== 'pull' ? [] : [`${printCount(files, 'file')} filled`]),
    ...(retries === 0 ? [] : [retries === 1 ? '1 retry' : `${retries} retries`]),
    ...(failed === 0 ? [] : [`${failed} failed`]),
  ]
  const again = code === 130 ? '; interrupted: the same command goes on from here' : ''
  return `${command}: ${parts.join(', ')}${again}`
}

/** Text for a terminal: no line breaks, nothing that the terminal would obey. */
function oneLine(text: string): string {
  return text.replace(/[\p{Cc}\p{Cf}]+/gu, ' ')
}
