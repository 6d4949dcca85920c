import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { type PathPatterns, pathFilter } from '../../src/git/path-filter.ts'
import { gitLfsVersions } from '../helpers/git-lfs.ts'
import { GitSandbox } from '../helpers/git-sandbox.ts'

const PATHS = [
  'a.bin',
  'b.bin',
  'foo.bin',
  'Foo.bin',
  'foo/x.bin',
  'foo/y.bin',
  'foo/foo/z.bin',
  'a/foo.bin',
  'a/foo/x.bin',
  'a/b/foo.bin',
  'a/b/c/d.bin',
  'a/b/c/b/e.bin',
  'b/c/d.bin',
  'b/a/b/c.bin',
  'x/a/b/c/b/c/y.bin',
  'a b/c d.bin',
  'é/é.bin',
  'fé.bin',
  '日本/語.bin',
  '[x]/[y].bin',
  'star*/q?.bin',
  'back\\slash.bin',
  '!bang.bin',
  '#hash.bin',
  'dash-.bin',
  'A/B.bin',
  '1/2.bin',
  '_/-.bin',
  '.hidden/.dot.bin',
  'deep/1/2/3/4/5/6/7.bin',
  'comma,name.bin',
  '\u00a0.bin',
  'x]y.bin',
  'a^b.bin',
]

const PATTERNS = [
  '',
  ' ',
  ',',
  'foo',
  'foo/',
  '/foo',
  '/foo/',
  'foo.bin',
  '/foo.bin',
  'a',
  'a/',
  '/a',
  'a/b',
  'a/b/',
  '/a/b',
  'a//b',
  'b',
  'b/c',
  '*',
  '*.bin',
  '**',
  '**/*',
  '*/*',
  '*/*/*',
  '/*',
  '/*.bin',
  '/*/',
  'a/*',
  'a/**',
  'a/*/c',
  'a/**/c',
  'a/**/b/c',
  'a/**/b/e.bin',
  '**/b',
  '**/b/',
  '**/b/c',
  '**/b/**/c',
  '**/b/**/y.bin',
  '**/foo',
  '**/foo/**',
  '**/**/foo',
  'x/**/**/c',
  '**/a/**/b/**',
  'foo/**/z.bin',
  'f?o',
  'f?o.bin',
  'f??o',
  'f?.bin',
  'f??.bin',
  '?.bin',
  '??.bin',
  '?',
  '???',
  'foo*',
  '*oo',
  '*o*',
  '*o*o*',
  'f*',
  '*/foo',
  '*/x.bin',
  '*/foo.bin',
  '[ab]',
  '[ab].bin',
  '[!a]',
  '[^a]',
  '[!a].bin',
  '[a-c].bin',
  '[c-a].bin',
  '[a-]',
  '[]',
  '[abc',
  '[!ab',
  '[a-c]/[a-c]',
  '[[:alpha:]].bin',
  '[[:digit:]]',
  '[[:upper:]]',
  '[[:ALPHA:]]',
  '[^[:alpha:]]*',
  '[[:punct:]]*',
  '[é]*',
  '[f]é.bin',
  '*[é].bin',
  '[[:alpha:]]',
  '[[:space:]].bin',
  '[[:lower:][:digit:]]/*',
  '[[:alnum:]_]',
  '[a\\]]',
  '\\[x\\]',
  '\\[x\\]/*',
  '[[]x]',
  '[x]',
  'star\\*',
  'star*',
  'star\\*/q\\?.bin',
  'star\\*/q?.bin',
  'back\\slash.bin',
  'back\\\\slash.bin',
  '\\a',
  'a\\b',
  '\\#hash.bin',
  '#hash.bin',
  '!bang.bin',
  '!a',
  '\\!bang.bin',
  '.',
  './',
  './a',
  './foo',
  '..',
  '.hidden',
  '.*',
  'A',
  'FOO',
  'a b',
  ' a , b ',
  'a,b',
  'a,,b',
  ',a',
  'a b/c d.bin',
  '日本',
  '日本/',
  '日?',
  '日???',
  '日*',
  '*語.bin',
  'deep',
  'deep/**',
  'deep/**/7.bin',
  'deep/*/3',
  'deep/1/2',
  '/deep/1',
  'comma\\,name.bin',
  'comma?name.bin',
  '/',
  '//',
  '///',
  '/ /',
  '\\',
  '\\\\',
  '-',
  'dash-*',
  '[-a]*',
  '_',
  '*^*',
  'x]y.bin',
  'x[]]y.bin',
]

