import { describe, expect, test } from 'vitest'
import { objectUrl, s3Location } from '../../src/storage/s3-location.ts'

const at = (url: string | undefined, forcePathStyle: boolean, region = 'eu-west-1') =>
  s3Location({ url, region, bucket: 'lfs', forcePathStyle })

describe('objectUrl', () => {
  test.each([
    ['AWS', undefined, false, 'https://lfs.s3.eu-west-1.amazonaws.com/org/repo/x'],
    ['AWS, path style', undefined, true, 'https://s3.eu-west-1.amazonaws.com/lfs/org/repo/x'],
    ['another store', 'https://s3.example', false, 'https://lfs.s3.example/org/repo/x'],
    ['with a port', 'http://127.0.0.1:8000', true, 'http://127.0.0.1:8000/lfs/org/repo/x'],
    ['with a port, virtual host', 'http://s3.example:8000/', false, 'http://lfs.s3.example:8000/org/repo/x'],
    ['below a path', 'https://example.org/s3/', true, 'https://example.org/s3/lfs/org/repo/x'],
    ['below a path, virtual host', 'https://example.org/s3', false, 'https://lfs.example.org/s3/org/repo/x'],
  ])('%s', (_, url, forcePathStyle, expected) => {
    expect(objectUrl(at(url, forcePathStyle), 'org/repo/x').href).toBe(expected)
  })

  test('China has a domain of its own', () => {
    expect(objectUrl(at(undefined, true, 'cn-north-1'), 'x').host).toBe('s3.cn-north-1.amazonaws.com.cn')
  })

  test('encodes the key so that it stays the key', () => {
    const key = "a b/c+d/100%/é'(*)!/?#&="
    const { pathname, search, hash } = objectUrl(at('https://s3.example', true), key)
    expect(pathname).toBe('/lfs/a%20b/c%2Bd/100%25/%C3%A9%27%28%2A%29%21/%3F%23%26%3D')
    expect(decodeURIComponent(pathname)).toBe(`/lfs/${key}`)
    expect(search + hash).toBe('')
  })

  test.each(['../x', 'a/../b', 'a/./b', '..', 'a/..'])('refuses %j, which would lead elsewhere', (key) => {
    expect(() => objectUrl(at('https://s3.example', true), key)).toThrow(TypeError)
  })
})

describe('s3Location', () => {
  test('keeps endpoint, region and bucket', () => {
    expect(at('https://s3.example:9000/', true)).toEqual({
      endpoint: 'https://s3.example:9000',
      region: 'eu-west-1',
      bucket: 'lfs',
      forcePathStyle: true,
    })
  })

  test.each([
    'ftp://s3.example',
    'file:///tmp',
    's3.example',
    'https://key:secret@s3.example',
    'https://s3.example/?x=1',
    'https://s3.example/#x',
    '',
  ])('refuses %j', (url) => {
    expect(() => at(url, true)).toThrow(TypeError)
  })
})
