import { createHash } from 'node:crypto'
import { writeFile } from 'node:fs'
import { rm } from 'node:fs/promises'
import { dirname } from 'node:path'
import { systemCode, TimoneError } from '../errors.ts'
import type { Oid } from '../oid.ts'
import type { DownloadContext } from './download.ts'
import type { Progress } from './progress.ts'
import { checkAnswer } from './range-answer.ts'
import { receive } from './receive.ts'
import { folderError } from './resume-store.ts'

/**
 * Objects of so many bytes at most come whole into memory, are hashed there and written in one go: small ones come in
 * thousands, and what a file that is filled piece by piece needs costs more than their bytes. A try that fails begins anew.
 */
export const WHOLE_OBJECT: number = 256 * 1024

/**
 * Fetches one object into a new file at `path`, where nothing may be.
 * @throws `hash_mismatch`, `not_found`, `size_mismatch`, `disk_full`, `read_only`, …
 */
export async function downloadWhole(
  path: string,
  oid: Oid,
  size: number,
  { access, retrier, log }: DownloadContext,
  progress: Progress,
  signal: AbortSignal,
): Promise<void> {
  const attempt = async (): Promise<void> => {
    let arrived = 0
    try {
      const response = await access.get(oid, size, { offset: 0, end: size, signal })
      checkAnswer(response, { offset: 0, end: size, size, host: access.host, etag: undefined })
      const pieces: Buffer[] = []
      let collected = 0
      await receive(response, size, {
        wanted: () => size - arrived,
        onBytes: (bytes) => {
          arrived += bytes
          progress.add(bytes)
        },
        write: async (bytes) => {
          if (bytes.length === size) return keep(path, oid, bytes)
          // A slow line: it comes in several pieces, and their memory is not ours to hold.
          pieces.push(Buffer.from(bytes))
          collected += bytes.length
          if (collected === size) return keep(path, oid, Buffer.concat(pieces))
        },
      })
      if (arrived < size) throw new TimoneError('connection', `${access.host} ended the answer early`)
      if (size === 0) await keep(path, oid, Buffer.alloc(0))
    } catch (error) {
      progress.add(-arrived)
      throw error
    }
  }
  await retrier.run(access.host, attempt, {
    signal,
    onRetry: (error, delay) => log.warn({ oid, delay, code: error.code }, error.message),
  })
}

async function keep(path: string, oid: Oid, bytes: Buffer): Promise<void> {
  const digest = createHash('sha256').update(bytes).digest('hex')
  if (digest !== oid) throw damagedObject(digest, oid)
  try {
    await writeNew(path, bytes).catch(async (error: unknown) => {
      if (systemCode(error) !== 'EEXIST') throw error
      // A process of our number has left it.
      await rm(path, { force: true })
      await writeNew(path, bytes)
    })
  } catch (error) {
    throw folderError(error, dirname(path))
  }
}

/** Exclusive: never through a link that somebody has planted. */
const writeNew = (path: string, bytes: Buffer): Promise<void> =>
  new Promise((resolve, reject) => {
    writeFile(path, bytes, { flag: 'wx' }, (error) => (error === null ? resolve() : reject(error)))
  })

export const damagedObject = (digest: string, oid: Oid): TimoneError =>
  new TimoneError(
    'hash_mismatch',
    `the stored object is damaged: its SHA-256 is ${digest}, not ${oid}: push it again from a good clone`,
  )
