import * as z from 'zod/mini'
import { TimoneError } from '../errors.ts'

/** A `[[grant]]` table, one scope of it; what it says is checked by `identity/grants.ts`. */
export interface GrantSetting {
  /** `user:LOGIN` or `group:NAME`. */
  readonly principal: string
  readonly scope: string
}

const Text = z.string().check(z.minLength(1), z.maxLength(300))
const Tables = z.array(
  z.strictObject({ user: z.optional(Text), group: z.optional(Text), scopes: z.array(Text) }),
)

/** The grants in the JSON text of the setting. @throws {TimoneError} `config` */
export function readGrants(text: string): readonly GrantSetting[] {
  let value: unknown
  try {
    value = text.trim() === '' ? [] : JSON.parse(text)
  } catch {
    throw wrong()
  }
  const { data } = Tables.safeParse(value)
  if (data === undefined) throw wrong()
  return Object.freeze(
    data.flatMap(({ user, group, scopes }) => {
      if ((user === undefined) === (group === undefined)) throw wrong()
      const principal = user === undefined ? `group:${group}` : `user:${user}`
      return scopes.map((scope) => Object.freeze({ principal, scope }))
    }),
  )
}

function wrong(): TimoneError {
  return new TimoneError(
    'config',
    'must be an array of tables, [[grant]] in the file or JSON in the environment, each with user or group, and scopes',
  )
}
