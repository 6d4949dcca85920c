/** Error codes of the token endpoint (RFC 6749, sections 5.2 and 4.1.2.1; RFC 8628, section 3.5; RFC 8693, section 2.2.2). */
export type OAuthErrorCode =
  | 'access_denied'
  | 'authorization_pending'
  | 'expired_token'
  | 'invalid_client'
  | 'invalid_grant'
  | 'invalid_request'
  | 'invalid_scope'
  | 'invalid_target'
  | 'slow_down'
  | 'temporarily_unavailable'
  | 'unauthorized_client'
  | 'unsupported_grant_type'

/** A refusal of the token endpoint. `message` is one line for the client, without secrets. */
export class OAuthError extends Error {
  override readonly name = 'OAuthError'
  readonly code: OAuthErrorCode

  constructor(code: OAuthErrorCode, message: string, options: { cause?: unknown } = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause })
    this.code = code
  }

  /** The answer as JSON (RFC 6749, section 5.2). */
  toResponse(headers: Record<string, string> = {}): Response {
    const later = this.code === 'temporarily_unavailable'
    // Quotes and what is not ASCII are not allowed there.
    const description = this.message.replace(/[^\x20-\x7e]|["\\]/g, "'")
    return Response.json(
      { error: this.code, error_description: description },
      {
        status: later ? 503 : this.code === 'invalid_client' ? 401 : 400,
        headers: {
          'Cache-Control': 'no-store',
          Pragma: 'no-cache',
          ...(later ? { 'Retry-After': '30' } : {}),
          ...headers,
        },
      },
    )
  }
}
