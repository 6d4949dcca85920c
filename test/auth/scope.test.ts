import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { allows, parseScope, parseScopes, printScope, type Scope } from '../../src/auth/scope.ts'
import { isTimoneError } from '../../src/errors.ts'

const name = fc.stringMatching(/^[A-Za-z0-9_-][A-Za-z0-9._-]{0,9}$/)
const segment = fc.oneof(name, fc.constant('*'))
const access = fc.constantFrom('r', 'rw')
const right = fc.stringMatching(/^[a-z]{1,6}(=[a-z]{1,6})?$/)
const scope: fc.Arbitrary<Scope> = fc.oneof(
  fc.record({
    noun: fc.constant('lfs'),
    resource: fc.oneof(
      fc.constant('*'),
      fc.tuple(segment, segment).map((parts) => parts.join('/')),
    ),
    level: access,
  }),
  fc.record({ noun: fc.constantFrom('storage', 'users'), resource: segment, level: access }),
  fc.record({
    noun: fc.constant('lease'),
    resource: fc.array(segment, { minLength: 1, maxLength: 3 }).map((parts) => parts.join('/')),
    level: fc.array(right, { minLength: 1, maxLength: 3 }).map((rights) => rights.join(',')),
  }),
)

function can(granted: string, wanted: string): boolean {
  return allows(parseScopes(granted), parseScope(wanted))
}

describe('parseScope', () => {
  test('reads back what printScope wrote', () => {
    fc.assert(
      fc.property(scope, (made) => {
        expect(parseScope(printScope(made))).toEqual(made)
      }),
    )
  })

  test.each([
    'lfs:foo/bar:r',
    'lfs:foo/*:rw',
    'lfs:*:rw',
    'storage:photos:rw',
    'lease:github/foo/bar:contents=read',
    'lease:github/foo/bar:contents=read,issues=write',
    'lease:idp1:token',
    'users:*:rw',
  ])('accepts %s', (text) => expect(printScope(parseScope(text))).toBe(text))

  test.each([
    '',
    'lfs',
    'lfs:foo/bar',
    'lfs:foo/bar:rw:x',
    'lsf:foo/bar:rw',
    'LFS:foo/bar:rw',
    'lfs:foo/bar:w',
    'lfs:foo/bar:rwx',
    'lfs:foo/bar:',
    'lfs:foo:rw',
    'lfs:foo/bar/baz:rw',
    'lfs:foo/ba*:rw',
    'lfs:f**/bar:rw',
    'lfs:foo/**:rw',
    'lfs:foo/..:rw',
    'lfs:../bar:rw',
    'lfs:foo//bar:rw',
    'lfs:/foo/bar:rw',
    'lfs::rw',
    'lfs:foo/bär:rw',
    'lfs:foo/bar\0:rw',
    'lfs:foo/bar:rw\n',
    ' lfs:foo/bar:rw',
    'lease:idp1:',
    'lease:idp1:token,',
    'lease:idp1:Token',
    'toString:foo:r',
  ])('refuses %j', (text) => {
    expect(() => parseScope(text)).toThrow(expect.toSatisfy((error) => isTimoneError(error, 'invalid')))
  })
})

describe('parseScopes', () => {
  test('separates by spaces and takes nothing for no rights', () => {
    expect(parseScopes('')).toEqual([])
    expect(parseScopes('  ')).toEqual([])
    expect(parseScopes('lfs:a/b:r  users:*:rw').map(printScope)).toEqual(['lfs:a/b:r', 'users:*:rw'])
  })

  test('refuses the whole when one is malformed', () => {
    expect(() => parseScopes('lfs:a/b:r lfs:*')).toThrow('malformed scope')
    expect(() => parseScopes('lfs:a/b:r\tlfs:c/d:r')).toThrow('malformed scope')
  })
})

describe('allows', () => {
  test.each([
    ['lfs:foo/bar:rw', 'lfs:foo/bar:r'],
    ['lfs:foo/bar:rw', 'lfs:foo/bar:rw'],
    ['lfs:foo/*:r', 'lfs:foo/bar:r'],
    ['lfs:*/bar:r', 'lfs:foo/bar:r'],
    ['lfs:*:rw', 'lfs:foo/bar:rw'],
    ['lfs:*:rw', 'lfs:foo/*:rw'],
    ['lfs:foo/x:r lfs:foo/bar:rw', 'lfs:foo/bar:rw'],
    ['lease:github/foo/bar:contents=read,issues=write', 'lease:github/foo/bar:issues=write'],
    ['lease:*:token', 'lease:github/foo/bar:token'],
  ])('%s includes %s', (granted, wanted) => expect(can(granted, wanted)).toBe(true))

  test.each([
    ['', 'lfs:foo/bar:r'],
    ['lfs:foo/bar:r', 'lfs:foo/bar:rw'],
    ['lfs:foo/*:rw', 'lfs:foobar/x:r'],
    ['lfs:foo/*:rw', 'lfs:foo2/x:r'],
    ['lfs:foo/bar:rw', 'lfs:foo/bar2:r'],
    ['lfs:foo/bar:rw', 'lfs:Foo/bar:r'],
    ['lfs:foo/bar:rw', 'lfs:foo/*:r'],
    ['lfs:*/*:rw', 'lfs:*:r'],
    ['storage:*:rw', 'lfs:foo/bar:r'],
    ['lease:github/*:token', 'lease:github/foo/bar:token'],
    ['lease:idp1:contents=write', 'lease:idp1:contents=read'],
    ['lease:idp1:token', 'lease:idp1:token,other'],
    ['lfs:foo/bar:r lfs:foo/baz:rw', 'lfs:foo/bar:rw'],
  ])('%j does not include %s', (granted, wanted) => expect(can(granted, wanted)).toBe(false))

  test('every scope includes itself, and more grants never take a right away', () => {
    fc.assert(
      fc.property(fc.array(scope), fc.array(scope), scope, (some, more, wanted) => {
        expect(allows([...some, wanted, ...more], wanted)).toBe(true)
        if (allows(some, wanted)) expect(allows([...more, ...some], wanted)).toBe(true)
      }),
    )
  })

  test('is transitive: what a granted scope includes, its holder can do', () => {
    fc.assert(
      fc.property(scope, scope, scope, (a, b, c) => {
        fc.pre(allows([a], b) && allows([b], c))
        expect(allows([a], c)).toBe(true)
      }),
      { numRuns: 50, maxSkipsPerRun: 2000 },
    )
  })
})
