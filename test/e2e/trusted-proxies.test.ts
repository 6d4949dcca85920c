import { join } from 'node:path'
import { expect, test } from 'vitest'
import { generateKey } from '../../src/auth/secret-box.ts'
import { connect } from '../../src/database/connect.ts'
import { revokeFrom } from '../helpers/revoke-from.ts'
import { startServer, TOKEN_SECRET, World } from '../helpers/world.ts'

test('the operator’s setting reaches the audit trail, as timone events shows it', async () => {
  const world = await World.create()
  const data = world.path('data')
  const server = await startServer(data, { TIMONE_TRUSTED_PROXIES: '127.0.0.1, 10.0.0.0/8' })
  const database = await connect(`sqlite:${join(data, 'timone.db')}`)
  try {
    const { db } = database
    const issuer = { db, url: server.url, tokenSecret: TOKEN_SECRET, secretKeys: [generateKey()] }
    for (const forwarded of ['198.51.100.7, 10.0.0.1', '203.0.113.66, 2001:db8::7'])
      await revokeFrom(issuer, forwarded)
    const { stdout } = await world.timone(world.folder, 'events', '--data', data, '--json')
    const events = stdout
      .split('\n')
      .filter(Boolean)
      .map((line) => JSON.parse(line) as { action: string; source: string })
    const sources = events.filter(({ action }) => action === 'token.revoke').map(({ source }) => source)
    expect(sources).toEqual(['198.51.100.7', '2001:db8::7'])
  } finally {
    await database.close()
    await server.stop()
    await world.remove()
  }
})
