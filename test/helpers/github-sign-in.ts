import { randomBytes } from 'node:crypto'
import { createServer, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'

/**
 * GitHub's web flow for OAuth Apps on loopback, as docs.github.com ("Authorizing OAuth apps") has it: whoever comes is
 * let in as `user`; errors of the token endpoint come with 200; there is no ID token.
 */
export interface FakeGithubSignIn {
  url: string
  clientId: string
  clientSecret: string
  /** Who sits at the browser. */
  user: { id: number; login: string; name: string }
  /** Answers in place of `/user`. */
  answer: ((response: ServerResponse) => void) | undefined
  /** Scopes that were asked for. */
  scopes: (string | null)[]
  close(): Promise<void>
}

export async function startGithubSignIn(): Promise<FakeGithubSignIn> {
  const codes = new Map<string, { redirectUri: string; user: FakeGithubSignIn['user'] }>()
  const tokens = new Map<string, FakeGithubSignIn['user']>()
  const server = createServer(async (request, response) => {
    const url = new URL(request.url ?? '', github.url)
    const json = (status: number, body: unknown) =>
      response
        .writeHead(status, { 'content-type': 'application/json; charset=utf-8' })
        .end(JSON.stringify(body))
    if (url.pathname === '/login/oauth/authorize') {
      const redirectUri = url.searchParams.get('redirect_uri') ?? ''
      github.scopes.push(url.searchParams.get('scope'))
      const code = randomBytes(10).toString('hex')
      codes.set(code, { redirectUri, user: github.user })
      const back = new URL(redirectUri)
      back.searchParams.set('code', code)
      back.searchParams.set('state', url.searchParams.get('state') ?? '')
      return void response.writeHead(302, { location: back.href }).end()
    }
    if (url.pathname === '/login/oauth/access_token') {
      let body = ''
      for await (const chunk of request) body += chunk
      const form = new URLSearchParams(body)
      const code = codes.get(form.get('code') ?? '')
      codes.delete(form.get('code') ?? '')
      if (form.get('client_secret') !== github.clientSecret)
        return void json(200, { error: 'incorrect_client_credentials', error_description: 'no' })
      if (code === undefined || code.redirectUri !== form.get('redirect_uri'))
        return void json(200, { error: 'bad_verification_code', error_description: 'no' })
      const token = `gho_${randomBytes(18).toString('hex')}`
      tokens.set(token, code.user)
      return void json(200, { access_token: token, scope: '', token_type: 'bearer' })
    }
    if (github.answer !== undefined) return github.answer(response)
    const user = tokens.get(/^Bearer (.+)$/i.exec(request.headers.authorization ?? '')?.[1] ?? '')
    if (url.pathname !== '/user' || user === undefined) return void json(401, { message: 'Bad credentials' })
    json(200, { ...user, node_id: 'x', type: 'User', email: null })
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const github: FakeGithubSignIn = {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    clientId: 'Ov23client',
    clientSecret: 'the secret of the oauth app',
    user: { id: 583231, login: 'octocat', name: 'The Octocat' },
    answer: undefined,
    scopes: [],
    close: async () => {
      server.closeAllConnections()
      await new Promise((resolve) => server.close(resolve))
    },
  }
  return github
}
