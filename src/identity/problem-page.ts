import { html } from 'hono/html'
import { type ErrorCode, isTimoneError } from '../errors.ts'
import { OAuthError } from './oauth-error.ts'
import { page } from './page.ts'

/** Codes of errors that people are shown, and their status. */
const SHOWN: ReadonlyMap<ErrorCode, number> = new Map([
  ['conflict', 400],
  ['exists', 409],
  ['forbidden', 403],
  ['invalid', 400],
  ['rate_limited', 429],
  ['unavailable', 503],
])

/** Shows a person what went wrong; what is no affair of theirs goes on as it is, to the log. */
export async function problemPage(work: () => Promise<Response>): Promise<Response> {
  try {
    return await work()
  } catch (error) {
    const status =
      error instanceof OAuthError ? 400 : isTimoneError(error) ? SHOWN.get(error.code) : undefined
    if (status === undefined || !(error instanceof Error)) throw error
    return page({
      title: 'That did not work',
      status,
      body: html`<p>${error.message}</p>`,
    })
  }
}
