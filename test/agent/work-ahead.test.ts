import { existsSync } from 'node:fs'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest'
import { hrefWithPlan, type PlannedObject } from '../../src/access/plan.ts'
import { Progress } from '../../src/agent/progress.ts'
import type { TransferMessage } from '../../src/agent/protocol.ts'
import type { Transfer, TransferOptions } from '../../src/agent/session.ts'
import { WorkAhead } from '../../src/agent/work-ahead.ts'
import { TimoneError } from '../../src/errors.ts'
import { nullLogger as log } from '../../src/log.ts'
import { parseOid } from '../../src/oid.ts'

const HREF = 'https://lfs.example/org/repo/info/lfs/credentials'
const LARGE = 1000
const never = new AbortController().signal

const oidOf = (number: number): PlannedObject['oid'] => parseOid(number.toString(16).padStart(64, '0'))
const planOf = (count: number, size = 10): PlannedObject[] =>
  Array.from({ length: count }, (_, at) => ({ oid: oidOf(at), size, replace: false }))

const storage = '/repository/.git/lfs'
const pathOf = (oid: string): string => join(storage, 'objects', oid.slice(0, 2), oid.slice(2, 4), oid)

/** What git-lfs sends for object `number`, with the batch's plan in its action where there is one. */
function ask(
  event: 'upload' | 'download',
  number: number,
  plan: readonly PlannedObject[] = [],
  size = 10,
): TransferMessage {
  const oid = oidOf(number)
  return {
    event,
    oid,
    size,
    ...(event === 'upload' ? { path: pathOf(oid) } : {}),
    action: {
      href: plan.length > 0 ? hrefWithPlan(HREF, plan) : HREF,
      header: { Authorization: 'Bearer token' },
    },
  }
}

interface Begun {
  message: TransferMessage
  progress: Progress
  signal: AbortSignal
  options: TransferOptions | undefined
  finish: (result?: { path?: string }) => void
  fail: (error: Error) => void
}

/** A mover that does nothing by itself: each test says what becomes of each object. */
function mover() {
  const begun: Begun[] = []
  const move: Transfer = (message, progress, signal, options) =>
    new Promise((resolve, reject) => {
      signal.addEventListener('abort', () => reject(signal.reason))
      begun.push({
        message,
        progress,
        signal,
        options,
        finish: (result = {}) => resolve(result),
        fail: reject,
      })
    })
  const ahead = new WorkAhead({ move, isLarge: (size) => size >= LARGE, log })
  const of = (number: number): Begun => {
    const found = begun.findLast(({ message }) => message.oid === oidOf(number))
    if (found === undefined) throw new Error(`object ${number} was not begun`)
    return found
  }
  return { begun, ahead, of }
}

const quiet = (): Progress => new Progress(10, () => true)

