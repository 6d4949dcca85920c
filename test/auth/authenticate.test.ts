import { describe, expect, test } from 'vitest'
import { authenticate } from '../../src/auth/authenticate.ts'
import { Tokens } from '../../src/auth/tokens.ts'
import { isTimoneError } from '../../src/errors.ts'

const tokens = new Tokens({ secret: 'mykey', issuer: 'https://lfs.example', requireScope: false })
const bob = await tokens.issueUser({ user: 'bob' })

function basic(text: string): string {
  return `Basic ${Buffer.from(text).toString('base64')}`
}

async function refusal(header: string): Promise<string> {
  const error = await authenticate(header, tokens).then(
    () => expect.fail('accepted'),
    (thrown: unknown) => thrown,
  )
  if (!isTimoneError(error, 'unauthorized')) throw error
  return error.message
}

describe('authenticate', () => {
  test('nobody, without a header', async () => {
    expect(await authenticate(undefined, tokens)).toBeUndefined()
  })

  test.each([
    ['Bearer', `Bearer ${bob}`],
    ['bearer in lower case', `bearer ${bob}`],
    ['Basic with the right user', basic(`bob:${bob}`)],
    ['Basic in upper case', basic(`bob:${bob}`).replace('Basic', 'BASIC')],
    ['Basic without padding', basic(`bob:${bob}`).replace(/=+$/, '')],
    ['Basic _jwt', basic(`_jwt:${bob}`)],
    ['Basic x-access-token', basic(`x-access-token:${bob}`)],
  ])('%s', async (_case, header) => {
    expect(await authenticate(header, tokens)).toMatchObject({ subject: 'bob', scopes: 'full' })
  })

  test('names outside ASCII, with a percent sign, or in another Unicode form', async () => {
    for (const user of ['bób', 'bob%40example.com', '李雷', 'x'.repeat(255)]) {
      const jwt = await tokens.issueUser({ user })
      expect(await authenticate(basic(`${user}:${jwt}`), tokens)).toMatchObject({ subject: user })
      expect(await authenticate(basic(`${user.normalize('NFD')}:${jwt}`), tokens)).toMatchObject({
        subject: user,
      })
    }
    const encoded = await tokens.issueUser({ user: 'bob@example.com' })
    expect(await refusal(basic(`bob%40example.com:${encoded}`))).toBe('the credentials are not valid')
  })

  test.each([
    ['an empty header', ''],
    ['a scheme alone', 'Bearer'],
    ['Bearer and nothing', 'Bearer '],
    ['another scheme', `Digest ${bob}`],
    ['a token alone', bob],
    ['two credentials', `Bearer ${bob}, Bearer ${bob}`],
    ['another user with a valid token', basic(`eve:${bob}`)],
    ['the user in another case', basic(`Bob:${bob}`)],
    ['no user', basic(`:${bob}`)],
    ['the token as user name', basic(`${bob}:`)],
    ['the token as user name and x-oauth-basic', basic(`${bob}:x-oauth-basic`)],
    ['no colon', basic(bob)],
    ['a colon after the token', basic(`bob:${bob}:`)],
    ['a colon before the token', basic(`bob:x:${bob}`)],
    ['an empty password', basic('bob:')],
    ['text that is not base64', `Basic bob:${bob}`],
    ['base64 with rubbish in it', `${basic(`bob:${bob}`)}*`],
    ['the URL alphabet', `Basic ${Buffer.from(`bób?>:${bob}`).toString('base64url')}`],
    [
      'bytes that are not UTF-8',
      `Basic ${Buffer.concat([Buffer.from([0xff]), Buffer.from(`:${bob}`)]).toString('base64')}`,
    ],
    ['100 KB', `Bearer ${'x'.repeat(100_000)}`],
    ['100 KB of Basic', basic(`bob:${'x'.repeat(100_000)}`)],
    ['a line break', `Bearer ${bob}\nX: y`],
  ])('refuses %s with the constant message', async (_case, header) => {
    expect(await refusal(header)).toBe('the credentials are not valid')
  })

  test('an expired token says so', async () => {
    const old = new Tokens({ secret: 'mykey', issuer: 'x', requireScope: false, now: () => 0 })
    const jwt = await old.issueUser({ user: 'bob', expiresIn: 1 })
    expect(await refusal(basic(`bob:${jwt}`))).toBe('token expired')
    expect(await refusal(basic(`eve:${jwt}`))).toBe('token expired')
  })

  test('10 000 bad attempts cost little', async () => {
    const forged = `${bob.slice(0, -4)}AAAA`
    const before = process.cpuUsage()
    for (let attempt = 0; attempt < 10_000; attempt++) {
      await refusal(attempt % 2 === 0 ? `Bearer ${forged}` : basic(`bob${attempt}:${forged}`))
    }
    const used = process.cpuUsage(before)
    // Measured: about 2 s on a slow core. A password hash (100 ms each) would take 1000 s.
    expect((used.user + used.system) / 1e6).toBeLessThan(15)
  })
})
