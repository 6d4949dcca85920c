import { describe, expect, test } from 'vitest'
import { Slots } from '../../src/agent/slots.ts'
import { TimoneError } from '../../src/errors.ts'

const never = new AbortController().signal

/** Work that lasts until it is let go, and notes when it began. */
function job(begun: string[], name: string) {
  let finish: () => void = () => {}
  const ended = new Promise<void>((resolve) => {
    finish = resolve
  })
  const work = async (): Promise<string> => {
    begun.push(name)
    await ended
    return name
  }
  return { work, finish }
}

const settle = (): Promise<void> => new Promise((resolve) => setImmediate(resolve))

describe('Slots', () => {
  test('runs so much at once, the rest in the order of asking', async () => {
    const slots = new Slots(2)
    const begun: string[] = []
    const jobs = ['a', 'b', 'c', 'd'].map((name) => job(begun, name))
    const runs = jobs.map(({ work }) => slots.run(1, never, work))
    await settle()
    expect(begun).toEqual(['a', 'b'])
    jobs[1]?.finish()
    await settle()
    expect(begun).toEqual(['a', 'b', 'c'])
    for (const { finish } of jobs) finish()
    expect(await Promise.all(runs)).toEqual(['a', 'b', 'c', 'd'])
  })

  test('a heavy one waits for room, and light ones behind it do not pass', async () => {
    const slots = new Slots(4)
    const begun: string[] = []
    const [light, heavy, later] = ['light', 'heavy', 'later'].map((name) => job(begun, name)) as [
      ReturnType<typeof job>,
      ReturnType<typeof job>,
      ReturnType<typeof job>,
    ]
    const runs = [
      slots.run(1, never, light.work),
      slots.run(4, never, heavy.work),
      slots.run(1, never, later.work),
    ]
    await settle()
    expect(begun).toEqual(['light'])
    light.finish()
    await settle()
    expect(begun).toEqual(['light', 'heavy'])
    heavy.finish()
    later.finish()
    await Promise.all(runs)
    expect(begun).toEqual(['light', 'heavy', 'later'])
  })

  test('whoever is stopped while waiting leaves, and those behind move up', async () => {
    const slots = new Slots(2)
    const begun: string[] = []
    const first = job(begun, 'first')
    const heavy = job(begun, 'heavy')
    const last = job(begun, 'last')
    const stop = new AbortController()
    const running = slots.run(1, never, first.work)
    const waiting = slots.run(2, stop.signal, heavy.work)
    const behind = slots.run(1, never, last.work)
    stop.abort(new TimoneError('cancelled', 'interrupted'))
    await expect(waiting).rejects.toMatchObject({ code: 'cancelled' })
    await settle()
    expect(begun).toEqual(['first', 'last'])
    first.finish()
    last.finish()
    await Promise.all([running, behind])
  })

  test('a failure gives its slots back', async () => {
    const slots = new Slots(1)
    await expect(slots.run(1, never, () => Promise.reject(new Error('no')))).rejects.toThrow('no')
    expect(await slots.run(1, never, async () => 'yes')).toBe('yes')
  })
})
