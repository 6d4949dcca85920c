import * as z from 'zod/mini'
import { TimoneError } from '../errors.ts'
import { parseDuration } from './duration.ts'

/** One `[[trust]]` table, read; what it must pin is checked by `identity/trust-rules.ts`. */
export interface TrustSetting {
  readonly issuer: string
  readonly audience: string
  readonly match: Readonly<Record<string, readonly string[]>>
  readonly scopes: readonly string[]
  /** Seconds. */
  readonly ttl: number
  readonly jwksUrl?: string | undefined
}

const Text = z.string().check(z.minLength(1), z.maxLength(2000))
const Scalar = z.union([Text, z.number(), z.boolean()])

const Rules = z.array(
  z.strictObject({
    issuer: Text,
    audience: Text,
    match: z.record(Text, z.union([Scalar, z.array(Scalar)])),
    scopes: z.array(Text),
    ttl: z.optional(z.union([Text, z.number()])),
    jwks_url: z.optional(Text),
  }),
)

/** Shortest, usual and longest life of a token that is given in exchange, seconds. */
const TTL = { least: 60, usual: 3600, most: 43_200 }

/**
 * The rules in the JSON text of the setting.
 * @throws {TimoneError} `config`
 */
export function readTrust(text: string): readonly TrustSetting[] {
  let value: unknown
  try {
    value = text.trim() === '' ? [] : JSON.parse(text)
  } catch {
    throw wrong('must be an array of tables, [[trust]] in the file or JSON in the environment')
  }
  const { data, error } = Rules.safeParse(value)
  if (data === undefined) {
    const { path = [], message = '' } = error?.issues[0] ?? {}
    throw wrong(
      `rule ${Number(path[0] ?? 0) + 1}${path.length > 1 ? `, ${path.slice(1).join('.')}` : ''}: ${message}; ` +
        'it takes issuer, audience, match, scopes, ttl and jwks_url',
    )
  }
  return Object.freeze(
    data.map((rule, index) => {
      const ttl = rule.ttl === undefined ? TTL.usual : parseDuration(String(rule.ttl))
      if (ttl < TTL.least || ttl > TTL.most)
        throw wrong(`rule ${index + 1}, ttl: must be ${TTL.least} to ${TTL.most} seconds`)
      return Object.freeze({
        issuer: rule.issuer,
        audience: rule.audience,
        match: Object.freeze(
          Object.fromEntries(
            Object.entries(rule.match).map(([claim, values]) => [claim, [values].flat().map(String)]),
          ),
        ),
        scopes: Object.freeze(rule.scopes),
        ttl,
        ...(rule.jwks_url === undefined ? {} : { jwksUrl: rule.jwks_url }),
      })
    }),
  )
}

function wrong(why: string): TimoneError {
  return new TimoneError('config', why)
}
