import { html } from 'hono/html'
import { isTimoneError } from '../errors.ts'
import { OAuthError } from './oauth-error.ts'
import { page } from './page.ts'

/** Shows a person what went wrong; what is no affair of theirs goes on as it is, to the log. */
export async function problemPage(work: () => Promise<Response>): Promise<Response> {
  try {
    return await work()
  } catch (error) {
    const status = statusOf(error)
    if (
      !isTimoneError(error, 'forbidden', 'unavailable', 'invalid', 'conflict', 'rate_limited') &&
      !(error instanceof OAuthError)
    )
      throw error
    return page({
      title: 'That did not work',
      status,
      body: html`<p>${error.message}</p>`,
    })
  }
}

function statusOf(error: unknown): number {
  if (isTimoneError(error, 'forbidden')) return 403
  if (isTimoneError(error, 'rate_limited')) return 429
  return isTimoneError(error, 'unavailable') ? 503 : 400
}
