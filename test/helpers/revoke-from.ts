import { expect } from 'vitest'
import { parseScopes } from '../../src/auth/scope.ts'
import { createIdentity, type IdentityOptions } from '../../src/identity/identity.ts'

/** Has ada revoke a token of hers, which the audit trail notes; `forwarded`: what proxies say of where she is. */
export async function revokeFrom(
  server: Pick<IdentityOptions, 'db' | 'url' | 'tokenSecret' | 'secretKeys'>,
  forwarded: string | undefined,
): Promise<void> {
  const { users, issued } = createIdentity(server)
  const user = (await users.byLogin('ada')) ?? (await users.add({ login: 'ada' }, ''))
  const { token } = await issued.issue({
    subject: 'ada',
    userId: user.id,
    scopes: parseScopes('lfs:*:r'),
    client: 'test',
    expiresIn: 60,
  })
  const answer = await fetch(`${server.url}/oauth/revoke`, {
    method: 'POST',
    headers: forwarded === undefined ? {} : { 'x-forwarded-for': forwarded },
    body: new URLSearchParams({ token }),
  })
  expect(answer.status).toBe(200)
}
