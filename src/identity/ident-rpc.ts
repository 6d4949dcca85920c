import { isTimoneError } from '../errors.ts'
import { decodeBody } from './amqp-wire.ts'
import type { Ident } from './ident.ts'
import { readNewIdent, readOperations, readQuery, readUserId } from './ident-document.ts'
import { type IdentCode, IdentError } from './ident-error.ts'

/** What a request is answered with. */
export type RpcAnswer = { result: unknown } | { error: IdentCode }

/** A request as it lay in the queue. */
export interface RpcRequest {
  /** `rpc.user.get` */
  routingKey: string
  /** msgpack. */
  body: Uint8Array
}

export interface RpcOptions {
  ident: Ident
  /** Do answers to `get` hold access tokens? */
  exposeTokens: boolean
  /** Told of what should not have happened. */
  report: (error: unknown) => void
}

const BY = { actor: '', source: 'amqp' }

/**
 * Answers requests for users. Whatever is wrong with a request is said in the answer.
 * @returns a function that throws only what will pass: TimoneErrors that are `retryable`
 */
export function createRpc({
  ident,
  exposeTokens,
  report,
}: RpcOptions): (request: RpcRequest) => Promise<RpcAnswer> {
  const operations: Readonly<Record<string, (given: Record<string, unknown>) => Promise<unknown>>> = {
    get: async (given) => ident.get(readQuery(given), { withTokens: exposeTokens }),
    create: async (given) => ident.create(readNewIdent(given), BY, { again: true }),
    patch: async ({ user_id, ops }) => ident.patch(readUserId(user_id), readOperations(ops), BY),
    delete: async ({ user_id }) => ident.delete(readUserId(user_id), BY),
  }
  return async ({ routingKey, body }) => {
    try {
      const name = /^rpc\.user\.([a-z]+)$/.exec(routingKey)?.[1] ?? ''
      const operation = Object.hasOwn(operations, name) ? operations[name] : undefined
      if (operation === undefined) throw new IdentError('operation_not_found', 'no such operation')
      const given = decodeBody(body)
      if (typeof given !== 'object' || given === null || Array.isArray(given)) {
        throw new IdentError('bad_request', 'the body must be a map')
      }
      return { result: await operation(given as Record<string, unknown>) }
    } catch (error) {
      if (error instanceof IdentError) return { error: error.code }
      if (isTimoneError(error) && error.retryable) throw error
      report(error)
      return { error: 'invocation_failed' }
    }
  }
}
