import { systemCode, TimoneError } from '../errors.ts'

const TLS_CODE =
  /^(CERT_|ERR_TLS_|ERR_SSL_|UNABLE_TO_|DEPTH_ZERO|SELF_SIGNED|EPROTO|HOSTNAME_MISMATCH|ERR_OSSL)/

/**
 * A connection-level failure in words: on which host, and what to look at. `proxy` is the host and port of the proxy
 * that the connection goes through.
 */
export function describeFailure(error: unknown, url: URL, proxy?: string): TimoneError {
  if (error instanceof TimoneError) return error
  const code = systemCode(error) ?? 'unknown error'
  const host = url.host
  const place = proxy === undefined ? host : `${host} through the proxy ${proxy}`
  const details = { cause: error, host }
  if (code === 'ENOTFOUND' || code === 'EAI_AGAIN') {
    return new TimoneError(
      'dns',
      `cannot look up ${proxy ?? host} (${code}): check the name and the network`,
      details,
    )
  }
  if (code === 'ERR_PROXY_TUNNEL') {
    const { statusCode } = error as { statusCode?: number }
    if (statusCode === undefined)
      return new TimoneError('timeout', `no answer from ${place} for too long`, details)
    if (statusCode >= 500)
      return new TimoneError('connection', `the proxy cannot reach ${place} (${statusCode})`, details)
    return proxyRefused(url, proxy, String(statusCode), error)
  }
  if (code.startsWith('ERR_PROXY')) return proxyRefused(url, proxy, code, error)
  if (code === 'EPROTO' || code.startsWith('ERR_SSL_')) {
    return new TimoneError('tls', `${host} does not speak TLS as it should (${code}): check the URL`, details)
  }
  if (TLS_CODE.test(code)) {
    return new TimoneError(
      'tls',
      `the TLS certificate of ${host} is not accepted (${code}): set git's http.sslCAInfo to your CA's certificate`,
      details,
    )
  }
  if (code === 'ETIMEDOUT' || code === 'ERR_SOCKET_CONNECTION_TIMEOUT') {
    return new TimoneError(
      'timeout',
      `connecting to ${place} timed out: check the network and proxy settings`,
      details,
    )
  }
  if (code === 'ENOSPC' || code === 'EDQUOT' || code === 'EIO') {
    return new TimoneError('disk_full', `reading or writing a file failed (${code})`, details)
  }
  return new TimoneError('connection', `the connection to ${place} failed (${code})`, details)
}

/** What a proxy answered on its own behalf: 407 asks for a user and a password, others forbid the host. */
export function proxyRefused(
  url: URL,
  proxy: string | undefined,
  answer: string,
  cause: unknown,
): TimoneError {
  const advice =
    answer === '407'
      ? "it asks for a user and password: put them into git's http.proxy (http://user:password@host:port)"
      : "check HTTPS_PROXY, NO_PROXY and git's http.proxy"
  const name = proxy === undefined ? 'a proxy' : `the proxy ${proxy}`
  return new TimoneError('proxy', `${name} refused to connect to ${url.host} (${answer}): ${advice}`, {
    cause,
    host: url.host,
  })
}
