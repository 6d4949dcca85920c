import { execFileSync } from 'node:child_process'
import { createHash, randomBytes } from 'node:crypto'
import {
  existsSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import type { IncomingMessage } from 'node:http'
import { hostname, tmpdir } from 'node:os'
import { join } from 'node:path'
import { Readable } from 'node:stream'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { Retrier } from '../../src/access/retry.ts'
import { downloadObject } from '../../src/agent/download.ts'
import type { GetRequest, ObjectAccess } from '../../src/agent/object-access.ts'
import { Progress } from '../../src/agent/progress.ts'
import { ResumeStore } from '../../src/agent/resume-store.ts'
import { nullLogger } from '../../src/log.ts'
import { parseOid } from '../../src/oid.ts'

const content = randomBytes(100_000)
const oid = parseOid(createHash('sha256').update(content).digest('hex'))
const DEAD_PID = 2 ** 22 + 1

let storage: string
beforeEach(() => {
  storage = mkdtempSync(join(tmpdir(), 'timone-download-'))
})
afterEach(() => rmSync(storage, { recursive: true, force: true }))

/** Downloads from a store that answers as told. */
function download(
  answer: (request: GetRequest) => {
    status: number
    headers?: Record<string, string>
    body: Iterable<Buffer>
  },
) {
  const access: ObjectAccess = {
    host: 'store.example',
    get: async (_oid, _size, request) => {
      const { status, headers = {}, body } = answer(request)
      return { status, headers, body: Readable.from(body) as IncomingMessage }
    },
    openUpload: () => Promise.reject(new Error('not asked for')),
  }
  const context = {
    access,
    resume: new ResumeStore(storage),
    retrier: new Retrier({ retries: 2, maxDelay: 0.01 }),
    log: nullLogger,
    mode: undefined,
  }
  return downloadObject(
    oid,
    content.length,
    context,
    new Progress(content.length, () => true),
    new AbortController().signal,
  )
}

const left = (): string[] => readdirSync(join(storage, 'timone'))
const partialOf = (pid: number): string =>
  join(storage, 'timone', `${oid}.${hostname().replace(/[^A-Za-z0-9-]/g, '_')}.${pid}.part`)

describe('downloadObject', () => {
  test('writes the object beside the LFS objects', async () => {
    const path = await download(() => ({ status: 200, body: [content] }))
    expect(path.startsWith(join(storage, 'timone'))).toBe(true)
    expect(readFileSync(path).equals(content)).toBe(true)
  })

  test('an answer without an end is cut off at the size, and nothing stays', async () => {
    let given = 0
    const endless = function* () {
      for (;;) {
        given += 65_536
        yield Buffer.alloc(65_536)
      }
    }
    await expect(download(() => ({ status: 200, body: endless() }))).rejects.toMatchObject({
      code: 'size_mismatch',
    })
    expect(given).toBeLessThan(20 * 65_536)
    expect(left()).toEqual([])
  })

  test('goes on with what a dead process left', async () => {
    await new ResumeStore(storage).prepare()
    writeFileSync(partialOf(DEAD_PID), content.subarray(0, 40_000))
    const asked: number[] = []
    const path = await download(({ offset }) => {
      asked.push(offset)
      const headers = { 'content-range': `bytes ${offset}-${content.length - 1}/${content.length}` }
      return { status: 206, headers, body: [content.subarray(offset)] }
    })
    expect(asked).toEqual([40_000])
    expect(readFileSync(path).equals(content)).toBe(true)
  })

  test('never writes through a link that somebody has planted', async () => {
    await new ResumeStore(storage).prepare()
    const victim = join(storage, 'victim')
    writeFileSync(victim, 'precious')
    for (const pid of [DEAD_PID, process.pid]) {
      symlinkSync(victim, partialOf(pid))
      await download(() => ({ status: 200, body: [content] })).catch(() => {})
      expect(readFileSync(victim, 'utf8')).toBe('precious')
      rmSync(partialOf(process.pid), { force: true })
    }
  })

  test('does not wait for a pipe in place of its notes', async () => {
    const resume = new ResumeStore(storage)
    await resume.prepare()
    const notes = join(storage, 'timone', `${oid}.upload.json`)
    execFileSync('mkfifo', [notes])
    expect(await resume.claimUpload(oid, { target: 't', size: 1, mtimeMs: 1 })).toBeUndefined()
    expect(existsSync(notes)).toBe(false)
  })
})
