import { TimoneError } from '../errors.ts'

/** A provider at which users connect accounts of theirs. */
export interface ProviderSettings {
  /** In paths and scopes: lower-case letters, digits, `-` and `_`. */
  readonly id: string
  /** Address of an OpenID provider, or of its discovery document. Undefined: the endpoints are set one by one. */
  readonly issuer?: string
  /** Of a plain OAuth 2.0 provider (RFC 8414, section 2). */
  readonly authorizationEndpoint?: string
  readonly tokenEndpoint?: string
  readonly revocationEndpoint?: string
  /** Says who a token of a plain OAuth 2.0 provider is for; at GitHub `https://api.github.com/user`. */
  readonly userinfoEndpoint?: string
  /** Users may link their account there, and then sign in with it. */
  readonly signIn: boolean
  readonly clientId: string
  readonly clientSecret?: string
  readonly scope: string
  /** For people; `tokenstore` calls them metadata. */
  readonly name?: string
  readonly url?: string
  readonly icon?: string
  readonly description?: string
  readonly logo?: string
}

/** Key of `[provider.NAME]` in the TOML file, and the end of the variable that tokenstore had for it. */
const KEYS = {
  issuer: 'DISCOVERY_URL',
  authorization_endpoint: 'AUTHORIZATION_ENDPOINT',
  token_endpoint: 'TOKEN_ENDPOINT',
  revocation_endpoint: 'REVOCATION_ENDPOINT',
  userinfo_endpoint: 'USERINFO_ENDPOINT',
  sign_in: 'SIGN_IN',
  client_id: 'CLIENT_ID',
  client_secret: 'CLIENT_SECRET',
  scope: 'SCOPE',
  name: 'MD_NAME',
  url: 'MD_URL',
  icon: 'MD_ICON',
  description: 'MD_DESCRIPTION',
  logo: 'MD_LOGO',
} as const

/** Places in the TOML file; `*` stands for the provider's name. */
export const PROVIDER_PATHS: readonly string[] = Object.keys(KEYS).map((key) => `provider.*.${key}`)

/** Names that paths under `/api/v1.0/`, or other sources of leases, already have. */
const TAKEN = new Set(['authorizations', 'github', 'oidc', 'sts', 'whoami'])

/**
 * Reads the providers of `[provider.NAME]`, and those that tokenstore's variables name (`TOKEN_PROVIDERS` and
 * `NAME_CLIENT_ID` …, or the same after `TOKENSTORE_`).
 * @param inFile settings of the TOML file by their path
 * @throws {TimoneError} `config`
 */
export function readProviders(
  inFile: ReadonlyMap<string, string>,
  env: Readonly<Record<string, string | undefined>>,
): readonly ProviderSettings[] {
  const variable = (name: string): string | undefined => env[`TOKENSTORE_${name}`] || env[name] || undefined
  const named = (variable('TOKEN_PROVIDERS') ?? '').split(',').map((name) => name.trim().toLowerCase())
  const filed = [...inFile.keys()].flatMap((path) => /^provider\.([^.]+)\./.exec(path)?.[1] ?? [])
  const ids = [...new Set([...named, ...filed])].filter((id) => id !== '')
  return Object.freeze(
    ids.map((id) => {
      const values = Object.entries(KEYS).map(([key, end]) => {
        const text = inFile.get(`provider.${id}.${key}`)
        const [, reference] = /^env:(.+)$/.exec(text ?? '') ?? []
        const value = reference === undefined ? text : env[reference]
        if (reference !== undefined && !value)
          throw new TimoneError(
            'config',
            `provider.${id}.${key} names the environment variable ${reference}, which is not set`,
          )
        return [key, value ?? variable(`${id.toUpperCase().replaceAll('-', '_')}_${end}`)] as const
      })
      return build(id, Object.fromEntries(values))
    }),
  )
}

type AddressKey = 'issuer' | `${'authorization' | 'token' | 'revocation' | 'userinfo'}_endpoint`

function build(id: string, values: Partial<Record<keyof typeof KEYS, string | undefined>>): ProviderSettings {
  const wrong = (what: string): TimoneError => new TimoneError('config', `provider ${id}: ${what}`)
  if (!/^[a-z0-9][a-z0-9_-]{0,62}$/.test(id))
    throw wrong('its name must be lower-case letters, digits, - and _')
  if (TAKEN.has(id)) throw wrong('this name is taken: choose another, such as my-github')
  const address = (key: AddressKey) => {
    const url = values[key] === undefined ? undefined : URL.parse(values[key])
    if (url === undefined) return {}
    const plain = url?.protocol === 'http:' && /^(localhost|127(\.\d+){3}|\[::1\])$/.test(url.hostname)
    if (url === null || (url.protocol !== 'https:' && !plain))
      throw wrong(`${key} must be an https address, or http on loopback`)
    return { [key.replace(/_(.)/g, (_, letter: string) => letter.toUpperCase())]: values[key] }
  }
  const { client_id: clientId, client_secret: clientSecret, name, url, icon, description, logo } = values
  if (clientId === undefined) throw wrong('client_id is missing')
  const isPlain = values.authorization_endpoint !== undefined && values.token_endpoint !== undefined
  if (values.issuer === undefined && !isPlain)
    throw wrong('set issuer, or authorization_endpoint and token_endpoint of a plain OAuth 2.0 provider')
  if (values.sign_in !== undefined && values.sign_in !== 'true' && values.sign_in !== 'false')
    throw wrong('sign_in must be true or false')
  const signIn = values.sign_in === 'true'
  if (signIn && values.issuer === undefined && values.userinfo_endpoint === undefined)
    throw wrong('sign_in needs issuer, or userinfo_endpoint of a plain OAuth 2.0 provider')
  const given = { clientSecret, name, url, icon, description, logo }
  return Object.freeze({
    id,
    clientId,
    signIn,
    scope: values.scope ?? (values.issuer === undefined ? '' : 'openid email offline_access'),
    ...address('issuer'),
    ...address('authorization_endpoint'),
    ...address('token_endpoint'),
    ...address('revocation_endpoint'),
    ...address('userinfo_endpoint'),
    ...Object.fromEntries(Object.entries(given).filter(([, value]) => value !== undefined)),
  })
}
