import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'

/** What one token may see and do, by `owner/name`. */
export interface GithubAccount {
  /** Undefined: a token of a job, which is nobody's. */
  login?: string
  repositories: Record<string, { pull: boolean; push: boolean }>
}

/**
 * GitHub's REST API on loopback, as its documentation has it: `GET /repos/{owner}/{repo}` and `GET /user` with a token,
 * 401 for a bad one, 404 for what it may not see, 301 for what has moved, limits by 403 with `x-ratelimit-*`.
 */
export interface FakeGithub {
  url: string
  accounts: Map<string, GithubAccount>
  /** Old name to the id of what has moved. */
  moved: Map<string, string>
  /** Answers with this instead. */
  broken: { status: number; headers?: Record<string, string>; body?: string } | undefined
  requests: { path: string; authorization: string | undefined }[]
  stop(): Promise<void>
}

export async function startGithub(): Promise<FakeGithub> {
  const server = createServer((request, response) => {
    const path = new URL(request.url ?? '', github.url).pathname
    const { authorization } = request.headers
    github.requests.push({ path, authorization })
    const json = (status: number, body: unknown, headers: Record<string, string> = {}): void => {
      response
        .writeHead(status, { 'content-type': 'application/json; charset=utf-8', ...headers })
        .end(JSON.stringify(body))
    }
    const { broken } = github
    if (broken !== undefined) {
      response.writeHead(broken.status, broken.headers).end(broken.body ?? '{"message":"broken"}')
      return
    }
    if (request.headers['user-agent'] === undefined) return json(403, { message: 'User-Agent required' })
    const account = github.accounts.get(/^(?:Bearer|token) (.+)$/i.exec(authorization ?? '')?.[1] ?? '')
    if (account === undefined)
      return json(401, {
        message: 'Bad credentials',
        documentation_url: 'https://docs.github.com/rest',
        status: '401',
      })
    if (path === '/user') {
      return account.login === undefined
        ? json(403, { message: 'Resource not accessible by integration' })
        : json(200, { login: account.login, id: 1, type: 'User' })
    }
    const name = /^\/repos\/([^/]+\/[^/]+)$/.exec(path)?.[1] ?? ''
    const id = github.moved.get(name)
    if (id !== undefined)
      return json(301, { message: 'Moved Permanently' }, { location: `${github.url}/repositories/${id}` })
    const found = account.repositories[name]
    if (found === undefined) return json(404, { message: 'Not Found', status: '404' })
    json(200, {
      id: 74,
      name: name.split('/')[1],
      full_name: name,
      private: true,
      permissions: { admin: false, maintain: false, triage: found.push, ...found },
    })
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const github: FakeGithub = {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    accounts: new Map(),
    moved: new Map(),
    broken: undefined,
    requests: [],
    stop: () =>
      new Promise((resolve) => {
        server.closeAllConnections()
        server.close(() => resolve())
      }),
  }
  return github
}
