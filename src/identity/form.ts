import { OAuthError } from './oauth-error.ts'

/** Characters of a form: room for the longest token, and no more. */
const MAX_FORM = 64 * 1024

const MAY_REPEAT: ReadonlySet<string> = new Set(['audience', 'resource'])

/**
 * The fields of a form in a request's body, `application/x-www-form-urlencoded`.
 * @throws {OAuthError} `invalid_request` for another type, one that is too long, or a field that is there twice
 *   (RFC 6749, section 3.2; RFC 8693 lets two of them repeat)
 */
export async function readForm(request: {
  header(name: string): string | undefined
  text(): Promise<string>
}): Promise<URLSearchParams> {
  if (!/^\s*application\/x-www-form-urlencoded\s*(;|$)/i.test(request.header('content-type') ?? ''))
    throw new OAuthError('invalid_request', 'the body must be a form: application/x-www-form-urlencoded')
  const text = await request.text()
  if (text.length > MAX_FORM) throw new OAuthError('invalid_request', 'the form is too long')
  const form = new URLSearchParams(text)
  for (const name of new Set(form.keys())) {
    if (!MAY_REPEAT.has(name) && form.getAll(name).length > 1)
      throw new OAuthError('invalid_request', 'a parameter is given more than once')
  }
  return form
}
