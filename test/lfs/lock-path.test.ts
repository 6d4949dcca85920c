import { describe, expect, test } from 'vitest'
import { lockPathKey, parseLockPath } from '../../src/lfs/lock-path.ts'

describe('parseLockPath', () => {
  test.each([
    'a.psd',
    'art/a b.psd',
    '.hidden',
    '..a/b..',
    'тимоне/☃ é.bin',
    'back\\slash',
    'a:b',
    'x'.repeat(4096),
  ])('%s is a path', (path) => expect(parseLockPath(path)).toBe(path))

  test.each([
    '',
    '/etc/passwd',
    '\\\\host\\share',
    'C:\\a',
    'c:/a',
    '..',
    '../x',
    'a/../../x',
    'a\\..\\x',
    'a/..',
    'a//b',
    'a/',
    './a',
    'a/./b',
    'a\0b',
    'a\u001b[2Jb',
    'a\nb',
    'a\tb',
    'a\u007fb',
    'a\u009b2Jb',
    '\ud800',
    'x'.repeat(4097),
    'é'.repeat(2049),
    7,
    null,
    undefined,
    ['a'],
  ])('%j is none', (path) => expect(() => parseLockPath(path)).toThrow('not a path that can be locked'))
})

describe('lockPathKey', () => {
  test.each([
    ['A.psd', 'a.psd'],
    ['ÉTÉ/x', 'été/x'],
    ['caf\u00e9', 'cafe\u0301'],
    ['CAFE\u0301', 'caf\u00e9'],
    ['ΟΔΟΣ', 'οδος'],
    ['ΟΔΟΣ', 'οδοσ'],
    ['a\\b', 'a/B'],
  ])('%s and %s are one file somewhere', (one, other) => expect(lockPathKey(one)).toBe(lockPathKey(other)))

  test.each([
    ['a', 'b'],
    ['a/b', 'ab'],
    ['sik', 'sık'],
    ['Straße', 'Strasse'],
    ['cafe', 'café'],
  ])('%s and %s are not', (one, other) => expect(lockPathKey(one)).not.toBe(lockPathKey(other)))
})
