/** What an operation on users failed with, in the words that callers over AMQP know. */
export type IdentCode =
  | 'bad_request'
  | 'conflict'
  | 'decode_error'
  | 'invalid_patch_result'
  | 'invocation_failed'
  | 'not_found'
  | 'operation_not_found'
  | 'patch_failed'

/** An expected failure of an operation on users. `message` is for people, and never holds a secret. */
export class IdentError extends Error {
  override readonly name = 'IdentError'
  readonly code: IdentCode

  constructor(code: IdentCode, message: string) {
    super(message)
    this.code = code
  }
}
