import { describe, expect, test } from 'vitest'
import { type ObjectGrant, SignedUrls } from '../../src/access/signed-urls.ts'
import type { Oid } from '../../src/oid.ts'

const oid = 'a'.repeat(64) as Oid
const repository = { org: 'foo', repo: 'bar' }
const now = 1_700_000_000_000
const expires = now / 1000 + 60
const urls = new SignedUrls({ url: 'https://lfs.example', secret: 'one', now: () => now })
const put: ObjectGrant = { method: 'PUT', repository, oid, size: 10, expires }

const query = (href: string): URLSearchParams => new URL(href).searchParams
const refused = expect.objectContaining({ code: 'forbidden' })

describe('signed URLs', () => {
  test('give back what was signed', () => {
    const grants: ObjectGrant[] = [
      put,
      { ...put, replace: true },
      { ...put, part: { uploadId: 'a b&c=d/é', number: 10_000 } },
      { ...put, method: 'GET', size: 5 * 2 ** 40 },
    ]
    for (const grant of grants) {
      const href = urls.sign(grant)
      expect(href.startsWith(`https://lfs.example/foo/bar/object/${oid}?`)).toBe(true)
      expect(urls.check(grant.method, { repository, oid }, query(href))).toEqual(grant)
    }
  })

  test('a GET is good for HEAD, a PUT for neither', () => {
    const get = query(urls.sign({ ...put, method: 'GET' }))
    expect(urls.check('HEAD', { repository, oid }, get).method).toBe('GET')
    expect(() => urls.check('PUT', { repository, oid }, get)).toThrow(refused)
    const upload = query(urls.sign(put))
    expect(() => urls.check('GET', { repository, oid }, upload)).toThrow(refused)
    expect(() => urls.check('HEAD', { repository, oid }, upload)).toThrow(refused)
  })

  test('no part of one can be changed', () => {
    const good = urls.sign({ ...put, part: { uploadId: 'u', number: 1 } })
    const changes: Record<string, string | null> = {
      size: '11',
      expires: String(expires + 1),
      upload_id: 'v',
      part: '2',
      replace: '1',
      signature: 'ab'.repeat(32),
    }
    for (const [name, value] of Object.entries(changes)) {
      const changed = query(good)
      changed.set(name, value ?? '')
      expect(() => urls.check('PUT', { repository, oid }, changed), name).toThrow(refused)
    }
    for (const name of ['size', 'expires', 'upload_id', 'part', 'signature']) {
      const changed = query(good)
      changed.delete(name)
      expect(() => urls.check('PUT', { repository, oid }, changed), name).toThrow(refused)
    }
    const other = { org: 'foo', repo: 'other' }
    expect(() => urls.check('PUT', { repository: other, oid }, query(good))).toThrow(refused)
    const otherOid = 'b'.repeat(64) as Oid
    expect(() => urls.check('PUT', { repository, oid: otherOid }, query(good))).toThrow(refused)
  })

  test.each(['', 'xyz', 'ab', 'é'.repeat(32)])('the signature "%s" is none', (signature) => {
    const changed = query(urls.sign(put))
    changed.set('signature', signature)
    expect(() => urls.check('PUT', { repository, oid }, changed)).toThrow(refused)
  })

  test('end when they say', () => {
    const at = (moment: number) => new SignedUrls({ url: '', secret: 'one', now: () => moment })
    const signed = query(urls.sign(put))
    expect(at(expires * 1000 - 1).check('PUT', { repository, oid }, signed)).toEqual(put)
    expect(() => at(expires * 1000).check('PUT', { repository, oid }, signed)).toThrow(/expired/)
  })

  test('are of no use with another secret', () => {
    const other = new SignedUrls({ url: '', secret: 'two', now: () => now })
    expect(() => other.check('PUT', { repository, oid }, query(urls.sign(put)))).toThrow(refused)
  })
})
