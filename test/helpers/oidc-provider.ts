import { generateKeyPairSync } from 'node:crypto'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { Provider } from 'oidc-provider'

export interface TestOidcProvider {
  /** Also the address that it is found at. */
  issuer: string
  clientId: string
  clientSecret: string
  /** The client may be sent back there from now on. */
  allowRedirect(uri: string): void
  /** What the token endpoint was asked for and answered, in order: `refresh_token ok`, `authorization_code invalid_grant`. */
  grants: string[]
  /** Refuses connections from now on. */
  close(): Promise<void>
}

export interface TestOidcProviderOptions {
  clientId?: string
  clientSecret?: string
  /** Claims besides `sub` of whoever signs in with that login; any login and password are let in. */
  claims?: Readonly<Record<string, Readonly<Record<string, unknown>>>>
  /** Each refresh gives a new refresh token, and using the old one again ends the whole family. Default: true. */
  rotateRefreshToken?: boolean
  /** Gives a refresh token also without `offline_access`. */
  alwaysRefreshToken?: boolean
  /** Seconds that access tokens live. */
  accessTokenTtl?: number
}

/** A real OpenID provider on loopback. Its pages: any login, any password, then one button to consent. */
export async function startOidcProvider(options: TestOidcProviderOptions = {}): Promise<TestOidcProvider> {
  const { clientId = 'timone', clientSecret = 'the secret of the tests client', claims = {} } = options
  let answer: ReturnType<Provider['callback']> = (_request, response) => void response.writeHead(503).end()
  const server = createServer((request, response) => answer(request, response))
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const issuer = `http://127.0.0.1:${(server.address() as AddressInfo).port}`
  const key = generateKeyPairSync('rsa', { modulusLength: 2048 }).privateKey.export({ format: 'jwk' })
  const provider = new Provider(issuer, {
    clients: [
      {
        client_id: clientId,
        client_secret: clientSecret,
        redirect_uris: ['https://client.invalid/callback'],
        grant_types: ['authorization_code', 'refresh_token'],
        token_endpoint_auth_method: 'client_secret_basic',
      },
    ],
    jwks: { keys: [{ ...key, use: 'sig', alg: 'RS256', kid: 'test' }] },
    cookies: { keys: ['cookies of the tests'] },
    scopes: ['openid', 'email', 'profile', 'groups', 'offline_access'],
    claims: {
      openid: ['sub'],
      email: ['email', 'email_verified'],
      profile: ['name', 'preferred_username', 'picture'],
      groups: ['groups'],
    },
    // Claims in the ID token too, as most providers have them.
    conformIdTokenClaims: false,
    features: { devInteractions: { enabled: true }, revocation: { enabled: true } },
    findAccount: (_context: unknown, sub: string) => ({
      accountId: sub,
      claims: () => ({ sub, ...(claims[sub] ?? { preferred_username: sub, name: sub }) }),
    }),
    rotateRefreshToken: options.rotateRefreshToken ?? true,
    ...(options.alwaysRefreshToken ? { issueRefreshToken: () => true } : {}),
    ttl: {
      AccessToken: options.accessTokenTtl ?? 3600,
      AuthorizationCode: 60,
      Grant: 86_400,
      IdToken: 3600,
      Interaction: 600,
      RefreshToken: 86_400,
      Session: 86_400,
    },
  })
  const redirects = new Set<string>()
  provider.Client.prototype.redirectUriAllowed = (uri) => redirects.has(uri)
  const grants: string[] = []
  const note = (context: { oidc?: { params?: { grant_type?: string } } }, error?: { error?: string }) =>
    grants.push(`${context.oidc?.params?.grant_type} ${error?.error ?? 'ok'}`)
  provider.on('grant.success', note as never)
  provider.on('grant.error', note as never)
  answer = provider.callback()
  return {
    issuer,
    clientId,
    clientSecret,
    grants,
    allowRedirect: (uri) => void redirects.add(uri),
    close: () =>
      new Promise((resolve) => {
        server.close(() => resolve())
        server.closeAllConnections()
      }),
  }
}
