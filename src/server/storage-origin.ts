import type { IncomingMessage } from 'node:http'

/**
 * Decides whether a request came to the right origin. Documents may be pages: where an origin is set apart for them, they
 * are on no other, and nothing else is there (draft-dejong-remotestorage-26, section 14).
 * @param origin undefined: everything is on one
 */
export function originCheck(
  origin: string | undefined,
): (request: IncomingMessage, isStorage: boolean) => boolean {
  const host = URL.parse(origin ?? '')?.host
  return (request, isStorage) => host === undefined || (hostOf(request) === host) === isStorage
}

/** As URLs have it, without the port that a scheme implies. */
function hostOf({ headers }: IncomingMessage): string | undefined {
  return headers.host?.toLowerCase().replace(/:(80|443)$/, '')
}
