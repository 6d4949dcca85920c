import { TimoneError } from '../errors.ts'

/** The command that mends the way to a server. */
export function wayThere(error: unknown, server: string): string {
  const code = error instanceof TimoneError ? error.code : undefined
  if (code === 'tls') return 'git config --global http.sslCAInfo /path/to/ca.pem'
  if (code === 'proxy') return 'git config --global http.proxy http://USER:PASSWORD@HOST:PORT'
  return `curl -v ${server}/healthz; if the address is wrong: timone init https://HOST/ORG/REPO`
}

/** `https://host` of `https://host/org/repo/info/lfs`, with a path where the server lies under one. */
export function serverOf(lfs: URL): string {
  const path = lfs.pathname.replace(/\/+$/, '').replace(/\/info\/lfs$/, '')
  return lfs.origin + path.split('/').slice(0, -2).join('/')
}
