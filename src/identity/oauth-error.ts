/** Error codes of the token endpoint (RFC 6749, section 5.2; RFC 8693, section 2.2.2; RFC 6749, section 4.1.2.1). */
export type OAuthErrorCode =
  | 'invalid_request'
  | 'invalid_scope'
  | 'invalid_target'
  | 'temporarily_unavailable'
  | 'unsupported_grant_type'

/** A refusal of the token endpoint. `message` is one line for the client, without secrets. */
export class OAuthError extends Error {
  override readonly name = 'OAuthError'
  readonly code: OAuthErrorCode

  constructor(code: OAuthErrorCode, message: string, options: { cause?: unknown } = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause })
    this.code = code
  }
}
