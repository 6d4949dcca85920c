import type { Operation } from '../access/credentials.ts'
import { TimoneError } from '../errors.ts'

/**
 * Messages of the custom transfer protocol (git-lfs docs/custom-transfers.md): one JSON object a line.
 * No I/O in this file.
 */

export interface InitMessage {
  event: 'init'
  operation: Operation
  /** Remote's name, or its URL, which may hold a password: never log it. */
  remote: string
  concurrent: boolean
  concurrenttransfers: number
}

/** Where and how to transfer. `header` carries a secret; `expires_at` is year 1 when the server set none. */
export interface Action {
  href: string
  header: Record<string, string>
  expires_at?: string
}

/** In an action's header: the store holds a damaged object under this oid, which is to be replaced. */
export const REPLACE = 'Timone-Replace'

export interface TransferMessage {
  event: Operation
  oid: string
  size: number
  /** The file to read; for uploads only. */
  path?: string
  /** Null in standalone mode. */
  action: Action | null
}

export interface TerminateMessage {
  event: 'terminate'
}

export type IncomingMessage = InitMessage | TransferMessage | TerminateMessage

/** `code` must be an integer: git-lfs drops the whole message otherwise. */
export interface WireError {
  code: number
  message: string
}

export interface ProgressMessage {
  event: 'progress'
  oid: string
  bytesSoFar: number
  bytesSinceLast: number
}

export interface CompleteMessage {
  event: 'complete'
  oid: string
  /** The downloaded file, which git-lfs renames into place. */
  path?: string
  error?: WireError
}

/** The answer to `init`: empty, or an error that makes git-lfs give up the whole queue. */
export interface InitAnswer {
  error?: WireError
}

export type OutgoingMessage = InitAnswer | ProgressMessage | CompleteMessage

type Json = Record<string, unknown>

const isObject = (value: unknown): value is Json =>
  typeof value === 'object' && value !== null && !Array.isArray(value)

/**
 * One line as a message. Checks shapes only: whether an oid is well-formed is for the transfer to say, so that
 * the object it names gets an answer.
 * @throws {TimoneError} `invalid` with a message that never quotes the line, which may hold a token.
 */
export function parseMessage(line: string): IncomingMessage {
  let json: unknown
  try {
    json = JSON.parse(line)
  } catch {
    throw new TimoneError('invalid', 'a line that is not JSON')
  }
  if (!isObject(json)) throw new TimoneError('invalid', 'a line that is not a JSON object')
  switch (json.event) {
    case 'init':
      return parseInit(json)
    case 'upload':
    case 'download':
      return parseTransfer(json, json.event)
    case 'terminate':
      return { event: 'terminate' }
    default:
      throw new TimoneError(
        'invalid',
        'a message with an event that is none of init, upload, download, terminate',
      )
  }
}

function parseInit(json: Json): InitMessage {
  if (json.operation !== 'upload' && json.operation !== 'download') {
    throw new TimoneError('invalid', 'init with an operation that is neither upload nor download')
  }
  return {
    event: 'init',
    operation: json.operation,
    remote: typeof json.remote === 'string' ? json.remote : '',
    concurrent: json.concurrent === true,
    concurrenttransfers: typeof json.concurrenttransfers === 'number' ? json.concurrenttransfers : 1,
  }
}

function parseTransfer(json: Json, event: Operation): TransferMessage {
  const message: TransferMessage = {
    event,
    oid: typeof json.oid === 'string' ? json.oid : '',
    size: typeof json.size === 'number' ? json.size : Number.NaN,
    action: null,
  }
  if (typeof json.path === 'string') message.path = json.path
  if (isObject(json.action)) message.action = parseAction(json.action)
  return message
}

function parseAction(json: Json): Action {
  const header: Record<string, string> = {}
  if (isObject(json.header)) {
    for (const [name, value] of Object.entries(json.header)) {
      if (typeof value === 'string') header[name] = value
    }
  }
  const action: Action = { href: typeof json.href === 'string' ? json.href : '', header }
  if (typeof json.expires_at === 'string') action.expires_at = json.expires_at
  return action
}
