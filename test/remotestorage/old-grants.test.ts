import { createHash } from 'node:crypto'
import { expect, test } from 'vitest'
import { parseAppRequest } from '../../src/remotestorage/app-request.ts'
import { isOldGrant, parseOldGrants } from '../../src/remotestorage/old-grants.ts'

const request = (clientId: string, redirectUri: string) =>
  parseAppRequest(
    new URLSearchParams({
      ...{ client_id: clientId, redirect_uri: redirectUri },
      ...{ response_type: 'token', scope: 'notes:r' },
    }),
  )
const data = (text: string) => ({
  salt: 'pepper',
  md5: createHash('md5').update(`pepper${text}`).digest('hex'),
})

test('knows an app by its MD5', () => {
  const app = data('https://app.examplehttps://app.example/cb')
  expect(isOldGrant(app, request('https://app.example', 'https://app.example/cb'))).toBe(true)
  expect(isOldGrant({ ...app, salt: '' }, request('https://app.example', 'https://app.example/cb'))).toBe(
    false,
  )
  expect(isOldGrant(data('xhttps://app.example'), request('x', 'https://app.example'))).toBe(true)
})

test('does not take the end of one text for the beginning of the other', () => {
  const archive = data('apphttps://archive.example/web/https://evil.example/')
  const good = request('app', 'https://archive.example/web/https://evil.example/')
  expect(isOldGrant(archive, good)).toBe(true)
  expect(isOldGrant(archive, request('apphttps://archive.example/web/', 'https://evil.example/'))).toBe(false)
  // An open redirect behind an address that was allowed.
  const plain = data('apphttps://app.example/cb')
  expect(isOldGrant(plain, request('app', 'https://app.example/cb?to=https://evil.example'))).toBe(false)
})

test('reads lines, the last of two for one app', () => {
  const md5 = 'AB'.repeat(16)
  expect(
    parseOldGrants(`md5----> module perm\n${md5} notes r\r\n\n${md5} root rw\n${md5} public rw\nx y z`),
  ).toEqual({ grants: [{ md5: 'ab'.repeat(16), scope: 'storage:*:rw' }], malformed: 2 })
})
