/**
 * A path of this server to go on to after sign-in, from outside; anything else becomes `/auth/signed-in`. Browsers read
 * `//host` and `/\host` as another host, and drop tabs and line breaks on the way.
 */
export function localPath(text: string | undefined): string {
  const fallback = '/auth/signed-in'
  if (text === undefined || text.length > 2000 || !/^\/(?![/\\])[\x21-\x5b\x5d-\x7e]*$/.test(text))
    return fallback
  const base = 'http://local.invalid'
  const url = URL.parse(text, base)
  if (url === null || url.origin !== base || url.pathname.startsWith('//')) return fallback
  return url.pathname + url.search
}
