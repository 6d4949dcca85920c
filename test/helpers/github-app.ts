import { createPublicKey, generateKeyPairSync, type KeyObject, randomBytes, verify } from 'node:crypto'
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'

/** One access token that was asked for, as GitHub saw it. */
export interface Mint {
  app: string
  installation: number
  repositories: string[]
  permissions: Record<string, string> | undefined
  token: string
}

export interface FakeGitHub {
  /** For `github.api`. */
  api: string
  /** Registers an app, installed on `repositories` (`ns/repo`); gives its private key. */
  app(id: string, repositories: readonly string[], type?: 'pkcs1' | 'pkcs8'): string
  mints: Mint[]
  /** How many requests came, of whatever kind. */
  requests: number
  /** Answers in place of the next requests, until undefined again. */
  override: ((request: IncomingMessage, response: ServerResponse) => void) | undefined
  /** Milliseconds that its clock is ahead. */
  skew: number
  close(): Promise<void>
}

/**
 * The two endpoints of GitHub that apps need, on loopback. Checks what GitHub checks: the JWT's signature, that `iat` is
 * past and `exp` at most ten minutes ahead, and that the installation has the repositories in the body.
 */
export async function startFakeGitHub(): Promise<FakeGitHub> {
  const apps = new Map<string, { key: KeyObject; installation: number; repositories: readonly string[] }>()
  let installations = 4711

  const appOf = (request: IncomingMessage): string | undefined => {
    const [head = '', body = '', signature = ''] = (request.headers.authorization ?? '')
      .replace(/^Bearer /, '')
      .split('.')
    const decode = (part: string) => JSON.parse(Buffer.from(part, 'base64url').toString())
    const claims = decode(body) as { iss: string; iat: number; exp: number }
    const app = apps.get(claims.iss)
    const now = (Date.now() + github.skew) / 1000
    if (app === undefined || decode(head).alg !== 'RS256') return undefined
    if (!verify('sha256', Buffer.from(`${head}.${body}`), app.key, Buffer.from(signature, 'base64url')))
      return undefined
    if (claims.iat > now || claims.exp <= now || claims.exp > now + 600) return undefined
    return claims.iss
  }

  const answer = (response: ServerResponse, status: number, body: object): void => {
    const date = new Date(Date.now() + github.skew).toUTCString()
    response.writeHead(status, { 'Content-Type': 'application/json', Date: date }).end(JSON.stringify(body))
  }

  const server = createServer(async (request, response) => {
    github.requests++
    if (github.override !== undefined) return github.override(request, response)
    const id = appOf(request)
    const app = id === undefined ? undefined : apps.get(id)
    if (id === undefined || app === undefined)
      return answer(response, 401, { message: 'A JSON web token could not be decoded' })
    const [, repository] = /^\/repos\/([^/]+\/[^/]+)\/installation$/.exec(request.url ?? '') ?? []
    if (request.method === 'GET' && repository !== undefined) {
      if (!app.repositories.includes(repository.toLowerCase()))
        return answer(response, 404, { message: 'Not Found' })
      return answer(response, 200, { id: app.installation })
    }
    if (request.method === 'POST' && request.url === `/app/installations/${app.installation}/access_tokens`) {
      const chunks: Buffer[] = []
      for await (const chunk of request) chunks.push(chunk as Buffer)
      const body = JSON.parse(Buffer.concat(chunks).toString()) as Pick<Mint, 'repositories' | 'permissions'>
      const names = app.repositories.map((name) => name.split('/')[1])
      if (!body.repositories.every((name) => names.includes(name)))
        return answer(response, 422, { message: 'There is at least one repository that does not exist' })
      // As long as GitHub's have been since 2026.
      const token = `ghs_${id}_${randomBytes(386).toString('base64url')}`
      github.mints.push({ app: id, installation: app.installation, ...body, token })
      const expires = new Date(Date.now() + github.skew + 3_600_000).toISOString()
      return answer(response, 201, { token, expires_at: expires, permissions: body.permissions ?? {} })
    }
    return answer(response, 404, { message: 'Not Found' })
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))

  const github: FakeGitHub = {
    api: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    mints: [],
    requests: 0,
    override: undefined,
    skew: 0,
    app(id, repositories, type = 'pkcs1') {
      const { privateKey } = generateKeyPairSync('rsa', { modulusLength: 2048 })
      apps.set(id, { key: createPublicKey(privateKey), installation: installations++, repositories })
      return privateKey.export({ type, format: 'pem' }).toString()
    },
    close: () =>
      new Promise((resolve) => {
        server.close(() => resolve())
        server.closeAllConnections()
      }),
  }
  return github
}
