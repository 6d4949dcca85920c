import { TimoneError } from '../errors.ts'

/** What every routes file of ours finds in, and puts into, the Hono context. */
export interface RouteEnv {
  Variables: {
    /** Id of the request, as logs and error bodies name it. */
    requestId: string
    /** Who asks, for the log; set by the route once it knows. */
    subject: string | undefined
  }
}

/**
 * The JSON value of a request's body, of whatever shape.
 * @throws {TimoneError} `invalid` when it is not JSON.
 */
export async function readJson(request: { text(): Promise<string> }): Promise<unknown> {
  const text = await request.text()
  try {
    return JSON.parse(text)
  } catch {
    throw new TimoneError('invalid', 'the body of the request is not JSON')
  }
}
