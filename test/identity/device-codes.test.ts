import { expect, test } from 'vitest'
import { DeviceCodes } from '../../src/identity/device-codes.ts'
import { Users } from '../../src/identity/users.ts'
import { onEachDatabase } from './databases.ts'

onEachDatabase('device codes', (db) => {
  test('approved once, redeemed once, whoever tries at the same time', async () => {
    const codes = new DeviceCodes(db())
    const user = await new Users(db()).add({ login: 'dora' }, '')
    const { deviceCode, userCode } = await codes.begin('test', 'lfs:*:rw')
    expect(userCode).toMatch(/^[BCDFGHJKLMNPQRSTVWXZ]{4}-[BCDFGHJKLMNPQRSTVWXZ]{4}$/)
    const device = await codes.pending(userCode.toLowerCase())
    expect(device).toMatchObject({ client: 'test', scopes: 'lfs:*:rw' })
    const decided = await Promise.all([1, 2].map(() => codes.decide(device?.hash as string, user, true, '')))
    expect(decided.sort()).toEqual([false, true])
    const tries = await Promise.allSettled(Array.from({ length: 4 }, () => codes.redeem(deviceCode, 'test')))
    expect(tries.filter(({ status }) => status === 'fulfilled')).toHaveLength(1)
    await expect(codes.redeem(deviceCode, 'test')).rejects.toMatchObject({ code: 'invalid_grant' })
    expect(await codes.pending(userCode)).toBeUndefined()
    const rows = JSON.stringify(await db().selectFrom('device_codes').selectAll().execute())
    expect(rows).not.toContain(deviceCode)
  })

  test('expired: neither approved nor redeemed; another client’s: not known', async () => {
    let now = Date.now()
    const codes = new DeviceCodes(db(), () => now)
    const user = await new Users(db()).add({ login: 'dirk' }, '')
    const { deviceCode, userCode } = await codes.begin('test', 'lfs:*:rw')
    const device = await codes.pending(userCode)
    await expect(codes.redeem(deviceCode, 'other')).rejects.toMatchObject({ code: 'invalid_grant' })
    await expect(codes.redeem(deviceCode, 'test')).rejects.toMatchObject({ code: 'authorization_pending' })
    await expect(codes.redeem(deviceCode, 'test')).rejects.toMatchObject({ code: 'slow_down' })
    now += 601_000
    expect(await codes.pending(userCode)).toBeUndefined()
    expect(await codes.decide(device?.hash as string, user, true, '')).toBe(false)
    await expect(codes.redeem(deviceCode, 'test')).rejects.toMatchObject({ code: 'expired_token' })
  })
})
