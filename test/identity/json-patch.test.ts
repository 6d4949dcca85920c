import { describe, expect, test } from 'vitest'
import { type IdentDocument, type PatchOperation, readOperations } from '../../src/identity/ident-document.ts'
import { IdentError } from '../../src/identity/ident-error.ts'
import { patchDocument } from '../../src/identity/ident-patch.ts'

const USER: IdentDocument = { id: 1, name: 'Ada' }

/** What `operations` make of any `document`, shown to a caller in place of a user. */
function apply(document: object, operations: unknown): unknown {
  let after: unknown
  const view = {
    show: () => structuredClone(document),
    read: (shown: unknown) => {
      after = shown
      return USER
    },
  }
  patchDocument(USER, readOperations(operations), new Set(), view)
  return after
}

/** RFC 6902, appendix A, by its numbers; A.13, a member twice, is settled by whoever parses the JSON. */
const WORKS: readonly [string, object, PatchOperation[] | object[], object][] = [
  [
    'A.1 adding an object member',
    { foo: 'bar' },
    [{ op: 'add', path: '/baz', value: 'qux' }],
    { baz: 'qux', foo: 'bar' },
  ],
  [
    'A.2 adding an array element',
    { foo: ['bar', 'baz'] },
    [{ op: 'add', path: '/foo/1', value: 'qux' }],
    { foo: ['bar', 'qux', 'baz'] },
  ],
  [
    'A.3 removing an object member',
    { baz: 'qux', foo: 'bar' },
    [{ op: 'remove', path: '/baz' }],
    { foo: 'bar' },
  ],
  [
    'A.4 removing an array element',
    { foo: ['bar', 'qux', 'baz'] },
    [{ op: 'remove', path: '/foo/1' }],
    { foo: ['bar', 'baz'] },
  ],
  [
    'A.5 replacing a value',
    { baz: 'qux', foo: 'bar' },
    [{ op: 'replace', path: '/baz', value: 'boo' }],
    { baz: 'boo', foo: 'bar' },
  ],
  [
    'A.6 moving a value',
    { foo: { bar: 'baz', waldo: 'fred' }, qux: { corge: 'grault' } },
    [{ op: 'move', from: '/foo/waldo', path: '/qux/thud' }],
    { foo: { bar: 'baz' }, qux: { corge: 'grault', thud: 'fred' } },
  ],
  [
    'A.7 moving an array element',
    { foo: ['all', 'grass', 'cows', 'eat'] },
    [{ op: 'move', from: '/foo/1', path: '/foo/3' }],
    { foo: ['all', 'cows', 'eat', 'grass'] },
  ],
  [
    'A.8 testing a value: success',
    { baz: 'qux', foo: ['a', 2, 'c'] },
    [
      { op: 'test', path: '/baz', value: 'qux' },
      { op: 'test', path: '/foo/1', value: 2 },
    ],
    { baz: 'qux', foo: ['a', 2, 'c'] },
  ],
  [
    'A.10 adding a nested member object',
    { foo: 'bar' },
    [{ op: 'add', path: '/child', value: { grandchild: {} } }],
    { foo: 'bar', child: { grandchild: {} } },
  ],
  [
    'A.11 ignoring unrecognized elements',
    { foo: 'bar' },
    [{ op: 'add', path: '/baz', value: 'qux', xyz: 123 }],
    { foo: 'bar', baz: 'qux' },
  ],
  [
    'A.14 ~ escape ordering',
    { '/': 9, '~1': 10 },
    [{ op: 'test', path: '/~01', value: 10 }],
    { '/': 9, '~1': 10 },
  ],
  [
    'A.16 adding an array value',
    { foo: ['bar'] },
    [{ op: 'add', path: '/foo/-', value: ['abc', 'def'] }],
    { foo: ['bar', ['abc', 'def']] },
  ],
]

const FAILS: readonly [string, object, object[]][] = [
  ['A.9 testing a value: error', { baz: 'qux' }, [{ op: 'test', path: '/baz', value: 'bar' }]],
  ['A.12 adding to a nonexistent target', { foo: 'bar' }, [{ op: 'add', path: '/baz/bat', value: 'qux' }]],
  ['A.15 comparing strings and numbers', { '/': 9, '~1': 10 }, [{ op: 'test', path: '/~01', value: '10' }]],
  [
    'the whole stops at the first that fails',
    { a: 1 },
    [
      { op: 'replace', path: '/a', value: 2 },
      { op: 'remove', path: '/b' },
    ],
  ],
  ['an index beyond the end', { a: [1] }, [{ op: 'add', path: '/a/5', value: 2 }]],
  ['a path that does not begin with a slash', { a: 1 }, [{ op: 'remove', path: 'a' }]],
  ['a move into its own child', { a: { b: 1 } }, [{ op: 'move', from: '/a', path: '/a/b' }]],
]

describe('JSON Patch', () => {
  test.each(WORKS)('%s', (_, document, operations, outcome) => {
    expect(apply(document, operations)).toEqual(outcome)
  })

  test.each(FAILS)('%s: refused', (_, document, operations) => {
    const work = () => apply(document, operations)
    expect(work).toThrow(IdentError)
    expect(work).toThrow(expect.objectContaining({ code: 'patch_failed' }) as Error)
  })
})
