import type { Readable } from 'node:stream'
import { isTimoneError, systemCode, TimoneError } from '../errors.ts'

/** Where the bytes of an answer go. */
export interface Sink {
  /** Bytes that are wanted still. May become less while they come: what is behind them then stays unread. */
  wanted(): number
  /** So many wanted bytes have arrived. */
  onBytes(bytes: number): void
  /** Puts the next bytes away; never called again before it has returned. Its failure is the reading's. */
  write(chunks: Buffer[], bytes: number): Promise<void>
}

/** Bytes that are collected before they are written: a system call for each packet costs more than the packet. */
const WRITE_SIZE = 512 * 1024
/** Milliseconds after which they are written even if they are few: on a slow line, and before a stall. */
const WRITE_INTERVAL = 100

/**
 * Reads a body that announces `length` bytes into `sink`, and returns when all that were wanted are written. The socket
 * waits while the disk is slow: at most two writes' worth is held. A body of which less is wanted is cut short, with its
 * connection. What has arrived is written also when the reading fails.
 * @throws `size_mismatch` for a body that goes on behind its length, `connection`, and what `sink.write` and the
 * client threw
 */
export function receive(body: Readable, length: number, sink: Sink): Promise<void> {
  return new Promise((resolve, reject) => {
    let arrived = 0
    let collected: Buffer[] = []
    let bytes = 0
    let writing = false
    let ended = false
    let failure: unknown
    let timer: NodeJS.Timeout | undefined

    const settle = (): void => {
      clearTimeout(timer)
      if (failure === undefined) resolve()
      else reject(failure)
    }
    const wait = (): void => {
      timer ??= setTimeout(flush, WRITE_INTERVAL)
    }
    const flush = (): void => {
      clearTimeout(timer)
      timer = undefined
      if (writing) return
      if (bytes === 0) {
        if (ended) settle()
        return
      }
      const [chunks, count] = [collected, bytes]
      collected = []
      bytes = 0
      writing = true
      sink.write(chunks, count).then(
        () => {
          writing = false
          if (ended || bytes >= WRITE_SIZE) flush()
          else if (bytes > 0) wait()
          if (body.isPaused()) body.resume()
        },
        (error: unknown) => {
          failure = error
          writing = false
          ended = true
          body.destroy()
          settle()
        },
      )
    }
    const end = (error?: unknown): void => {
      if (ended) return
      ended = true
      failure = error
      flush()
    }

    body.on('data', (chunk: Buffer) => {
      if (ended) return
      arrived += chunk.length
      const wanted = sink.wanted()
      const part = chunk.length > wanted ? chunk.subarray(0, wanted) : chunk
      if (part.length > 0) {
        collected.push(part)
        bytes += part.length
        sink.onBytes(part.length)
      }
      if (arrived > length) {
        end(new TimoneError('size_mismatch', `more than the ${length} bytes asked for arrived`))
        body.destroy()
      } else if (wanted === part.length && arrived < length) {
        end()
        body.destroy()
      } else if (bytes >= WRITE_SIZE) {
        if (writing) body.pause()
        else flush()
      } else if (arrived < length) {
        wait()
      }
    })
    body.on('end', () => end())
    body.on('error', (error: unknown) => end(isTimoneError(error) ? error : broken(error)))
    body.on('close', () => {
      if (!ended) end(broken(undefined))
    })
    // It broke before anybody listened.
    if (body.destroyed) end(broken(body.errored))
  })
}

function broken(cause: unknown): TimoneError {
  return new TimoneError(
    'connection',
    `the connection broke in the middle of the object (${systemCode(cause) ?? 'ended'})`,
    { cause },
  )
}
