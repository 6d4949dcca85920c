import type { OnReadOpts, Socket } from 'node:net'

/** Takes the bytes of a body. */
export interface BodyReader {
  /** Where the next bytes are to be put: one byte at least, and nothing else is put there until they have arrived. */
  room(): Buffer
  /** So many bytes now stand at the beginning of the last room. False: the socket waits for {@link DirectBody.resume}. */
  arrived(count: number): boolean
}

/** A body whose bytes the kernel puts into the reader's own memory. */
export interface DirectBody {
  /** Has `reader` take the body, once. Its last byte lets the answer's stream end, without any byte in it. */
  attach(reader: BodyReader): void
  resume(): void
}

/** Bytes read at a time while nobody has a place for them. */
const OWN_ROOM = 16 * 1024
/** An answer's head that is longer goes the usual way. */
const LONGEST_HEAD = 64 * 1024
const HEAD_END = '\r\n\r\n'
/** What the parser is told instead of a body: one byte, which comes when the whole body has. */
const STAND_IN = Buffer.from('.')

const taps = new WeakMap<Socket, SocketTap>()

/** Makes a socket, with `connect`, whose bodies can be had directly. It serves one request at a time (`begin`). */
export function tapped<T extends Socket>(connect: (onread: OnReadOpts) => T): T {
  const tap: SocketTap = new SocketTap(() => socket)
  const socket = connect({ buffer: () => tap.room(), callback: (count, buffer) => tap.read(count, buffer) })
  taps.set(socket, tap)
  return socket
}

/** The tap of a socket that was made by {@link tapped}. */
export const tapOf = (socket: Socket | null | undefined): SocketTap | undefined =>
  socket ? taps.get(socket) : undefined

/**
 * Stands between a socket and node:http. There, a body costs two copies and an allocation for each 64 KiB, which is
 * most of what a download costs besides its hash. So the parser gets heads and small bodies as ever, but of a body that
 * somebody takes directly only a stand-in of one byte, when all of it has arrived: keep-alive, time-outs and broken
 * connections stay node:http's own business.
 */
export class SocketTap implements DirectBody {
  readonly #socket: () => Socket
  readonly #own = Buffer.allocUnsafeSlow(OWN_ROOM)
  #state: 'idle' | 'plain' | 'head' | 'body' = 'idle'
  #head: Buffer | undefined
  /** Bytes of the body that have not arrived. */
  #left = 0
  #length = 0
  /** Bytes that came before their reader. */
  #early: Buffer[] = []
  #reader: BodyReader | undefined
  /** The room that the kernel has been given, when it is the reader's. */
  #room: Buffer | undefined

  constructor(socket: () => Socket) {
    this.#socket = socket
  }

  /** A request is about to be sent. `direct`: its answer's body may be taken directly. */
  begin(direct: boolean): void {
    this.#state = direct ? 'head' : 'plain'
    this.#head = undefined
  }

  /** Length of the body that waits for its reader; undefined when the answer goes the usual way. */
  get length(): number | undefined {
    return this.#state === 'body' ? this.#length : undefined
  }

  attach(reader: BodyReader): void {
    this.#reader = reader
    let more = true
    for (const early of this.#early) {
      for (let at = 0; at < early.length; ) {
        const room = reader.room()
        const count = Math.min(room.length, early.length - at)
        early.copy(room, 0, at, at + count)
        at += count
        more = reader.arrived(count)
      }
    }
    this.#early = []
    if (this.#left === 0) this.#end()
    else if (more) this.resume()
  }

  resume(): void {
    const socket = this.#socket()
    if (!socket.destroyed) socket.resume()
  }

  /** The next place for bytes (net.connect, option `onread`). */
  room(): Buffer {
    this.#room = undefined
    if (this.#state !== 'body' || this.#reader === undefined) return this.#own
    const room = this.#reader.room()
    this.#room = room.length > this.#left ? room.subarray(0, this.#left) : room
    return this.#room
  }

  /** Bytes have come (net.connect, option `onread`). */
  read(count: number, buffer: Uint8Array): boolean {
    if (this.#state === 'body' && buffer === this.#room) {
      this.#left -= count
      const more = this.#reader?.arrived(count) !== false
      if (this.#left === 0) this.#end()
      return more
    }
    // Our own room is used again at once.
    return this.#take(Buffer.from(buffer.subarray(0, count)))
  }

  #take(bytes: Buffer): boolean {
    if (this.#state === 'body') {
      const body = bytes.subarray(0, this.#left)
      this.#left -= body.length
      this.#early.push(body)
      if (this.#reader !== undefined) this.attach(this.#reader)
      return this.#reader !== undefined
    }
    if (this.#state === 'head') return this.#takeHead(bytes)
    // Nobody has asked for anything: it must not become the answer of the next request.
    if (this.#state === 'idle') this.#socket().destroy()
    else this.#socket().emit('data', bytes)
    return true
  }

  #takeHead(bytes: Buffer): boolean {
    const head = this.#head === undefined ? bytes : Buffer.concat([this.#head, bytes])
    const end = head.indexOf(HEAD_END)
    if (end < 0 && head.length < LONGEST_HEAD) {
      this.#head = head
      return true
    }
    this.#head = undefined
    const told = end < 0 ? undefined : standIn(head.toString('latin1', 0, end))
    const behind = end + HEAD_END.length
    if (told === undefined || head.length - behind > told.length) {
      this.#state = 'plain'
      this.#socket().emit('data', head)
      return true
    }
    this.#state = 'body'
    this.#reader = undefined
    this.#length = told.length
    this.#left = told.length - (head.length - behind)
    this.#early = [head.subarray(behind)]
    this.#socket().emit('data', Buffer.from(told.head + HEAD_END, 'latin1'))
    return this.#reader !== undefined
  }

  #end(): void {
    this.#state = 'idle'
    this.#reader = undefined
    this.#socket().emit('data', STAND_IN)
  }
}

/**
 * The head of an answer to a GET, its length replaced by that of the stand-in; undefined for one that is better left
 * alone: not 200 or 206, no body, no length or a doubtful one (RFC 9112, section 6.3), an interim answer.
 */
function standIn(head: string): { head: string; length: number } | undefined {
  const [status, ...fields] = head.split('\r\n')
  if (!/^HTTP\/1\.1 20[06](?: |$)/.test(status as string)) return undefined
  let length: string | undefined
  for (const [i, field] of fields.entries()) {
    // A folded line, or a lone carriage return or line feed: whose field a byte belongs to is the parser's to say.
    if (/^[ \t]|[\r\n\0]/.test(field) || /^transfer-encoding[ \t]*:/i.test(field)) return undefined
    if (!/^content-length[ \t]*:/i.test(field)) continue
    const value = /^content-length:[ \t]*(\d{1,15})[ \t]*$/i.exec(field)?.[1]
    if (value === undefined || length !== undefined) return undefined
    length = value
    fields[i] = `Content-Length: ${STAND_IN.length}`
  }
  if (length === undefined || Number(length) === 0) return undefined
  return { head: [status, ...fields].join('\r\n'), length: Number(length) }
}
