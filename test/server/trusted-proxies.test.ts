import { afterEach, expect, test } from 'vitest'
import { revokeFrom } from '../helpers/revoke-from.ts'
import { type Running, SECRET, SECRET_KEY, startOnFiles } from './harness.ts'

let server: Running
afterEach(() => server.stop())

/** Revokes a token, through proxies or not, and gives what the audit trail then says of where that came from. */
async function revoked(forwarded: string | undefined): Promise<string> {
  const { db } = server.database
  await revokeFrom({ db, url: server.url, tokenSecret: SECRET, secretKeys: [SECRET_KEY] }, forwarded)
  const event = await db
    .selectFrom('events')
    .select('source')
    .where('action', '=', 'token.revoke')
    .orderBy('id', 'desc')
    .executeTakeFirstOrThrow()
  return event.source
}

test('without the setting, nobody can write an address into the audit trail', async () => {
  server = await startOnFiles({})
  for (const forwarded of [undefined, '198.51.100.7', '127.0.0.1, 198.51.100.7'])
    expect(await revoked(forwarded)).toBe('127.0.0.1')
})

test('a trusted proxy’s word is taken, and not what its client has made up', async () => {
  server = await startOnFiles({ trustedProxies: ['127.0.0.0/8', '10.0.0.0/8'] })
  expect(await revoked(undefined)).toBe('127.0.0.1')
  expect(await revoked('198.51.100.7')).toBe('198.51.100.7')
  expect(await revoked('203.0.113.66, 198.51.100.7, 10.1.1.1')).toBe('198.51.100.7')
  expect(await revoked('203.0.113.66, nonsense')).toBe('127.0.0.1')
})

test('another proxy’s is not', async () => {
  server = await startOnFiles({ trustedProxies: ['10.0.0.0/8'] })
  expect(await revoked('198.51.100.7')).toBe('127.0.0.1')
})