describe.each(gitLfsVersions())('$name', (gitLfs) => {
  let sandbox: GitSandbox
  let work: string
  beforeAll(() => {
    if (gitLfs.missing !== undefined) return
    sandbox = new GitSandbox(gitLfs)
    work = sandbox.repository('work', Object.fromEntries(PATHS.map((path) => [path, `content of ${path}`])))
  })
  afterAll(() => sandbox?.remove())

  /** The files that git-lfs lists; undefined: it refused or crashed. */
  function theirs({ include, exclude }: PathPatterns): string[] | undefined {
    const args = ['lfs', 'ls-files', '-n']
    if (include !== undefined) args.push(`--include=${include}`)
    if (exclude !== undefined) args.push(`--exclude=${exclude}`)
    try {
      return sandbox
        .git(work, ...args)
        .split('\n')
        .filter((line) => line !== '')
        .sort()
    } catch {
      return undefined
    }
  }

  function ours(patterns: PathPatterns): string[] | undefined {
    try {
      return PATHS.filter(pathFilter(patterns)).sort()
    } catch {
      return undefined
    }
  }

  test.skipIf(gitLfs.missing !== undefined)('lists all test paths without patterns', () => {
    expect(theirs({})).toEqual([...PATHS].sort())
  })

  test.skipIf(gitLfs.missing !== undefined)('includes what git-lfs includes', () => {
    const all = (list: typeof ours) =>
      Object.fromEntries(PATTERNS.map((include) => [include, list({ include })]))
    expect(all(ours)).toEqual(all(theirs))
  })

  test.skipIf(gitLfs.missing !== undefined)('excludes what git-lfs excludes', () => {
    const some = PATTERNS.filter((_, index) => index % 6 === 0)
    const all = (list: typeof ours) => Object.fromEntries(some.map((exclude) => [exclude, list({ exclude })]))
    expect(all(ours)).toEqual(all(theirs))
  })

  test.skipIf(gitLfs.missing !== undefined)('joins both as git-lfs does', () => {
    const pairs = [
      ['a,foo', 'a/b'],
      ['*.bin', 'foo'],
      ['a/**', '**/c'],
      ['', 'a'],
      ['foo', ''],
      ['a', '*'],
      ['/a,/b', '[bd].bin'],
    ] as const
    for (const [include, exclude] of pairs) {
      expect({ include, exclude, paths: ours({ include, exclude }) }).toEqual({
        include,
        exclude,
        paths: theirs({ include, exclude }),
      })
    }
  })
})

test('a pattern that git-lfs cannot read is said to be one', () => {
  expect(() => pathFilter({ include: 'a,[[:nope:]]' })).toThrow(/"\[\[:nope:\]\]".*cannot be read/)
})

test('a hostile pattern takes no time worth measuring in years', () => {
  const stars = pathFilter({ include: `${'*a'.repeat(200)}b` })
  expect(stars('a'.repeat(4000))).toBe(false)
  const folders = pathFilter({ include: `${'**/'.repeat(200)}b` })
  expect(folders(`${'a/'.repeat(2000)}c`)).toBe(false)
  const mixed = pathFilter({ include: `${'**/a/'.repeat(100)}b` })
  expect(mixed(`${'a/'.repeat(2000)}c`)).toBe(false)
})
