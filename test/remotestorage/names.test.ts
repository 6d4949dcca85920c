import fc from 'fast-check'
import { expect, test } from 'vitest'
import { fromGitName, parseStoragePath, printStoragePath, toGitName } from '../../src/remotestorage/names.ts'

test('reads paths without resolving anything', () => {
  expect(parseStoragePath('/')).toEqual({ segments: [], folder: true })
  expect(parseStoragePath('/a/b%20c')).toEqual({ segments: ['a', 'b c'], folder: false })
  expect(parseStoragePath('/a/%2E%2e.b/')).toEqual({ segments: ['a', '...b'], folder: true })
})

test.each([
  ['a dot segment', '/a/../b'],
  ['a single dot', '/./b'],
  ['an encoded dot segment', '/a/%2e%2e/b'],
  ['a half encoded one', '/a/.%2E'],
  ['NUL', '/a%00b'],
  ['an encoded slash', '/a%2fb'],
  ['an empty name', '/a//b'],
  ['overlong UTF-8', '/%c0%ae%c0%ae/b'],
  ['half a surrogate pair', '/%ed%a0%80'],
  ['bytes that are no UTF-8', '/%ff%fe'],
  ['a broken escape', '/a%2'],
  ['no slash at the start', 'a'],
])('refuses %s', (_, raw) => {
  expect(() => parseStoragePath(raw)).toThrow(expect.objectContaining({ code: 'malformed' }))
})

test('refuses names and paths that are too long', () => {
  const code = { code: 'uri_too_long' }
  expect(parseStoragePath(`/${'n'.repeat(255)}`).segments).toHaveLength(1)
  expect(() => parseStoragePath(`/${'n'.repeat(256)}`)).toThrow(expect.objectContaining(code))
  expect(() => parseStoragePath(`/${'%E2%82%AC'.repeat(86)}`)).toThrow(expect.objectContaining(code))
  expect(() => parseStoragePath(`/${'a/'.repeat(2100)}`)).toThrow(expect.objectContaining(code))
})

test.each([
  '.git',
  '.GIT',
  '.git ',
  '.git...',
  '.git::$INDEX_ALLOCATION',
  '.g\u200cit',
  '\ufeff.git',
  'git~1',
  'GIT~2',
  'gi7eba~1',
  '.gitattributes',
  '.gitmodules',
  '.lfsconfig',
  'a\\.git',
  '..\\x',
  '%',
  '%.git',
])('hides %j from Git', (name) => {
  const hidden = toGitName(name)
  expect(hidden).toMatch(/^%[^\\]*$/)
  expect(fromGitName(hidden)).toBe(name)
})

test.each(['git', 'a.git', 'gift', 'photo 1.jpg', 'ÄÖ', '#x', '!x', '100%'])('leaves %j alone', (name) => {
  expect(toGitName(name)).toBe(name)
})

test('gives every name back, and no two names the same', () => {
  const name = fc.string({
    unit: fc.constantFrom(...'.gitGIT~1%5C2\\ \u200c\ufeff"*[?#!\t\n', 'é', '😀'),
    maxLength: 12,
  })
  fc.assert(fc.property(name, (text) => fromGitName(toGitName(text)) === text))
  fc.assert(fc.property(name, name, (a, b) => a === b || toGitName(a) !== toGitName(b)))
  const legal = name.filter((text) => !['', '.', '..'].includes(text))
  fc.assert(
    fc.property(fc.array(legal, { minLength: 1, maxLength: 4 }), fc.boolean(), (segments, folder) => {
      expect(parseStoragePath(printStoragePath({ segments, folder }))).toEqual({ segments, folder })
    }),
  )
})
