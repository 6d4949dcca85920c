import { OAuthError } from './oauth-error.ts'
import type { TokenAnswer } from './token-endpoint.ts'
import type { Trust } from './trust.ts'

export const TOKEN_EXCHANGE = 'urn:ietf:params:oauth:grant-type:token-exchange'

const ACCESS_TOKEN = 'urn:ietf:params:oauth:token-type:access_token'
const JWT = 'urn:ietf:params:oauth:token-type:jwt'
const ID_TOKEN = 'urn:ietf:params:oauth:token-type:id_token'

/**
 * The grant of RFC 8693 for runners: their identity token for one of ours.
 * @returns the answer of section 2.2.1
 * @throws {OAuthError}
 */
export async function exchangeToken(
  trust: Trust,
  form: URLSearchParams,
  source: string,
): Promise<TokenAnswer> {
  const subjectToken = form.get('subject_token')
  const type = form.get('subject_token_type')
  if (!subjectToken) throw new OAuthError('invalid_request', 'subject_token is missing')
  if (type !== JWT && type !== ID_TOKEN)
    throw new OAuthError('invalid_request', `subject_token_type must be ${JWT} or ${ID_TOKEN}`)
  if (form.has('actor_token') || form.has('actor_token_type'))
    throw new OAuthError('invalid_request', 'actor tokens are not taken')
  const wanted = form.get('requested_token_type') ?? ACCESS_TOKEN
  if (wanted !== ACCESS_TOKEN && wanted !== JWT)
    throw new OAuthError('invalid_request', `requested_token_type must be ${ACCESS_TOKEN} or ${JWT}`)
  const { token, expiresIn, scope } = await trust.exchange({
    subjectToken,
    scope: form.get('scope') ?? undefined,
    targets: [...form.getAll('audience'), ...form.getAll('resource')],
    source,
  })
  return {
    access_token: token,
    issued_token_type: wanted,
    token_type: 'Bearer',
    expires_in: expiresIn,
    scope,
  }
}
