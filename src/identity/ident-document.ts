import { z } from 'zod'
import { IdentError } from './ident-error.ts'

/** The two sign-ins that this interface has names for; each is an issuer in the table `identities`. */
export const SERVICES = ['github', 'facebook'] as const
export type Service = (typeof SERVICES)[number]

/** One linked sign-in. Numbers beyond 2^53, which cannot be numbers here, are text. */
export interface ServiceLink {
  id: number | string
  /** Only where it was asked for, or is to be kept. */
  access_token?: string
}

/** A user as callers see it. Absent: not known. */
export interface IdentDocument extends Partial<Record<Service, ServiceLink>> {
  id: number
  name: string
  email?: string
  picture_url?: string
}

/** What a user is made of, checked. */
export type NewIdent = Omit<IdentDocument, 'id'>

/** Text of one line: what reaches headers, logs or terminals later must not break out of its line. */
const line = (max: number) =>
  z
    .string()
    .min(1)
    .max(max)
    .regex(/^[^\p{Cc}\p{Zl}\p{Zp}]*$/u)
    .refine((text) => text.isWellFormed())

const email = line(254).regex(/^[^\s@]+@[^\s@]+$/)
const pictureUrl = line(2048).refine((text) => /^https?:$/.test(URL.parse(text)?.protocol ?? ''))
/** An issuer's number for a user: whole and positive, or its digits, or whatever text it uses instead. */
const subject = z
  .union([z.int().positive(), line(255).regex(/^\S+$/)])
  .transform((value) => subjectValue(String(value)))

const link = z.strictObject({ id: subject, access_token: line(8192).regex(/^\S+$/).optional() })
const fields = {
  name: line(256),
  picture_url: pictureUrl.optional(),
  github: link.optional(),
  facebook: link.optional(),
}

const newIdent = z.strictObject({ ...fields, email })
const patched = z.strictObject({ id: z.int(), ...fields, email: email.optional() })
const userId = z
  .int()
  .positive()
  .max(2 ** 31 - 1)
const query = z
  .strictObject({
    user_id: userId.optional(),
    email: line(254).optional(),
    github_id: subject.optional(),
    facebook_id: subject.optional(),
  })
  .refine((fields) => Object.values(fields).some((value) => value !== undefined))
const operation = z.object({
  op: z.enum(['add', 'remove', 'replace', 'move', 'copy', 'test']),
  path: z.string().max(1024),
  from: z.string().max(1024).optional(),
  value: z.unknown().optional(),
})
const operations = z.array(operation).min(1).max(100)

/** One operation of JSON Patch (RFC 6902, section 4). */
export type PatchOperation = z.infer<typeof operation>
/** Which user is meant: all that is given must be theirs. */
export type IdentQuery = z.infer<typeof query>

/** @throws {IdentError} `bad_request` */
export function readNewIdent(value: unknown): NewIdent {
  const read = check(newIdent, value, 'bad_request')
  if (SERVICES.every((service) => read[service] === undefined)) {
    throw new IdentError('bad_request', 'a user needs a github or facebook identity')
  }
  return read as NewIdent
}

/** @throws {IdentError} `bad_request` */
export const readQuery = (value: unknown): IdentQuery => check(query, value, 'bad_request')

/** @throws {IdentError} `bad_request` */
export const readUserId = (value: unknown): number => check(userId, value, 'bad_request')

/** @throws {IdentError} `bad_request` */
export const readOperations = (value: unknown): PatchOperation[] => check(operations, value, 'bad_request')

/** What became of a user by a patch. @throws {IdentError} `invalid_patch_result` */
export const readPatched = (value: unknown): IdentDocument =>
  check(patched, value, 'invalid_patch_result') as IdentDocument

/** An issuer's name of a user, as it is kept. */
export function subjectText(id: number | string): string {
  return String(id)
}

/** An issuer's name of a user, as callers have always got it: a number where it is one. */
export function subjectValue(text: string): number | string {
  const number = Number(text)
  return /^[1-9]\d*$/.test(text) && Number.isSafeInteger(number) ? number : text
}

function check<T extends z.ZodType>(
  schema: T,
  value: unknown,
  code: 'bad_request' | 'invalid_patch_result',
): z.infer<T> {
  const { success, data, error } = schema.safeParse(value)
  if (success) return data
  // Where it is wrong, without what is there.
  const path = error.issues[0]?.path.map(String).join('/') ?? ''
  throw new IdentError(code, `malformed${path === '' ? '' : `: ${path}`}`)
}
