import type { ErrorCode } from '../errors.ts'
import type { TransferMessage } from './protocol.ts'
import type { SessionEnd } from './session.ts'

/** What the front and the engine say to each other: one JSON object a line, both ends of the same release. No I/O here. */

export type EngineRequest =
  | { id: number; message: TransferMessage }
  /** Stop, and say so by an error of code `cancelled`; the text says why. */
  | { id: number; cancel: string }
  /** No more requests will come. What was begun ahead is of no use when git-lfs has finished, and the next run's otherwise. */
  | { close: SessionEnd }

export type EngineAnswer =
  /** So many bytes of the object were moved in total. */
  | { id: number; bytes: number }
  | { id: number; done: { path?: string } }
  | { id: number; error: { code: ErrorCode; message: string } }
