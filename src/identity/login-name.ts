/** Names that are routes, or stand for somebody special, where a login may be. */
const RESERVED: ReadonlySet<string> = new Set([
  'anonymous',
  'introspect',
  'revoke',
  'token',
  'device_authorization',
  'x-access-token',
  '_jwt',
])

/** Is this a login as it is kept: 1 to 64 of `a-z 0-9 . _ -`, in lower case? */
export function isLogin(text: string): boolean {
  return /^[a-z0-9][a-z0-9._-]{0,63}$/.test(text) && !RESERVED.has(text)
}

/** The first of `wishes` that a login can be made of; an address gives what is in front of its @. */
export function loginFrom(wishes: readonly (string | undefined)[]): string {
  for (const wish of wishes) {
    const login = (wish ?? '')
      .normalize('NFKD')
      .replace(/\p{M}/gu, '')
      .replace(/@.*$/s, '')
      .toLowerCase()
      .replace(/[^a-z0-9._-]+/g, '-')
      .replace(/^[._-]+|[._-]+$/g, '')
      .slice(0, 56)
    if (isLogin(login)) return login
  }
  return 'user'
}

/** `bob`, `bob-2`, `bob-3`, … */
export function withNumber(login: string, number: number): string {
  return number === 1 ? login : `${login}-${number}`
}
