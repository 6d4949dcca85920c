import { type DestinationStream, pino } from 'pino'
import { TimoneError } from '../errors.ts'
import type { Logger } from '../log.ts'

/** Fields that are never written, wherever they turn up. */
const SECRETS = [
  'authorization',
  'password',
  'secret',
  'token',
  'tokenSecret',
  'secretKeys',
  'secretAccessKey',
  'secret_access_key',
  'sessionToken',
  'session_token',
  'href',
  'query',
]

/** A structured log, one JSON object a line. `level` is pino's name of the lowest level that is written. */
export function createLogger(options: { level: string; destination: DestinationStream }): Logger {
  return pino(
    {
      level: options.level,
      base: null,
      timestamp: pino.stdTimeFunctions.isoTime,
      formatters: { level: (label) => ({ level: label }) },
      redact: { paths: [...SECRETS, ...SECRETS.map((name) => `*.${name}`)], censor: '[redacted]' },
    },
    options.destination,
  )
}

/**
 * What of an error goes into the log. Named fields only: an SDK's errors carry whole requests, keys and all.
 * The stack is there for errors that nobody expected.
 */
export function errorFields(error: unknown): Record<string, unknown> {
  if (!(error instanceof Error)) return { error: typeof error }
  const { cause } = error
  const reason = cause instanceof Error ? { cause: `${cause.name}: ${cause.message}`.slice(0, 500) } : {}
  if (!(error instanceof TimoneError)) {
    return { error: `${error.name}: ${error.message}`, stack: error.stack, ...reason }
  }
  const { code, message, status, requestId, host } = error
  return { code, error: message, upstream: { status, requestId, host }, ...reason }
}
