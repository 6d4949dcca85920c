import type { Kysely } from 'kysely'
import { expect, test } from 'vitest'
import { connect } from '../../src/database/connect.ts'
import type { Schema } from '../../src/database/schema.ts'
import { AuditTrail } from '../../src/identity/audit-trail.ts'
import { recordEvent } from '../../src/identity/events.ts'
import { testPostgres } from '../helpers/postgres.ts'
import { onEachDatabase } from './databases.ts'

const note = (db: Kysely<Schema>, subject: string, at = Date.now()) =>
  recordEvent(db, { actor: 'ada', action: 'test', subject, source: '192.0.2.1', data: { n: 1 } }, at)
const subjects = (events: readonly { subject: string }[]) => events.map(({ subject }) => subject)

onEachDatabase('the audit trail', (open) => {
  test('the last ones in their order, then each new one once', async () => {
    const db = open()
    let ahead = 0
    const now = () => Date.now() + ahead
    for (const [subject, age] of [
      ['a', 120_000],
      ['b', 90_000],
      ['c', 0],
      ['d', 0],
    ] as const)
      await note(db, subject, Date.now() - age)
    const trail = new AuditTrail(db, now)
    const last = await trail.last(3)
    expect(subjects(last)).toEqual(['b', 'c', 'd'])
    expect(last[2]).toEqual({
      id: expect.any(Number) as number,
      at: expect.stringMatching(/^\d{4}-.*Z$/) as string,
      actor: 'ada',
      action: 'test',
      subject: 'd',
      source: '192.0.2.1',
      data: { n: 1 },
    })
    // One that was asked for fewer than were written just now.
    const other = new AuditTrail(db, now)
    expect(await other.last(0)).toEqual([])
    expect(await trail.more()).toEqual([])
    await note(db, 'e')
    await note(db, 'f')
    expect(subjects(await trail.more())).toEqual(['e', 'f'])
    expect(subjects(await other.more())).toEqual(['e', 'f'])
    ahead = 61_000
    expect(await trail.more()).toEqual([])
    await note(db, 'g', now())
    expect(subjects(await trail.more())).toEqual(['g'])
    expect(await trail.more()).toEqual([])
  })
})

test('an event whose transaction ends after that of a later one is not missed', async () => {
  const postgres = await testPostgres()
  const database = await connect(postgres.url)
  const { db } = database
  try {
    const trail = new AuditTrail(db)
    await trail.last(0)
    const slow = await db.startTransaction().execute()
    await note(slow, 'slow')
    await note(db, 'quick')
    expect(subjects(await trail.more())).toEqual(['quick'])
    await slow.commit().execute()
    expect(subjects(await trail.more())).toEqual(['slow'])
    expect(await trail.more()).toEqual([])
  } finally {
    await database.close()
    await postgres.drop()
  }
})