describe('WorkAhead', () => {
  test('without a plan moves what is asked for, and nothing else', async () => {
    const { begun, ahead, of } = mover()
    const moving = ahead.transfer(ask('download', 0), quiet(), never)
    of(0).finish({ path: '/there' })
    expect(await moving).toEqual({ path: '/there' })
    expect(begun).toHaveLength(1)
  })

  test('begins what is planned, after what is asked for, each object once although the plan comes twice', async () => {
    const { begun, ahead, of } = mover()
    const plan = planOf(5)
    const first = ahead.transfer(ask('download', 0, plan), quiet(), never)
    const second = ahead.transfer(ask('download', 1, plan), quiet(), never)
    expect(begun.map(({ message }) => message.oid)).toEqual(plan.map(({ oid }) => oid))
    for (const { finish, message } of begun) finish({ path: `/${message.oid}` })
    expect(await first).toEqual({ path: `/${oidOf(0)}` })
    expect(await second).toEqual({ path: `/${oidOf(1)}` })
    const third = ahead.transfer(ask('download', 4), quiet(), never)
    expect(await third).toEqual({ path: `/${oidOf(4)}` })
    expect(begun).toHaveLength(5)
    expect(of(4).options?.leaveNothing?.()).toBe(false)
  })

  test('the plan does not go along with the action', () => {
    const { begun, ahead } = mover()
    void ahead.transfer(ask('download', 0, planOf(3)), quiet(), never)
    expect(begun.map(({ message }) => message.action?.href)).toEqual([HREF, HREF, HREF])
  })

  test('an upload’s file is where git-lfs keeps its objects, and damaged ones are replaced', () => {
    const { begun, ahead } = mover()
    const plan = planOf(3)
    plan[2] = { oid: oidOf(2), size: 10, replace: true }
    void ahead.transfer(ask('upload', 0, plan), quiet(), never)
    expect(begun.map(({ message }) => message.path)).toEqual([0, 1, 2].map((number) => pathOf(oidOf(number))))
    expect(begun.map(({ message }) => message.action?.header)).toEqual([
      { Authorization: 'Bearer token' },
      { Authorization: 'Bearer token' },
      { Authorization: 'Bearer token', 'Timone-Replace': '1' },
    ])
  })

  test('an upload from elsewhere says nothing about where the others are', () => {
    const { begun, ahead } = mover()
    void ahead.transfer({ ...ask('upload', 0, planOf(3)), path: '/elsewhere/file' }, quiet(), never)
    expect(begun).toHaveLength(1)
  })

  test('at most 64 small objects, or 8 large ones, beyond what was asked for', () => {
    const small = mover()
    const plan = planOf(200)
    void small.ahead.transfer(ask('download', 0, plan), quiet(), never)
    expect(small.begun).toHaveLength(1 + 64)
    void small.ahead.transfer(ask('download', 1), quiet(), never)
    expect(small.begun).toHaveLength(1 + 65)
    const large = mover()
    void large.ahead.transfer(ask('download', 0, planOf(200, LARGE), LARGE), quiet(), never)
    expect(large.begun).toHaveLength(1 + 8)
  })

  test('progress is held back until git-lfs asks, and is whole then', async () => {
    const { ahead, of } = mover()
    void ahead.transfer(ask('download', 0, planOf(2)), quiet(), never)
    of(1).progress.add(4)
    const reports: number[] = []
    const progress = new Progress(10, ({ bytesSoFar }) => {
      reports.push(bytesSoFar)
      return true
    })
    const moving = ahead.transfer(ask('download', 1), progress, never)
    expect(reports).toEqual([4])
    of(1).progress.add(6)
    of(1).finish({ path: '/there' })
    await moving
    progress.finish()
    expect(reports.at(-1)).toBe(10)
  })

  test('what failed before anybody asked is tried anew for whoever asks', async () => {
    const { begun, ahead, of } = mover()
    void ahead.transfer(ask('download', 0, planOf(2)), quiet(), never)
    expect(of(1).options?.leaveNothing?.()).toBe(true)
    of(1).fail(new TimoneError('connection', 'reset'))
    await new Promise((resolve) => setImmediate(resolve))
    const moving = ahead.transfer(ask('download', 1), quiet(), never)
    expect(begun).toHaveLength(3)
    of(1).finish({ path: '/there' })
    expect(await moving).toEqual({ path: '/there' })
  })

  test('what fails after git-lfs has asked is its answer, and may leave what can be continued', async () => {
    const { ahead, of } = mover()
    void ahead.transfer(ask('download', 0, planOf(2)), quiet(), never)
    const moving = ahead.transfer(ask('download', 1), quiet(), never)
    expect(of(1).options?.leaveNothing?.()).toBe(false)
    of(1).fail(new TimoneError('denied', 'no'))
    await expect(moving).rejects.toMatchObject({ code: 'denied' })
  })

  test('stopping the one that asks stops what was begun for it', async () => {
    const { ahead, of } = mover()
    void ahead.transfer(ask('download', 0, planOf(2)), quiet(), never)
    const stop = new AbortController()
    const moving = ahead.transfer(ask('download', 1), quiet(), stop.signal)
    stop.abort(new TimoneError('cancelled', 'interrupted'))
    await expect(moving).rejects.toMatchObject({ code: 'cancelled' })
    expect(of(1).signal.aborted).toBe(true)
  })

  test('a plan that cannot be read is no obstacle', async () => {
    const { begun, ahead, of } = mover()
    const message = ask('download', 0)
    const action = { href: `${HREF}#plan=!!`, header: {} }
    const moving = ahead.transfer({ ...message, action }, quiet(), never)
    expect(of(0).message.action?.href).toBe(HREF)
    of(0).finish({ path: '/there' })
    await moving
    expect(begun).toHaveLength(1)
  })

  describe('closing', () => {
    let folder: string
    beforeEach(async () => {
      folder = await mkdtemp(join(tmpdir(), 'timone-ahead-'))
    })
    afterEach(() => rm(folder, { recursive: true }))

    test('stops what was not asked for, removes what is there of it, and keeps the rest', async () => {
      const warn = vi.fn()
      process.on('unhandledRejection', warn)
      const { ahead, of } = mover()
      const plan = planOf(3)
      void ahead.transfer(ask('download', 0, plan), quiet(), never)
      const [asked, finished] = [join(folder, 'asked'), join(folder, 'finished')]
      for (const path of [asked, finished]) await writeFile(path, 'bytes')
      of(0).finish({ path: asked })
      of(1).finish({ path: finished })
      await ahead.close('finished')
      expect(of(2).signal.aborted).toBe(true)
      expect(of(2).options?.leaveNothing?.()).toBe(true)
      expect(existsSync(finished)).toBe(false)
      expect(existsSync(asked)).toBe(true)
      process.off('unhandledRejection', warn)
      expect(warn).not.toHaveBeenCalled()
    })

    test('where git-lfs was cut off, the next run can go on with all of it', async () => {
      const { ahead, of } = mover()
      void ahead.transfer(ask('download', 0, planOf(3)), quiet(), never).catch(() => {})
      const finished = join(folder, 'finished')
      await writeFile(finished, 'bytes')
      of(1).finish({ path: finished })
      await ahead.close('cut')
      expect(of(2).signal.aborted).toBe(true)
      expect(of(2).options?.leaveNothing?.()).toBe(false)
      expect(existsSync(finished)).toBe(true)
    })
  })
})
