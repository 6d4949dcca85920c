import * as z from 'zod/mini'
import { readAtMost } from '../bounded-text.ts'
import { systemCode, TimoneError } from '../errors.ts'

/** Milliseconds that the server is waited for. */
const PATIENCE = 30_000
const MAX_ANSWER = 256 * 1024

const Device = z.object({
  device_code: z.string().check(z.minLength(1), z.maxLength(1000)),
  user_code: z.string().check(z.regex(/^[A-Za-z0-9-]{1,40}$/)),
  verification_uri: z.string().check(z.maxLength(2000)),
  verification_uri_complete: z.optional(z.string().check(z.maxLength(2000))),
  expires_in: z.number(),
  interval: z.optional(z.number()),
})
const Granted = z.object({
  access_token: z.string().check(z.minLength(1), z.maxLength(16_384)),
  username: z.string().check(z.minLength(1), z.maxLength(255)),
  expires_in: z.optional(z.number()),
})
const Refused = z.object({ error: z.string(), error_description: z.optional(z.string()) })
const Who = z.object({
  user: z.string(),
  name: z.nullable(z.string()),
  email: z.nullable(z.string()),
  scopes: z.nullable(z.array(z.string())),
  expires_at: z.nullable(z.string()),
  server: z.string(),
  time: z.optional(z.string()),
})

export type DeviceAnswer = z.infer<typeof Device>
export type WhoAnswer = z.infer<typeof Who>

/** What the commands of sign-in ask a server. Redirects are not followed: they could lead a token elsewhere. */
export class SignInClient {
  /** Without a slash at its end. */
  readonly base: string
  readonly #signal: AbortSignal | undefined

  constructor(base: string, signal?: AbortSignal) {
    this.base = base
    this.#signal = signal
  }

  /** Begins a sign-in in the browser; undefined: the server has none. */
  async beginDevice(client: string): Promise<DeviceAnswer | undefined> {
    const { status, json } = await this.#post('/oauth/device_authorization', { client_id: client })
    if (status === 404 || status === 405) return undefined
    const { data } = Device.safeParse(json)
    if (status !== 200 || data === undefined) throw this.#odd(status)
    for (const uri of [data.verification_uri, data.verification_uri_complete ?? data.verification_uri]) {
      if (!/^https?:\/\/[\x21-\x7e]+$/.test(uri)) throw this.#odd(status)
    }
    return data
  }

  /** The token, or how OAuth spells that there is none (yet). */
  async pollDevice(client: string, deviceCode: string): Promise<z.infer<typeof Granted> | { error: string }> {
    const { status, json } = await this.#post('/oauth/token', {
      grant_type: 'urn:ietf:params:oauth:grant-type:device_code',
      client_id: client,
      device_code: deviceCode,
    })
    const { data } = Granted.safeParse(json)
    if (status === 200 && data !== undefined) return data
    const refused = Refused.safeParse(json).data
    if (refused === undefined) throw this.#odd(status)
    return refused
  }

  /** Whose token it is. Undefined: the server does not take it. `user` undefined: whoever it names. */
  async whoAmI(token: string, user?: string): Promise<WhoAnswer | undefined> {
    const authorization =
      user === undefined ? `Bearer ${token}` : `Basic ${Buffer.from(`${user}:${token}`).toString('base64')}`
    const { status, json } = await this.#ask('/auth/whoami', { headers: { authorization } })
    if (status === 401) return undefined
    const { data } = Who.safeParse(json)
    if (status !== 200 || data === undefined) throw this.#odd(status)
    return data
  }

  async revoke(token: string): Promise<void> {
    const { status } = await this.#post('/oauth/revoke', { token })
    if (status !== 200) throw this.#odd(status)
  }

  #post(path: string, fields: Record<string, string>) {
    return this.#ask(path, { method: 'POST', body: new URLSearchParams(fields) })
  }

  async #ask(path: string, init: RequestInit): Promise<{ status: number; json: unknown }> {
    const limit = AbortSignal.timeout(PATIENCE)
    const signal = this.#signal === undefined ? limit : AbortSignal.any([limit, this.#signal])
    let status: number
    let text: string | undefined
    try {
      const response = await fetch(this.base + path, { ...init, redirect: 'manual', signal })
      status = response.status
      text = await readAtMost(response, MAX_ANSWER)
    } catch (error) {
      if (this.#signal?.aborted === true) throw new TimoneError('cancelled', 'interrupted')
      const reason = systemCode(error) ?? (limit.aborted ? 'no answer in 30 s' : 'unknown reason')
      const message = `${this.base} cannot be reached (${reason}): check the address and your network`
      throw new TimoneError('connection', message, { cause: error })
    }
    if (text === undefined) throw this.#odd(status)
    try {
      return { status, json: JSON.parse(text) }
    } catch {
      return { status, json: undefined }
    }
  }

  #odd(status: number): TimoneError {
    if (status === 429 || status >= 500)
      return new TimoneError(
        'unavailable',
        `${this.base} is busy or cannot sign anybody in now (HTTP ${status}): try again later`,
      )
    return new TimoneError(
      'invalid',
      `${this.base} does not answer as a timone server does (HTTP ${status}): check the address`,
    )
  }
}
