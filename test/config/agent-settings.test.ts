import { homedir } from 'node:os'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { parseAgentSettings } from '../../src/config/agent-settings.ts'
import { isTimoneError } from '../../src/errors.ts'

describe('parseAgentSettings', () => {
  test('defaults', () => {
    const settings = parseAgentSettings(new Map([['user.name', 'Bob']]))
    expect(settings).toEqual({
      partSize: 8 * 2 ** 20,
      parallelParts: 16,
      maxBandwidth: 0,
      cacheDir: undefined,
      cacheSize: 10 * 2 ** 30,
    })
    expect(Object.isFrozen(settings)).toBe(true)
  })

  test.each([
    ['5m', 5 * 2 ** 20],
    ['5M', 5 * 2 ** 20],
    ['8192k', 8 * 2 ** 20],
    ['5g', 5 * 2 ** 30],
    ['5242880', 5 * 2 ** 20],
  ])('timone.partSize %s is %d bytes', (text, bytes) => {
    expect(parseAgentSettings(new Map([['timone.partsize', text]])).partSize).toBe(bytes)
  })

  test.each(['5242879', '4m', '6g', '', 'x', '16MB', '-16m', '1.5g', '16 m', 'true'])(
    'refuses timone.partSize %j and names the key',
    (text) => {
      expect(() => parseAgentSettings(new Map([['timone.partsize', text]]))).toThrow(
        expect.toSatisfy(
          (error) =>
            isTimoneError(error, 'config') &&
            error.message.includes('timone.partSize') &&
            error.message.includes('5m to 5g'),
        ),
      )
    },
  )

  test('timone.parallelParts is 1 to 64', () => {
    expect(parseAgentSettings(new Map([['timone.parallelparts', '1']])).parallelParts).toBe(1)
    expect(parseAgentSettings(new Map([['timone.parallelparts', '64']])).parallelParts).toBe(64)
    for (const text of ['0', '65', '1k', 'many']) {
      expect(() => parseAgentSettings(new Map([['timone.parallelparts', text]]))).toThrow(
        'timone.parallelParts',
      )
    }
  })

  test('timone.cacheDir is an absolute path, or below the home folder', () => {
    const read = (text: string) => parseAgentSettings(new Map([['timone.cachedir', text]])).cacheDir
    expect(read('/var/cache/timone')).toBe('/var/cache/timone')
    expect(read('~/.cache/timone')).toBe(join(homedir(), '.cache/timone'))
    expect(read('')).toBeUndefined()
    for (const text of ['cache', './cache', '../cache', '~', '~bob/cache'])
      expect(() => read(text)).toThrow('timone.cacheDir')
  })

  test.each([
    ['0', 0],
    ['500m', 500 * 2 ** 20],
    ['2T', 2 * 2 ** 40],
    ['1000', 1000],
  ])('timone.cacheSize %s is %d bytes', (text, bytes) => {
    expect(parseAgentSettings(new Map([['timone.cachesize', text]])).cacheSize).toBe(bytes)
  })

  test.each(['', '-1', '10gb', 'unlimited', '999999999999999t'])('refuses timone.cacheSize %j', (text) => {
    expect(() => parseAgentSettings(new Map([['timone.cachesize', text]]))).toThrow('timone.cacheSize')
  })
})
