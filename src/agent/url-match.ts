/**
 * How well `pattern`, the middle of a key like `http.<url>.extraHeader`, fits `url`; undefined when it does not.
 * The rules are git's (git-config, `http.<url>.*`): scheme and port the same, host the same with `*` for one label,
 * path a prefix in whole segments, user the same where the pattern has one. Host counts most, then path, then user.
 */
export function specificity(pattern: string, url: URL): number | undefined {
  const [, scheme, user, host, path = ''] =
    /^([a-z][a-z0-9+.-]*):\/\/(?:([^/@]*)@)?([^/@]+)(\/.*)?$/i.exec(pattern) ?? []
  if (scheme === undefined || host === undefined || `${scheme.toLowerCase()}:` !== url.protocol)
    return undefined
  const [name, port] = splitPort(host.toLowerCase())
  if ((port ?? defaultPort(url)) !== (url.port === '' ? defaultPort(url) : url.port)) return undefined
  if (!sameHost(name, url.hostname.toLowerCase())) return undefined
  if (user !== undefined && user !== url.username) return undefined
  const prefix = path.replace(/\/+$/, '')
  if (prefix !== '' && url.pathname !== prefix && !url.pathname.startsWith(`${prefix}/`)) return undefined
  const exact = name.includes('*') ? 0 : 1
  return ((exact * 1000 + name.length) * 10_000 + prefix.length) * 2 + (user === undefined ? 0 : 1)
}

function sameHost(pattern: string, host: string): boolean {
  if (!pattern.includes('*')) return pattern === host
  const wanted = pattern.split('.')
  const labels = host.split('.')
  return wanted.length === labels.length && wanted.every((label, at) => label === '*' || label === labels[at])
}

function splitPort(host: string): [name: string, port: string | undefined] {
  const [, name = host, port] = /^(.*?)(?::(\d+))?$/.exec(host) ?? []
  return [name, port]
}

const defaultPort = (url: URL): string => (url.protocol === 'https:' ? '443' : '80')
