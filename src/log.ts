/** What every room may log to. pino's loggers fit it; so does {@link nullLogger}. */
export interface Logger {
  debug(fields: object, message: string): void
  info(fields: object, message: string): void
  warn(fields: object, message: string): void
  error(fields: object, message: string): void
}

/** Says nothing: for tests, and for callers that report by their return value. */
export const nullLogger: Logger = { debug() {}, info() {}, warn() {}, error() {} }
