import { spawnSync } from 'node:child_process'
import { delimiter } from 'node:path'
import { describe, expect, test } from 'vitest'
import { parsePointer, printPointer } from '../../src/git/pointer.ts'
import { gitLfsVersions } from '../helpers/git-lfs.ts'
import { oidOf } from '../helpers/git-sandbox.ts'

const OID = oidOf('an object')
const LATEST = 'https://git-lfs.github.com/spec/v1'
const OTHER = oidOf('another')
const pointer = (lines: string[], end = '\n') => lines.join('\n') + end
const ordinary = [`version ${LATEST}`, `oid sha256:${OID}`, 'size 12345']
const [version, oid, size] = ordinary as [string, string, string]
const ext = (name: string, value = `sha256:${OTHER}`) => `${name} ${value}`

/** Name, text. What each is, git-lfs says. */
const TEXTS: Record<string, string | Buffer> = {
  ordinary: pointer(ordinary),
  'no line feed at the end': pointer(ordinary, ''),
  'carriage returns': ordinary.map((line) => `${line}\r\n`).join(''),
  'blank lines': `\n\n${ordinary.join('\n\n')}\n\n`,
  'white space around': ` \t\v\f\u00a0\u2003${pointer(ordinary)}\u3000\u0085 `,
  'byte order mark': `\ufeff${pointer(ordinary)}`,
  'alpha version': pointer(['version http://git-media.io/v/2', oid, size]),
  'hawser version': pointer(['version https://hawser.github.com/spec/v1', oid, size]),
  'unknown version': pointer(['version https://git-lfs.github.com/spec/v2', oid, size]),
  'http version': pointer(['version http://git-lfs.github.com/spec/v1', oid, size]),
  'no version': pointer([oid, size]),
  'other order': pointer([version, size, oid]),
  'extra line': pointer([...ordinary, 'extra git-lfs']),
  'double space': pointer([version, `oid  sha256:${OID}`, size]),
  'space at line end': pointer([version, `${oid} `, size]),
  'space at the end': pointer([version, oid, `${size} `]),
  'tab between': pointer([version, `oid\tsha256:${OID}`, size]),
  'key without value': pointer([version, 'oid', size]),
  'key in capitals': pointer([version, `OID sha256:${OID}`, size]),
  'oid in capitals': pointer([version, `oid sha256:${OID.toUpperCase()}`, size]),
  'oid too short': pointer([version, `oid sha256:${OID.slice(1)}`, size]),
  'oid too long': pointer([version, `oid sha256:${OID}0`, size]),
  'sha1 oid': pointer([version, `oid sha1:${OID}`, size]),
  'oid without kind': pointer([version, `oid ${OID}`, size]),
  'no oid': pointer([version, size]),
  'no size': pointer([version, oid]),
  'size zero': pointer([version, oid, 'size 0']),
  'size below zero': pointer([version, oid, 'size -1']),
  'size minus zero': pointer([version, oid, 'size -0']),
  'size plus': pointer([version, oid, 'size +5']),
  'size with zeros': pointer([version, oid, 'size 007']),
  'size not decimal': pointer([version, oid, 'size 0x10']),
  'size with underscore': pointer([version, oid, 'size 1_000']),
  'size with a point': pointer([version, oid, 'size 1.5']),
  'size 5 TiB': pointer([version, oid, `size ${5 * 2 ** 40}`]),
  'size beyond 64 bits': pointer([version, oid, 'size 99999999999999999999']),
  'size empty': pointer([version, oid, 'size ']),
  'one extension': pointer([version, ext('ext-0-foo'), oid, size]),
  'two extensions': pointer([version, ext('ext-0-foo'), ext('ext-1-bar'), oid, size]),
  'same priority twice': pointer([version, ext('ext-0-foo'), ext('ext-0-bar'), oid, size]),
  'same extension twice': pointer([version, ext('ext-0-foo'), ext('ext-0-foo'), oid, size]),
  'extension before version': pointer([ext('ext-0-foo'), ...ordinary]),
  'extension last': pointer([version, oid, ext('ext-0-foo'), size]),
  'extension after size': pointer([...ordinary, ext('ext-0-foo')]),
  'extension of two digits': pointer([version, ext('ext-10-foo'), oid, size]),
  'extension without name': pointer([version, ext('ext-0-'), oid, size]),
  'extension with odd name': pointer([version, ext('ext-0-foo.b-r'), oid, size]),
  'extension with a bad hash': pointer([version, ext('ext-0-foo', 'sha256:12'), oid, size]),
  'extension with another hash': pointer([version, ext('ext-0-foo', `md5:${OTHER}`), oid, size]),
  empty: '',
  'prose about git-lfs': 'see git-lfs for more\n',
  prose: 'nothing to see\n',
  '1023 bytes': pointer(ordinary) + '\n'.repeat(1023 - pointer(ordinary).length),
  '1024 bytes': pointer(ordinary) + '\n'.repeat(1024 - pointer(ordinary).length),
  'binary after it': Buffer.concat([Buffer.from(pointer(ordinary)), Buffer.from([0, 255, 10])]),
  'a NUL in it': pointer([version, oid, 'size 5\0']),
}

describe.each(gitLfsVersions())('$name', (gitLfs) => {
  const env =
    gitLfs.folder === undefined
      ? process.env
      : { ...process.env, PATH: `${gitLfs.folder}${delimiter}${process.env.PATH}` }

  test.skipIf(gitLfs.missing !== undefined)(
    'is of one mind about what is a pointer, and an ordinary one',
    () => {
      const ours: Record<string, string> = {}
      const theirs: Record<string, string> = {}
      for (const [name, text] of Object.entries(TEXTS)) {
        const bytes = Buffer.from(text)
        const parsed = parsePointer(bytes)
        ours[name] = parsed === undefined ? 'no' : parsed.canonical ? 'ordinary' : 'yes'
        const { status } = spawnSync('git-lfs', ['pointer', '--check', '--strict', '--stdin'], {
          env,
          input: bytes,
        })
        // Exit codes of git-lfs-pointer(1): 0 canonical, 1 no pointer, 2 a pointer that is written otherwise.
        theirs[name] = status === 0 ? 'ordinary' : status === 2 ? 'yes' : 'no'
      }
      // git-lfs checks what it is given whole, and calls an empty file a pointer; among blobs neither is one.
      for (const name of ['empty', '1024 bytes']) {
        expect(ours[name]).toBe('no')
        delete ours[name]
        delete theirs[name]
      }
      // An extended pointer may be canonical for git-lfs: here it is never ordinary.
      for (const name of Object.keys(ours)) {
        if (parsePointer(Buffer.from(TEXTS[name] as string))?.extended !== true) continue
        expect(theirs[name]).not.toBe('no')
        delete ours[name]
        delete theirs[name]
      }
      expect(ours).toEqual(theirs)
    },
  )
})

test('reads what it printed', () => {
  expect(parsePointer(Buffer.from(printPointer({ oid: OID, size: 12345 })))).toEqual({
    oid: OID,
    size: 12345,
    extended: false,
    canonical: true,
  })
  expect(printPointer({ oid: OID, size: 0 })).toBe('')
})

test('an extended pointer is one, and said to be extended', () => {
  expect(parsePointer(Buffer.from(TEXTS['two extensions'] as string))).toMatchObject({
    oid: OID,
    size: 12345,
    extended: true,
    canonical: false,
  })
})
