import { createHash } from 'node:crypto'
import type { AppRequest } from './app-request.ts'

/** A line of `.auth` of the earlier system: an app that was let in. */
export interface OldGrant {
  /** MD5 of salt, client_id and redirect_uri, hexadecimal: all that is known of the app. */
  readonly md5: string
  /** As tokens hold it. */
  readonly scope: string
}

/** What its token keeps: it opens nothing by itself, and stands for a consent that was given. */
export interface OldGrantData {
  readonly md5: string
  /** That the earlier system hashed before everything else; it was in its source, and no secret of anybody's. */
  readonly salt: string
}

/** The salt of the earlier system as it came. */
export const OLD_SALT = 'salt of the earth'

/** Reads `.auth`: `<md5> <module> <permissions>` on each line; of two with one MD5 the last counts, as it did. */
export function parseOldGrants(text: string): { grants: OldGrant[]; malformed: number } {
  const grants = new Map<string, OldGrant>()
  let malformed = 0
  for (const line of text.split('\n').map((part) => part.trim())) {
    // The first line of the file that came with it.
    if (line === '' || /^md5-+> /.test(line)) continue
    const [, md5 = '', module = '', level] = /^([0-9a-fA-F]{32}) (\S+) (rw|r)$/.exec(line) ?? []
    const isModule = /^[A-Za-z0-9_@+-][A-Za-z0-9._@+-]{0,99}$/.test(module) && module !== 'public'
    if (md5 === '' || !isModule) malformed++
    else {
      const scope = `storage:${module === 'root' ? '*' : module}:${level}`
      grants.set(md5.toLowerCase(), { md5: md5.toLowerCase(), scope })
    }
  }
  return { grants: [...grants.values()], malformed }
}

/**
 * Is this the app that a line of `.auth` let in? It hashed two texts in a row, the second without query and fragment: so
 * an address with a query is never it, for what is in there may lead on to somebody else; nor is a client_id that holds
 * an address, unless it is of the app's own origin, for the end of one could pass for the other.
 */
export function isOldGrant({ md5, salt }: OldGrantData, request: AppRequest): boolean {
  const { clientId, redirectUri, origin } = request
  if (redirectUri.includes('?')) return false
  if (clientId.includes('://') && URL.parse(clientId)?.origin !== origin) return false
  // Browsers write an origin with a slash behind it, and apps do not.
  const spellings = redirectUri === `${origin}/` ? [redirectUri, origin] : [redirectUri]
  return spellings.some(
    (uri) => createHash('md5').update(salt).update(clientId).update(uri).digest('hex') === md5,
  )
}
