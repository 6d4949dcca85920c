import { html } from 'hono/html'
import { isTimoneError } from '../errors.ts'
import { OAuthError } from './oauth-error.ts'
import { page } from './page.ts'

/** Shows a person what went wrong; what is no affair of theirs goes on as it is, to the log. */
export async function problemPage(work: () => Promise<Response>): Promise<Response> {
  try {
    return await work()
  } catch (error) {
    const status = isTimoneError(error, 'forbidden') ? 403 : isTimoneError(error, 'unavailable') ? 503 : 400
    if (
      !isTimoneError(error, 'forbidden', 'unavailable', 'invalid', 'conflict') &&
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
